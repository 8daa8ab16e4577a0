"""Where curves and pictures go while a run is under way. The only module that imports wandb."""

from __future__ import annotations

import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from PIL import Image

from manifoldgd.errors import require

MODES = ("auto", "online", "offline")


class Tracker(Protocol):
    """What a run reports to."""

    def start(self, *, name: str, group: str, config: dict[str, Any]) -> None:
        """Open one run."""
        ...

    def student_logger(self, seed: int) -> Any:
        """A Lightning logger for the student of ``seed``, or ``False``."""
        ...

    def finish(self, *, summary: dict[str, float], table: dict[str, list[Any]], grid: Image.Image) -> None:
        """Record the result."""
        ...

    def close(self, exit_code: int) -> None:
        """End the run, also after an error."""
        ...


class NoTracker:
    """Results on disk only."""

    def start(self, *, name: str, group: str, config: dict[str, Any]) -> None:
        """Do nothing."""

    def student_logger(self, seed: int) -> Any:
        """No logger."""
        return False

    def finish(self, *, summary: dict[str, float], table: dict[str, list[Any]], grid: Image.Image) -> None:
        """Do nothing."""

    def close(self, exit_code: int) -> None:
        """Do nothing."""


class WandbTracker:
    """One Weights & Biases run a job, also when several jobs share a process.

    Args:
        project: W&B project.
        entity: W&B user or team; ``None`` for the default one.
        group: ``None`` to group by sweep, or by dataset outside a sweep.
        mode: ``auto`` is online with an API key and offline without; ``online`` insists on the key.
        folder: where W&B puts its own folder.

    Raises:
        UserError: the mode is unknown, or ``online`` without a key.
    """

    def __init__(self, *, project: str, entity: str | None, group: str | None, mode: str, folder: str) -> None:
        require(mode in MODES, f"logger.mode: expected one of {', '.join(MODES)}, got {mode!r}")
        require(
            mode != "online" or _has_key(),
            "logger.mode: online needs a W&B API key and none was found; run `wandb login`, set WANDB_API_KEY, "
            "or use logger.mode=offline or logger=none",
        )
        self.project, self.entity, self.group = project, entity, group
        self.mode = ("online" if _has_key() else "offline") if mode == "auto" else mode
        self.folder = folder
        self.run: Any = None

    def start(self, *, name: str, group: str, config: dict[str, Any]) -> None:
        """Open a run of its own, whatever an earlier job of this process left open."""
        import wandb

        Path(self.folder).mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or group,
            name=name,
            config=config,
            dir=self.folder,
            mode=self.mode,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric("*", step_metric="epoch")

    def student_logger(self, seed: int) -> Any:
        """Curves of one student, under ``student-<seed>/``."""
        from lightning.pytorch.loggers import WandbLogger

        return WandbLogger(experiment=self.run, prefix=f"student-{seed}")

    def finish(self, *, summary: dict[str, float], table: dict[str, list[Any]], grid: Image.Image) -> None:
        """Log the grid and the table and set the summary."""
        import wandb

        rows = [list(row) for row in zip(*table.values(), strict=True)]
        self.run.log({"set": wandb.Image(grid), "students": wandb.Table(columns=list(table), data=rows)})
        self.run.summary.update(summary)

    def close(self, exit_code: int) -> None:
        """Finish the run; offline, say how to upload it."""
        if self.run is None:
            return
        folder = Path(self.run.dir).parent
        self.run.finish(exit_code=exit_code)
        self.run = None
        if self.mode == "offline":
            print(f"W&B: recorded offline; upload with `wandb sync {os.path.relpath(folder)}`")


def _has_key() -> bool:
    """Whether wandb would find an API key: in the environment or in the netrc file that ``wandb login`` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        entry = netrc(os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())).authenticators(host)
    except (OSError, NetrcParseError):  # a missing or broken netrc must not stop an offline run
        return False
    return entry is not None
