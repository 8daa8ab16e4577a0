"""Run the cells that are left and take in each result as it comes.

Each cell is a process of its own, so that one that dies takes nothing with it. A :class:`Pool` starts them here,
several at a time; :class:`Launched` has a Hydra launcher start the same processes, wherever it does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from manifoldgd.errors import UserError
from manifoldgd.files import atomic_write_json, one_at_a_time
from manifoldgd.progress import LINE_EVERY, duration
from manifoldgd.study.board import Board
from manifoldgd.study.cells import Cell, share_set, waits
from manifoldgd.study.jobs import DISK_FULL, ENDED, LIST, Job, start, stop, why_failed

POLL_SECONDS = 0.2
# One thread each: with a process a core, threads that wait for one another cost more than they give.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
SHOWN_NAMES = 3  # of running cells on the bar

Ended = tuple[Cell, str | None, float]  # why it failed, if it did, and how long it ran, in seconds


def job_of(cell: Cell, output: Path) -> Job:
    """The ``manifoldgd run`` of a cell."""
    command = (sys.executable, "-P", "-m", "manifoldgd", *cell.arguments(output))
    return Job(name=cell.name, command=command, log=cell.log(output))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Work on a study's folder as the only process; ``folder/lock`` says who does, however that ended.

    Raises:
        UserError: another process works there.
    """
    note = folder / "lock"

    def refuse() -> None:
        holder = note.read_text().strip() if note.is_file() else "another process"
        raise UserError(
            f"output: {folder} is being worked on by {holder}; wait for it, stop it, or choose another output"
        )

    with one_at_a_time(note, refuse):
        note.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield


class Pool:
    """Cells as processes of this machine.

    Args:
        output: folder of the study.
        at_once: processes at a time.
        environment: variables of the processes beside our own.
    """

    def __init__(self, output: Path, at_once: int, environment: Mapping[str, str]) -> None:
        self.output, self.at_once, self.environment = output, at_once, environment
        self.running: dict[subprocess.Popen[bytes], tuple[Cell, float]] = {}

    @property
    def room(self) -> int:
        """How many cells may be started now."""
        return self.at_once - len(self.running)

    def start(self, cells: Sequence[Cell]) -> None:
        """Have cells run: at least one, at most as many as there is room for."""
        for cell in cells:
            self.running[start(job_of(cell, self.output), self.environment)] = cell, time.monotonic()

    def ended(self) -> list[Ended]:
        """The cells that have ended since this was asked last."""
        found: list[Ended] = []
        for process in [each for each in self.running if each.poll() is not None]:
            cell, began = self.running.pop(process)
            reason = why_failed(process.returncode, cell.log(self.output))
            found.append((cell, reason, time.monotonic() - began))
        return found

    def stop(self) -> None:
        """End what runs."""
        stop(self.running)


class Launched:
    """Cells as the jobs of a Hydra launcher, one multirun after the other; used as a :class:`Pool` is.

    A job finds its cell's command in a list in the study's folder, and leaves a note beside its log when it has ended:
    a launcher reports the first failure only, and nothing before all jobs have ended.

    Args:
        output: folder of the study.
        command: starts the launcher, but for the numbers of the cells.
        at_once: cells at a time, as far as it is known.
        room: cells in a multirun.
        environment: variables of the cells' processes beside their own.
    """

    def __init__(
        self,
        output: Path,
        command: Sequence[str],
        *,
        at_once: int,
        room: int,
        environment: Mapping[str, str],
    ) -> None:
        self.output, self.command = output, tuple(command)
        self.at_once, self.most, self.environment = at_once, room, environment
        self.pending: dict[Cell, Path] = {}  # and where each leaves its note
        self.process: subprocess.Popen[bytes] | None = None
        self.log = output / "logs" / "launcher.log"

    @property
    def room(self) -> int:
        return 0 if self.process else self.most

    def start(self, cells: Sequence[Cell]) -> None:
        jobs = {cell: job_of(cell, self.output) for cell in cells}
        self.pending = {cell: job.log.with_suffix(ENDED) for cell, job in jobs.items()}
        for note in self.pending.values():
            note.unlink(missing_ok=True)
        listed = [{"name": job.name, "command": job.command, "log": str(job.log.absolute())} for job in jobs.values()]
        atomic_write_json(
            self.output / LIST, {"folder": str(Path.cwd()), "environment": dict(self.environment), "jobs": listed}
        )
        command = (*self.command, f"cell=range({len(listed)})")
        self.process = start(Job(name="launcher", command=command, log=self.log), {})

    def ended(self) -> list[Ended]:
        code = self.process.poll() if self.process else None  # before the notes are looked for
        found: list[Ended] = []
        for cell, note in list(self.pending.items()):
            if note.is_file():
                held = json.loads(note.read_text(encoding="utf-8"))
                found.append((cell, held["reason"], held["seconds"]))
                del self.pending[cell]
        if code is not None:
            why = why_failed(code, self.log) or "it left no note"
            found += [(cell, f"the launcher ended before it did ({why})", 0.0) for cell in self.pending]
            self.pending, self.process = {}, None
        return found

    def stop(self) -> None:
        stop([self.process] if self.process else [])


