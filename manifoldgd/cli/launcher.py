"""Hydra's launchers for the cells of a study: one multirun, in a process of its own, whose jobs start the cells."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from manifoldgd.cli.compose import composing, conf_dir
from manifoldgd.errors import require
from manifoldgd.study.definition import override
from manifoldgd.study.jobs import run_listed

# What a launcher calls the number of processes at a time. Joblib would take all cores, Slurm decides where nobody asks.
JOBS_KEY = {"joblib": "n_jobs", "submitit_slurm": "array_parallelism"}
ALL_AT_ONCE = ("submitit_local",)  # starts whatever it is given, so it is given a few at a time
ELSEWHERE = ("submitit_slurm",)  # jobs run on other machines than this one
START = "from manifoldgd.cli.launcher import main; main()"


def check_launcher(name: str, settings: Sequence[str]) -> None:
    """Raise :class:`UserError` unless such a launcher is installed and takes these overrides of its own."""
    with composing() as compose:
        installed = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
        require(
            name in installed,
            f"launcher: no Hydra launcher {name!r}, installed are {', '.join(sorted(installed))}; "
            "`pip install 'manifoldgd[launchers]'` brings joblib and submitit",
        )
        compose([f"hydra/launcher={name}", *settings], "cells")


def launcher_command(name: str, settings: Sequence[str], output: Path, jobs: int | None) -> list[str]:
    """What starts the launcher, but for the numbers of the cells.

    Args:
        name: a member of Hydra's group ``hydra/launcher``.
        settings: the launcher's own overrides.
        output: folder of the study.
        jobs: cells at a time; ``None``: as many as the launcher likes.
    """
    limited = [f"hydra.launcher.{JOBS_KEY[name]}={jobs}"] if name in JOBS_KEY and jobs else []
    place = override("output", str(output.absolute()))
    return [sys.executable, "-P", "-c", START, "--multirun", f"hydra/launcher={name}", *limited, *settings, place]


def main() -> None:
    """The launcher's process."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own report of an error leaves out what was wrong
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="cells")(_job)()


def _job(config: DictConfig) -> None:
    run_listed(Path(config.output), config.cell)
