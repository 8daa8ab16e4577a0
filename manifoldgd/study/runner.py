"""Run the cells that are left, several processes at a time, and take in each result as it comes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from manifoldgd.study.board import Board
from manifoldgd.study.cells import Cell
from manifoldgd.study.jobs import DISK_FULL, Job, start, stop, why_failed
from manifoldgd.study.sharing import share_set, waits
from manifoldgd.study.watching import Watch

POLL_SECONDS = 0.2
# One thread each: with a process a core, threads that wait for one another cost more than they give.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def job_of(cell: Cell, output: Path) -> Job:
    """The ``manifoldgd run`` of a cell."""
    command = (sys.executable, "-P", "-m", "manifoldgd", *cell.arguments(output))
    return Job(name=cell.name, command=command, log=cell.log(output))


def run_left(
    board: Board,
    *,
    at_once: int,
    environment: Mapping[str, str],
    watch: Watch,
    job: Callable[[Cell, Path], Job] = job_of,
) -> bool:
    """Run what is left; a cell that fails does not stop the others, a full disk does.

    A cell that needs the set another one is making starts when that set is there, or was not made.

    Args:
        board: what is left, and where results are taken in.
        at_once: processes at a time.
        environment: variables of the jobs beside our own.
        watch: told what happens.
        job: what to run for a cell.

    Returns:
        Whether every cell was tried; ``False`` if the disk filled up.
    """
    waiting = board.left
    running: dict[subprocess.Popen[bytes], Cell] = {}
    tried = True
    try:
        while waiting or running:
            while len(running) < at_once and (cell := _next(waiting, running.values(), board.output)):
                share_set(cell, board.output)
                running[start(job(cell, board.output), {**ONE_THREAD, **environment})] = cell
                watch.started(cell)
            for process in [each for each in running if each.poll() is not None]:
                cell = running.pop(process)
                reason = why_failed(process.returncode, cell.log(board.output))
                watch.ended(cell, board.ended(cell, reason), reason)
                if reason and DISK_FULL in reason and waiting:
                    waiting.clear()
                    tried = False
            watch.tick()
            time.sleep(POLL_SECONDS)
    finally:
        stop(running)
    return tried


def _next(waiting: list[Cell], running: Iterable[Cell], output: Path) -> Cell | None:
    """Take the first cell that can start from ``waiting``; ``None`` if none can."""
    cell = next((each for each in waiting if not waits(each, running, output)), None)
    if cell:
        waiting.remove(cell)
    return cell
