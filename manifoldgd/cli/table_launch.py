"""Cells spread by a Hydra launcher: one multirun whose jobs each start the same process that we would start here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from manifoldgd.cli.arguments import arguments_given
from manifoldgd.errors import require
from manifoldgd.files import atomic_write_json, atomic_write_text
from manifoldgd.store.keys import read_json
from manifoldgd.tables.board import Board
from manifoldgd.tables.cells import Cell
from manifoldgd.tables.definition import override
from manifoldgd.tables.jobs import Job, run
from manifoldgd.tables.runner import ONE_THREAD, job_of
from manifoldgd.tables.sharing import in_waves, share_set

LIST = "cells.json"
JOBS_KEY = {"joblib": "n_jobs"}  # what a launcher calls the number of processes at a time


def check_launcher(name: str, conf: Path) -> None:
    """Raise :class:`UserError` unless such a launcher is installed."""
    with initialize_config_dir(config_dir=str(conf), version_base="1.3"):
        installed = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
    require(
        name in installed,
        f"launcher: no Hydra launcher {name!r}, installed are {', '.join(sorted(installed))}; "
        "`pip install 'manifoldgd[launchers]'` brings joblib and submitit",
    )


def launch_left(
    board: Board, *, launcher: str, at_once: int, environment: Mapping[str, str], settings: Sequence[str], conf: Path
) -> None:
    """Run what is left as a Hydra multirun and take in the results when all have ended.

    Cells that need the set of another one follow in a second multirun.

    Args:
        board: what is left.
        launcher: a member of Hydra's group ``hydra/launcher``.
        at_once: processes at a time, where the launcher has a say in it.
        environment: variables of the jobs beside their own.
        settings: the launcher's own overrides.
        conf: configuration folder.
    """
    at_once_key = [f"hydra.launcher.{JOBS_KEY[launcher]}={at_once}"] if launcher in JOBS_KEY else []
    for wave in in_waves(board.left, board.output):
        for cell in wave:
            share_set(cell, board.output)
        _launch(board, wave, environment, [f"hydra/launcher={launcher}", *at_once_key, *settings], conf)


def _launch(
    board: Board, cells: Sequence[Cell], environment: Mapping[str, str], settings: Sequence[str], conf: Path
) -> None:
    jobs = {cell.name: job_of(cell, board.output) for cell in cells}
    listed = {name: {"command": job.command, "log": str(job.log.absolute())} for name, job in jobs.items()}
    atomic_write_json(
        board.output / LIST, {"folder": str(Path.cwd()), "environment": dict(environment), "jobs": listed}
    )
    for job in jobs.values():
        _complaint(job.log).unlink(missing_ok=True)
    names = ",".join(override("", name).removeprefix("=") for name in jobs)
    place = override("output", str(board.output.absolute()))
    with arguments_given(["--multirun", *settings, place, f"cell={names}"]):
        hydra.main(version_base="1.3", config_path=str(conf), config_name="cells")(run_listed)()
    for cell in cells:
        complaint = _complaint(jobs[cell.name].log)
        board.ended(cell, complaint.read_text().strip() if complaint.is_file() else None)


def run_listed(config: DictConfig) -> None:
    """One job: find the cell's command line in the table's folder and run it.

    A failure is left beside the log: a launcher reports the first one only, and drops the others.
    """
    held = read_json(Path(config.output) / LIST)
    one = held["jobs"][config.cell]
    job = Job(name=config.cell, command=tuple(one["command"]), log=Path(one["log"]), folder=Path(held["folder"]))
    reason = run(job, {**ONE_THREAD, **held["environment"]})
    if reason:
        atomic_write_text(_complaint(job.log), reason + "\n")
    print(f"{config.cell}: {f'failed: {reason}' if reason else 'done'}", flush=True)


def _complaint(log: Path) -> Path:
    return log.with_suffix(".failed")
