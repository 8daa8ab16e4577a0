"""One Weights & Biases run for one run of ours, whatever happens to W&B meanwhile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from manifoldgd.errors import require
from manifoldgd.tracking.tracker import EPOCH, GUIDANCE_STEP, RunFacts, RunResult, Tracker, reason

MODES = ("auto", "online", "offline")
INIT_SECONDS = 30.0  # until a server that does not answer counts as unreachable
ON_DISK = "results are on disk"
FINISH_SECONDS = 60.0  # until an upload that does not end is left to `wandb sync`


def has_account() -> bool:
    """Whether wandb finds credentials for its server, wherever it looks for them; asks neither people nor the server.

    ``WANDB_MODE=offline`` counts as none, and so do credentials that wandb finds malformed, which it says.
    """
    import wandb

    if wandb.run is not None:  # wandb looks for credentials between runs only
        return not wandb.run.offline
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        return wandb.login(prompt=False, verify=False)
    except Exception as error:  # whatever wandb raises, a run does not need an account
        print(f"W&B: these credentials cannot be used ({reason(error)}); `wandb login` replaces them")
        return False


class WandbTracker(Tracker):
    """One Weights & Biases run a job, also when several jobs share a process.

    A server that cannot be reached at the start makes the run an offline one. One that fails later, or a wandb that
    raises, is told of in one line, and the run goes on without it; wandb's own folder then holds what came before.

    Args:
        project: W&B project.
        entity: W&B user or team; ``None`` for the default one.
        group: ``None`` to group by table or sweep, or by dataset outside of them.
        mode: ``auto`` is online with an account and offline without; ``online`` insists on the account.
        folder: where W&B puts its own folder.
        sets: whether distilled sets are recorded as artifacts, and uploaded.

    Raises:
        UserError: the mode is unknown, or ``online`` without an account.
    """

    def __init__(
        self, *, project: str, entity: str | None, group: str | None, mode: str, folder: str, sets: bool
    ) -> None:
        require(mode in MODES, f"expected one of {', '.join(MODES)}, got {mode!r}", key="mode")
        require(
            mode != "online" or has_account(),
            "online needs a W&B API key and none was found; run `wandb login`, set WANDB_API_KEY, "
            "or set it to offline, or choose logger=none",
            key="mode",
        )
        self.project, self.entity, self.group = project, entity, group
        self.mode, self.folder, self.sets = mode, folder, sets
        self.run: Any = None
        self.online = False  # whether the open run reaches a server
        self.logged: set[str] = set()  # names of the open run's curves that were drawn while they grew

    @property
    def url(self) -> str | None:
        return self.run.url if self.run is not None and self.online else None

    def start(self, run: RunFacts) -> None:
        """Open the run of this id, whatever an earlier job of this process left open.

        An id that the server knows continues its run. Offline, each try has a folder of its own under the same id, so
        ``wandb sync`` leads to the one run.
        """
        facts = {
            "name": run.name,
            "group": self.group or run.group,
            "job_type": run.job_type,
            "config": dict(run.config),
            "id": run.run_id,
            "tags": list(run.tags),
        }
        self.logged = set()
        if self.mode == "online" or (self.mode == "auto" and has_account()):
            unreached = "the run is recorded offline"
            self._try("W&B: cannot be reached", lambda: self._open("online", facts), otherwise=unreached)
        if self.run is None:
            self._try("W&B: cannot record", lambda: self._open("offline", facts), otherwise=ON_DISK)

    def _open(self, mode: Literal["online", "offline"], facts: dict[str, Any]) -> None:
        import wandb

        folder = Path(self.folder).absolute()  # wandb's service may have been started elsewhere
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(folder),
            mode=mode,
            resume="allow",
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
        self.run.define_metric("student/*", step_metric=EPOCH)
        for share in ("ratio", "kept"):
            self.run.define_metric(f"guidance/{share}", step_metric=GUIDANCE_STEP)

    def student_logger(self, seed: int) -> Any:
        """Curves of one student over its epochs, under ``student/<seed>/``."""
        from manifoldgd.tracking.loggers import CurveLogger

        return CurveLogger(self.log, version=seed)

    def log(self, values: Mapping[str, Any]) -> None:
        """One point of the curves."""
        if self.run is not None:
            self.logged.update(values)
            self._try("W&B: takes no more curves", lambda: self.run.log(dict(values)), otherwise=ON_DISK)

    def finish(self, result: RunResult) -> None:
        """Set the summary; log pictures, tables, the set, and the curves that did not grow in this process."""

        def record() -> None:
            import wandb

            for point in result.points:
                if not self.logged.intersection(point.keys() - {EPOCH, GUIDANCE_STEP}):
                    self.run.log(dict(point))
            self.run.summary.update(dict(result.summary))
            self.run.log({name: wandb.Image(image) for name, image in result.images.items()})
            if self.sets and result.set_folder is not None:
                made = wandb.Artifact(f"set-{self.run.id}", "distilled-set")
                made.add_dir(
                    str(result.set_folder), policy="immutable", skip_cache=True
                )  # or wandb copies every image twice
                self.run.log_artifact(made)
            for name, columns in result.tables.items():  # last: online, wandb asks the server about each, and waits
                rows = [list(row) for row in zip(*columns.values(), strict=True)]
                self.run.log({name: wandb.Table(columns=list(columns), data=rows)})

        if self.run is not None:
            self._try("W&B: takes no result", record, otherwise=ON_DISK)

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
            print(f"W&B: not everything was uploaded ({reason(error)}); {upload}")
            return
        if not self.online:
            print(f"W&B: recorded offline; {upload}")

    def _abandon(self) -> None:
        self.close(1)
