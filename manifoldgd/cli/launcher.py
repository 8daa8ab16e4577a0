"""Where the cells of a study run: in processes here, or wherever one of Hydra's launchers starts them.

A launcher works in a process of its own, on a multirun whose jobs start the cells' processes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from manifoldgd.cli.compose import composing, conf_dir
from manifoldgd.errors import require
from manifoldgd.study.definition import override
from manifoldgd.study.jobs import run_listed

if TYPE_CHECKING:  # workers of launchers import this module, and should not wait for torch
    from manifoldgd.study.board import Board
    from manifoldgd.study.run import Runner

FOLDER_VARIABLE = "MANIFOLDGD_SWEEP"  # of the study, by which jobs in other processes know it
# Where a launcher is told the number of processes at a time. Joblib and Ray would take all cores, Slurm decides where
# nobody asks.
JOBS_KEY = {
    "joblib": "hydra.launcher.n_jobs",
    "submitit_slurm": "hydra.launcher.array_parallelism",
    "ray": "++hydra.launcher.ray.init.num_cpus",  # of which each job takes one; not in the launcher's own configuration
}
ALL_AT_ONCE = ("submitit_local",)  # starts whatever it is given, so it is given a few at a time
ELSEWHERE = ("submitit_slurm",)  # jobs run on other machines than this one


@dataclass(frozen=True)
class Launching:
    """How cells are to be run."""

    jobs: int | None = None  # at a time; None: one a core, one in all on a GPU, as many as it likes on a cluster
    launcher: str | None = None  # of Hydra's group of launchers; None: processes here
    settings: tuple[str, ...] = ()  # overrides of the launcher's own

    @property
    def here(self) -> bool:
        """Whether cells run on this machine."""
        return self.launcher not in ELSEWHERE

    def at_once(self, *, on_cpu: bool) -> int:
        """Cells at a time on this machine. ``on_cpu``: whether they all run on the processor."""
        from manifoldgd.system import cores

        return self.jobs or (cores() if on_cpu else 1)

    def check(self) -> None:
        """Raise :class:`UserError` unless the launcher is installed and takes its settings."""
        if self.launcher is None:
            return
        with composing() as compose:
            installed = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
            require(
                self.launcher in installed,
                f"launcher: no Hydra launcher {self.launcher!r}, installed are {', '.join(sorted(installed))}; "
                "`pip install 'manifoldgd[launchers]'` brings joblib and submitit",
            )
            compose([f"hydra/launcher={self.launcher}", *self.settings], name="cells")

    def runner(self, board: Board, *, on_cpu: bool) -> Runner:
        """What runs the cells that are left on a board."""
        from manifoldgd.study.run import ONE_THREAD, Launched, Pool

        output, at_once = board.output, self.at_once(on_cpu=on_cpu)
        environment = {**ONE_THREAD, FOLDER_VARIABLE: str(output.absolute())}  # by which W&B groups their runs
        if self.launcher is None:
            return Pool(output, at_once, environment)
        everything = max(1, len(board.left))
        jobs = at_once if self.here else self.jobs
        limited = [f"{JOBS_KEY[self.launcher]}={jobs}"] if self.launcher in JOBS_KEY and jobs else []
        return Launched(
            output,
            [
                *(sys.executable, "-P", "-c", "from manifoldgd.cli.launcher import main; main()", "--multirun"),
                *(f"hydra/launcher={self.launcher}", *limited, *self.settings),
                override("output", str(output.absolute())),
            ],
            at_once=jobs or everything,
            room=at_once if self.launcher in ALL_AT_ONCE else everything,
            environment=environment,
        )


def main() -> None:
    """The launcher's process."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own report of an error leaves out what was wrong
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="cells")(_job)()


def _job(config: DictConfig) -> None:
    run_listed(Path(config.output), config.cell)
