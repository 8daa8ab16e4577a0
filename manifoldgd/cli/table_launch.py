"""Cells spread by a Hydra launcher: one multirun whose jobs each start the same process that we would start here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from manifoldgd.cli.arguments import arguments_given
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_write_json, atomic_write_text
from manifoldgd.stopping import Stopped
from manifoldgd.store.keys import read_json
from manifoldgd.study.board import Board
from manifoldgd.study.cells import Cell
from manifoldgd.study.definition import override
from manifoldgd.study.gathering import finished_set
from manifoldgd.study.jobs import Job, importing, run
from manifoldgd.study.runner import ONE_THREAD, job_of
from manifoldgd.study.sharing import in_waves, share_set

LIST = "cells.json"
# What a launcher calls the number of processes at a time. Joblib would take all cores, Slurm decides where nobody asks.
JOBS_KEY = {"joblib": "n_jobs", "submitit_slurm": "array_parallelism"}
ALL_AT_ONCE = ("submitit_local",)  # starts whatever it is given, so it is given a few at a time
ELSEWHERE = ("submitit_slurm",)  # jobs run on other machines than this one


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
    board: Board,
    *,
    launcher: str,
    at_once: int,
    asked: bool,
    environment: Mapping[str, str],
    settings: Sequence[str],
    conf: Path,
) -> None:
    """Run what is left as a Hydra multirun and take in the results when all have ended.

    Cells that need the set of another one follow in a second multirun.

    Args:
        board: what is left.
        launcher: a member of Hydra's group ``hydra/launcher``.
        at_once: processes at a time.
        asked: whether that number was asked for; where it was not, a cluster decides.
        environment: variables of the jobs beside their own.
        settings: the launcher's own overrides.
        conf: configuration folder.
    """
    limited = launcher in JOBS_KEY and (asked or launcher not in ELSEWHERE)
    at_once_key = [f"hydra.launcher.{JOBS_KEY[launcher]}={at_once}"] if limited else []
    for wave in in_waves(board.left, board.output):
        size = at_once if launcher in ALL_AT_ONCE else len(wave)
        for start in range(0, len(wave), size):
            cells = wave[start : start + size]
            for cell in cells:
                share_set(cell, board.output)
            _launch(board, cells, environment, [f"hydra/launcher={launcher}", *at_once_key, *settings], conf)


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
    os.environ.update(importing())  # for the launcher's own processes
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, instead of Hydra's own report and exit
    stopped: BaseException | None = None
    try:
        with arguments_given(["--multirun", *settings, place, f"cell={names}"]):
            hydra.main(version_base="1.3", config_path=str(conf), config_name="cells")(run_listed)()
    except (HydraException, OmegaConfBaseException, UserError):
        raise  # the launcher's own settings are wrong: nothing was started
    except (Exception, SystemExit, Stopped) as error:
        stopped = error  # a worker was killed, or we were: what the others finished counts
    for cell in cells:
        _take_in(board, cell, _complaint(jobs[cell.name].log), stopped)
    if isinstance(stopped, Stopped):
        raise stopped


def _take_in(board: Board, cell: Cell, complaint: Path, stopped: BaseException | None) -> None:
    """What became of a cell whose launcher has ended, or was stopped."""
    if complaint.is_file():
        board.ended(cell, complaint.read_text(encoding="utf-8").strip())
    elif stopped is None or finished_set(board.output, cell, board.blank.students[cell.column]):
        board.ended(cell, None)
    elif not isinstance(stopped, Stopped):  # then it is left, and did not fail
        lines = str(stopped).strip().splitlines()
        reason = f"{type(stopped).__name__}{f': {lines[-1].strip()}' if lines else ''}"
        board.ended(cell, f"the launcher ended before it did ({reason})")


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
