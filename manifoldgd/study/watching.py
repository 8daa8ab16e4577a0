"""What is seen of a table under way: a bar on a terminal; elsewhere a line a finished cell, and one now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from manifoldgd.progress import LINE_EVERY, duration
from manifoldgd.study.board import Board
from manifoldgd.study.cells import Cell
from manifoldgd.study.results import SetResult

SHOWN_NAMES = 3  # of running cells on the bar


class Watch:
    """Shows a board while its cells run.

    Args:
        board: what is done and left.
        at_once: processes at a time, for the estimate.
        console: where; stdout by default.
    """

    def __init__(self, board: Board, at_once: int, console: Console | None = None) -> None:
        self.board, self.at_once = board, at_once
        self.console = console or Console(soft_wrap=True, highlight=False)
        self.running: dict[Cell, float] = {}
        self.said = time.monotonic()  # when the last line was
        columns = (TextColumn("table"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("{task.description}"), console=self.console, auto_refresh=False)
        self.task = self.bar.add_task("", total=len(board.cells), completed=board.finished)

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def started(self, cell: Cell) -> None:
        """A cell's process runs."""
        self.running[cell] = time.monotonic()
        self._describe()

    def ended(self, cell: Cell, result: SetResult | None, reason: str | None) -> None:
        """A cell's process has ended, with a result or a reason."""
        seconds = time.monotonic() - self.running.pop(cell)
        if not self.console.is_terminal:
            said = _accuracy(result) if result else f"failed: {reason or self._failure(cell)}"
            self._say(f"{cell.name}: {said} ({duration(seconds)}){self._left()}")
        elif result is None:
            self.bar.console.print(f"{cell.name}: failed: {reason or self._failure(cell)}", markup=False)
        self._describe()

    def tick(self) -> None:
        """Time has passed."""
        self._describe()
        if not self.console.is_terminal and time.monotonic() - self.said > LINE_EVERY:
            self._say(f"at work on {self._work()}")

    def _say(self, text: str) -> None:
        self.said = time.monotonic()
        self.console.print(f"[{self.board.finished}/{len(self.board.cells)}] {text}", markup=False)

    def _failure(self, cell: Cell) -> str:
        return self.board.failed[cell.method, cell.column, cell.seed].reason

    def _left(self) -> str:
        seconds = self.board.seconds_left(self.at_once)
        return f"; about {duration(seconds)} left" if seconds else ""

    def _work(self) -> str:
        names = [cell.name for cell in self.running]
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        return f"{', '.join(names[:SHOWN_NAMES])}{more}{self._left()}"

    def _describe(self) -> None:
        self.bar.update(self.task, completed=self.board.finished, description=self._work())
        if self.console.is_terminal:
            self.bar.refresh()


def _accuracy(result: SetResult) -> str:
    return f"{100 * sum(result.last) / len(result.last):.1f} %"
