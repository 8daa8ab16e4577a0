"""One Weights & Biases run for one run of ours, whatever happens to W&B meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from manifoldgd.errors import require
from manifoldgd.tracking.account import api_key
from manifoldgd.tracking.tracker import Columns

MODES = ("auto", "online", "offline")
INIT_SECONDS = 30.0  # until a server that does not answer counts as unreachable
FINISH_SECONDS = 60.0  # until an upload that does not end is left to `wandb sync`


class WandbTracker:
    """One Weights & Biases run a job, also when several jobs share a process.

    A server that cannot be reached at the start makes the run an offline one. One that fails later, or a wandb that
    raises, is told of in one line, and the run goes on without it; wandb's own folder then holds what came before.

    Args:
        project: W&B project.
        entity: W&B user or team; ``None`` for the default one.
        group: ``None`` to group by table or sweep, or by dataset outside of them.
        mode: ``auto`` is online with an API key and offline without; ``online`` insists on the key.
        folder: where W&B puts its own folder.

    Raises:
        UserError: the mode is unknown, or ``online`` without a key.
    """

    def __init__(self, *, project: str, entity: str | None, group: str | None, mode: str, folder: str) -> None:
        require(mode in MODES, f"logger.mode: expected one of {', '.join(MODES)}, got {mode!r}")
        require(
            mode != "online" or api_key() is not None,
            "logger.mode: online needs a W&B API key and none was found; run `wandb login`, set WANDB_API_KEY, "
            "or use logger.mode=offline or logger=none",
        )
        self.project, self.entity, self.group = project, entity, group
        self.mode = ("online" if api_key() else "offline") if mode == "auto" else mode
        self.folder = folder
        self.run: Any = None
        self.online = False  # whether the open run reaches a server

    @property
    def url(self) -> str | None:
        """Where the open run can be looked at; ``None`` offline and outside a run."""
        return self.run.url if self.run is not None and self.online else None

    def start(
        self, *, name: str, group: str, job_type: str, config: Mapping[str, Any], run_id: str | None = None
    ) -> None:
        """Open a run of its own, whatever an earlier job of this process left open."""
        facts = {"name": name, "group": self.group or group, "job_type": job_type, "config": dict(config), "id": run_id}
        if self.mode != "online":
            self._try("cannot record", lambda: self._open(self.mode, facts))
            return
        self._try("cannot be reached", lambda: self._open("online", facts), otherwise="the run is recorded offline")
        if self.run is None:
            self._try("cannot record", lambda: self._open("offline", facts))

    def _open(self, mode: str, facts: dict[str, Any]) -> None:
        import wandb

        folder = Path(self.folder).absolute()  # wandb's service may have been started elsewhere
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(folder),
            mode=mode,
            resume="allow" if facts["id"] and mode == "online" else None,
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
            **facts,
        )
        self.online = mode == "online"
        self.run.define_metric("*", step_metric="epoch")

    def student_logger(self, seed: int) -> Any:
        """Curves of one student over its epochs, under ``student/<seed>/``."""
        from manifoldgd.tracking.curves import CurveLogger

        return CurveLogger(self.log, version=seed)

    def log(self, values: Mapping[str, Any]) -> None:
        """One point of the curves."""
        if self.run is not None:
            self._try("takes no more curves", lambda: self.run.log(dict(values)))

    def finish(
        self, *, summary: Mapping[str, Any], tables: Mapping[str, Columns], images: Mapping[str, Image.Image]
    ) -> None:
        """Set the summary, log pictures and tables."""

        def record() -> None:
            import wandb

            self.run.summary.update(dict(summary))
            self.run.log({name: wandb.Image(image) for name, image in images.items()})
            for name, columns in tables.items():  # last: online, wandb asks the server about each, and waits
                rows = [list(row) for row in zip(*columns.values(), strict=True)]
                self.run.log({name: wandb.Table(columns=list(columns), data=rows)})

        if self.run is not None:
            self._try("takes no result", record)

    def close(self, exit_code: int) -> None:
        """Finish the run; say how to upload what has not been."""
        if self.run is None:
            return
        run, self.run = self.run, None
        folder = Path(run.dir).parent
        upload = f"upload with `wandb sync {os.path.relpath(folder)}`"
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # whatever wandb raises, the result is on disk
            print(f"W&B: not everything was uploaded ({_reason(error)}); {upload}")
            return
        if not self.online:
            print(f"W&B: recorded offline; {upload}")

    def _try(self, failure: str, act: Callable[[], None], *, otherwise: str = "results are on disk") -> None:
        """Do something with wandb; if it raises, whatever it raises, say so and have no more to do with its run."""
        try:
            act()
        except Exception as error:
            print(f"W&B: {failure} ({_reason(error)}); {otherwise}")
            self.close(1)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