Runner = Pool | Launched


def run_left(board: Board, runner: Runner, console: Console | None = None) -> bool:
    """Run what is left; a cell that fails does not stop the others, a full disk does.

    A cell that needs the set another one is making starts when that set is there, or was not made.

    Args:
        board: what is left, and where results are taken in.
        runner: where cells run.
        console: where to say what happens; stdout by default.

    Returns:
        Whether every cell was tried; ``False`` if the disk filled up.
    """
    waiting, tried = board.left, True
    running: list[Cell] = []
    with Watch(board, runner.at_once, console) as watch:
        try:
            while waiting or running:
                if chosen := next_cells(waiting, running, runner.room, board):
                    runner.start(chosen)
                    running += chosen
                    watch.tick(running)
                for cell, reason, seconds in runner.ended():
                    running.remove(cell)
                    board.ended(cell, reason)
                    watch.ended(cell, seconds)
                    if reason and DISK_FULL in reason and waiting:
                        waiting, tried = [], False
                watch.tick(running)
                time.sleep(POLL_SECONDS)
        finally:
            runner.stop()
    return tried


def next_cells(waiting: list[Cell], running: Iterable[Cell], room: int, board: Board) -> list[Cell]:
    """Take from ``waiting`` the first cells that can start, with the sets that are there for them."""
    chosen: list[Cell] = []
    for cell in list(waiting):
        if len(chosen) < room and not waits(cell, [*running, *chosen], board.output):
            share_set(cell, board.output, board.cells)
            chosen.append(cell)
            waiting.remove(cell)
    return chosen


class Watch:
    """Shows a board while its cells run: a bar on a terminal; elsewhere a line a finished cell, and one now and then.

    Args:
        board: what is done and left.
        at_once: cells at a time, for the estimate.
        console: where; stdout by default.
    """

    def __init__(self, board: Board, at_once: int, console: Console | None = None) -> None:
        self.board, self.at_once = board, at_once
        self.console = console or Console(soft_wrap=True, highlight=False)
        self.said = time.monotonic()  # when the last line was
        columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("{task.description}"), console=self.console, auto_refresh=False)
        self.task = self.bar.add_task("", total=len(board.cells), completed=board.finished)

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def ended(self, cell: Cell, seconds: float) -> None:
        """A cell has ended, and was taken in."""
        failed = self.board.failed.get(cell.place)
        if not self.console.is_terminal:
            said = f"failed: {failed.reason}" if failed else f"{100 * self.board.sets[cell.place].mean_top1:.1f} %"
            self._say(f"{cell.name}: {said} ({duration(seconds)}){self._left()}")
        elif failed:
            self.bar.console.print(f"{cell.name}: failed: {failed.reason}", markup=False)

    def tick(self, running: Sequence[Cell]) -> None:
        """Time has passed, and these cells run."""
        if self.console.is_terminal:
            self.bar.update(self.task, completed=self.board.finished, description=self._work(running))
            self.bar.refresh()
        elif time.monotonic() - self.said > LINE_EVERY:
            self._say(f"at work on {self._work(running)}")

    def _say(self, text: str) -> None:
        self.said = time.monotonic()
        self.console.print(f"[{self.board.finished}/{len(self.board.cells)}] {text}", markup=False)

    def _left(self) -> str:
        seconds = self.board.seconds_left(self.at_once)
        return f"; about {duration(seconds)} left" if seconds else ""

    def _work(self, running: Sequence[Cell]) -> str:
        names = [cell.name for cell in running]
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        return f"{', '.join(names[:SHOWN_NAMES])}{more}{self._left()}"
