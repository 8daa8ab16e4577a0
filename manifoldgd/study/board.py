"""What of a study is finished, failed and left; and ``results.json``, which says so after every set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean

from manifoldgd.errors import UserError
from manifoldgd.store.keys import read_json
from manifoldgd.store.results import PAGE, check_claim, same_where_held
from manifoldgd.study.cells import Cell, Place, runs
from manifoldgd.study.results import FailedSet, SetResult, TableResult

RECORD = "results.json"  # the result: of a study in its folder, and recorded beside table.yaml
START_SECONDS = 20.0  # of a run besides its stages: imports, pictures, the page; measured on two cores


class Board:
    """The state of a study.

    Args:
        output: its folder.
        blank: the result without sets.
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
        self.sets: dict[Place, SetResult] = {(one.method, one.column, one.seed): one for one in recorded}
        for cell in self.cells:
            held = (self.sets[each.place] for each in self._alike(cell) if each.place in self.sets)
            if found := self._finished(cell) or next(held, None):
                self._take_in(cell, found)

    @property
    def left(self) -> list[Cell]:
        """Cells to be run, one for each run, failed ones among them: those whose sets lack students asked for."""
        asked = self.blank.students
        judged = {place: set(one.student_seeds) for place, one in self.sets.items()}
        return [cell for cell in self.cells if not set(asked[cell.column]) <= judged.get(cell.place, set())]

    @property
    def failed_cells(self) -> list[Cell]:
        """Cells whose run failed, one for each run."""
        return [cell for cell in self.cells if cell.place in self.failed]

    @property
    def finished(self) -> int:
        """Runs that are finished."""
        return len(self.cells) - len(self.left)

    @property
    def state(self) -> str:
        """For people."""
        return f"{self.finished} of {len(self.cells)} cells finished, {len(self.failed_cells)} failed"

    def ended(self, cell: Cell, reason: str | None) -> SetResult | None:
        """Take in a cell whose run has ended, and save; returns its result, ``None`` if it failed.

        Args:
            cell: the cell.
            reason: why it failed; ``None`` if its run says it did not.
        """
        found = None
        try:
            found = None if reason else self._finished(cell)
        except UserError as error:
            reason = str(error)
        for each in self._alike(cell):
            self.failed.pop(each.place, None)
            if not found:
                self.failed[each.place] = FailedSet(
                    method=each.method,
                    column=each.column,
                    seed=each.seed,
                    reason=reason or "the run left no result",
                )
        if found:
            self._take_in(cell, found)
        self.save()
        return found

    def result(self) -> TableResult:
        """The study as it stands, sets by row, column and seed."""
        methods, columns = list(self.blank.methods), [column.key for column in self.blank.columns]

        def order(one: SetResult | FailedSet) -> tuple[int, int, int]:
            return methods.index(one.method), columns.index(one.column), one.seed

        sets = tuple(sorted(self.sets.values(), key=order))
        return replace(self.blank, sets=sets, failed=tuple(sorted(self.failed.values(), key=order)))

    def save(self) -> None:
        """Write ``results.json``."""
        self.result().save(self.output / RECORD)

    def seconds_left(self, at_once: int) -> float | None:
        """Estimate from finished sets of the same column, or of any; ``None`` if there are none."""
        left = [cell for cell in self.left if cell.place not in self.failed]
        return seconds_for(left, self.sets.values(), at_once)

    def _finished(self, cell: Cell) -> SetResult | None:
        return finished_set(self.output, cell, self.blank.students[cell.column])

    def _alike(self, cell: Cell) -> list[Cell]:
        """The cells that the run of ``cell`` gives a result."""
        return [each for each in self.asked if each.name == cell.name]

    def _take_in(self, cell: Cell, found: SetResult) -> None:
        self.sets |= {each.place: replace(found, seed=each.seed) for each in self._alike(cell)}


def seconds_for(cells: Sequence[Cell], known: Iterable[SetResult], at_once: int) -> float | None:
    """How long cells take, from sets of the same column, or of any; ``None`` without any set to go by."""
    times: dict[str, list[float]] = {}
    for one in known:
        times.setdefault(one.column, []).append(START_SECONDS + sum(one.seconds.values()))
    if not times:
        return None
    means = {column: fmean(each) for column, each in times.items()}
    overall = fmean(chain(*times.values()))
    return sum(means.get(cell.column, overall) for cell in cells) / max(1, min(at_once, len(cells)))


def check_folder(output: Path, cell: Cell) -> None:
    """Raise :class:`UserError` if the folder of a cell holds the result of another configuration."""
    folder = cell.folder(output)
    check_claim(folder, "set", cell.set_config)
    check_claim(folder, "evaluation", cell.judge_config, free=("student_seeds",))


def finished_set(output: Path, cell: Cell, student_seeds: Sequence[int]) -> SetResult | None:
    """What the run of a cell left; ``None`` where it is not there, of other data, or lacks students, measures or page.

    Args:
        output: folder of the study.
        cell: the cell; its folder has passed :func:`check_folder`.
        student_seeds: the students wanted; others are left out.

    Raises:
        UserError: something else lies there.
    """
    folder = cell.folder(output)
    file = folder / "metrics.json"
    if not (file.is_file() and (folder / PAGE).is_file()):  # a run draws its page last
        return None
    metrics = read_json(file)
    if not same_where_held(metrics, dict(cell.data)):
        return None
    try:
        if not set(student_seeds) <= set(metrics["student_seeds"]) or (cell.measures and not metrics["set_metrics"]):
            return None
        grid = folder / "grid.png"
        return SetResult.of_run(
            metrics,
            method=cell.method,
            column=cell.column,
            seed=cell.seed,
            key=cell.key,
            student_seeds=student_seeds,
            grid=os.path.relpath(grid, output) if grid.is_file() else None,
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: is no result of ours ({error}); remove {folder} to have it made again") from error
