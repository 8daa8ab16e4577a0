"""What of a table is finished, failed and left; and ``results.json``, which says so after every set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from manifoldgd.errors import UserError
from manifoldgd.study.cells import Cell, runs
from manifoldgd.study.finding import RECORD
from manifoldgd.study.gathering import Place, finished_set, place_of
from manifoldgd.study.results import FailedSet, SetResult, TableResult

START_SECONDS = 20.0  # of a run besides its stages: imports, pictures, the page; measured on two cores


class Board:
    """The state of a table.

    Args:
        output: folder of the table.
        blank: the table without sets.
        cells: those asked for, in the order they are to be run.
        recorded: sets from a record; those that have all students asked for count as finished, others are shown until
            their cell is run.
    """

    def __init__(
        self, output: Path, blank: TableResult, cells: Sequence[Cell], recorded: Iterable[SetResult] = ()
    ) -> None:
        self.output, self.blank = output, blank
        self.asked, self.cells = tuple(cells), tuple(runs(cells))  # by place, and by what is run
        self.failed: dict[Place, FailedSet] = {}
        self.sets: dict[Place, SetResult] = {place_of(one): one for one in recorded}
        for cell in self.cells:
            held = [self.sets[place_of(each)] for each in self._alike(cell) if place_of(each) in self.sets]
            if found := finished_set(output, cell, blank.students[cell.column]) or next(iter(held), None):
                self._take_in(cell, found)

    @property
    def left(self) -> list[Cell]:
        """Cells to be run, one for each run, failed ones among them."""
        return [cell for cell in self.cells if not self._has_students(cell)]

    @property
    def failed_cells(self) -> list[Cell]:
        """Cells whose run failed, one for each run."""
        return [cell for cell in self.cells if place_of(cell) in self.failed]

    @property
    def finished(self) -> int:
        """Runs that are finished."""
        return len(self.cells) - len(self.left)

    def ended(self, cell: Cell, reason: str | None) -> SetResult | None:
        """Take in a cell whose run has ended, and save; returns its result, ``None`` if it failed.

        Args:
            cell: the cell.
            reason: why it failed; ``None`` if its run says it did not.
        """
        try:
            found = None if reason else finished_set(self.output, cell, self.blank.students[cell.column])
            reason = reason or "the run left no result"
        except UserError as error:
            found, reason = None, str(error)
        if found:
            self._take_in(cell, found)
        for each in self._alike(cell):
            self.failed.pop(place_of(each), None)
            if not found:
                place = {"method": each.method, "column": each.column, "seed": each.seed}
                self.failed[place_of(each)] = FailedSet(**place, reason=reason)
        self.save()
        return found

    def _has_students(self, cell: Cell) -> bool:
        """Whether the set of ``cell`` is judged by all students asked for."""
        held = self.sets.get(place_of(cell))
        return held is not None and set(self.blank.students[cell.column]) <= set(held.student_seeds)

    def _alike(self, cell: Cell) -> list[Cell]:
        """The cells that the run of ``cell`` gives a result."""
        return [each for each in self.asked if each.name == cell.name]

    def _take_in(self, cell: Cell, found: SetResult) -> None:
        for each in self._alike(cell):
            self.sets[place_of(each)] = replace(found, seed=each.seed)

    def result(self) -> TableResult:
        """The table as it stands, sets by row, column and seed."""
        rows = {name: index for index, name in enumerate(self.blank.methods)}
        columns = {column.key: index for index, column in enumerate(self.blank.columns)}

        def order(one: SetResult | FailedSet) -> tuple[int, int, int]:
            return rows[one.method], columns[one.column], one.seed

        sets = tuple(sorted(self.sets.values(), key=order))
        return replace(self.blank, sets=sets, failed=tuple(sorted(self.failed.values(), key=order)))

    def save(self) -> None:
        """Write ``results.json``."""
        self.result().save(self.output / RECORD)

    def seconds_left(self, at_once: int) -> float | None:
        """Estimate from finished sets of the same column, or of any; ``None`` if there are none."""
        left = [cell for cell in self.left if place_of(cell) not in self.failed]
        return seconds_for(left, self.sets.values(), at_once)


def seconds_for(cells: Sequence[Cell], known: Iterable[SetResult], at_once: int) -> float | None:
    """How long cells take, from sets of the same column, or of any; ``None`` without any set to go by."""
    times: dict[str, list[float]] = {}
    for one in known:
        times.setdefault(one.column, []).append(START_SECONDS + sum(one.seconds.values()))
    every = [each for column in times.values() for each in column]
    if not every:
        return None
    means = {column: sum(each) / len(each) for column, each in times.items()}
    overall = sum(every) / len(every)
    return sum(means.get(cell.column, overall) for cell in cells) / max(1, min(at_once, len(cells)))
