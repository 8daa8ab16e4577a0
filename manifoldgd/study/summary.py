"""From finished sets to what a table prints of them: one summary a cell, nothing drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal

from manifoldgd.errors import require
from manifoldgd.estimates import Estimate
from manifoldgd.study.distinct import distinct_sets
from manifoldgd.study.published import Published, find_published, not_run, published_results
from manifoldgd.study.results import Column, SetResult, TableResult
from manifoldgd.study.statistics import Accuracies, Cell, cell_statistics, paired_difference


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """One method in one column. Accuracies are fractions in [0, 1]."""

    method: str
    column: Column
    sets: tuple[SetResult, ...]  # judged ones, by distillation seed
    distinct: tuple[SetResult, ...]  # of these, one for each different set: what statistics count
    asked: int  # distilled sets that the table asks for
    students_asked: int  # of each set
    last: Cell | None  # last epoch: the headline; None before the first set is judged
    best: Cell | None  # best epoch: chosen on the images that judge, so never ranked by
    difference: Estimate | None  # last epoch, paired with the baseline; None for the baseline itself
    published: tuple[Published, ...]  # of the table's family, or else of others

    @property
    def is_whole(self) -> bool:
        """Whether every asked set is there."""
        return len(self.sets) >= self.asked

    @property
    def lacking(self) -> int:
        """Judged sets that have fewer students than asked for."""
        return sum(len(one.last) < self.students_asked for one in self.sets)

    @property
    def shape(self) -> str:
        """Sets times students, for people."""
        students = {len(one.last) for one in self.distinct}
        if len(students) == 1:
            return f"{len(self.distinct)} × {students.pop()}"
        return f"{len(self.distinct)} sets, {self.last.students} students" if self.last else "0"

    @property
    def repeats(self) -> bool:
        """Whether some distillation seeds gave the same set."""
        return len(self.distinct) < len(self.sets)

    def average(self, what: Literal["measures", "guidance", "seconds"], key: str) -> float | None:
        """Mean over the sets that have the value."""
        return _mean(getattr(one, what).get(key) for one in self.sets)

    @property
    def seconds(self) -> float | None:
        """Mean over sets of all stages together."""
        return _mean(math.fsum(v for v in one.seconds.values() if v is not None) for one in self.sets if one.seconds)

    @property
    def per_class(self) -> list[float | None] | None:
        """Last-epoch accuracy of each class, sets weighing alike; ``None`` where it was not recorded."""
        held = [one.per_class for one in self.distinct if one.per_class]
        sets = [[_mean(values) for values in zip(*each, strict=True)] for each in held]
        return [_mean(values) for values in zip(*sets, strict=True)] if sets else None


@dataclass(frozen=True)
class Summary:
    """Every cell of a table, finished or not."""

    result: TableResult
    cells: Mapping[tuple[str, str], CellSummary]  # by (method, key of the column)

    def column(self, column: Column) -> list[CellSummary]:
        """The cells of one column, in the order of the methods."""
        return [self.cells[method, column.key] for method in self.result.methods]

    @property
    def labels(self) -> str:
        """``"hard"`` or ``"soft"``, the same in every column."""
        return self.result.columns[0].labels

    @property
    def missing(self) -> int:
        """Sets that are asked for and not there."""
        return sum(max(0, cell.asked - len(cell.sets)) for cell in self.cells.values())

    @property
    def lacking(self) -> int:
        """Sets that have fewer students than the table asks for."""
        return sum(cell.lacking for cell in self.cells.values())

    @property
    def comparisons(self) -> int:
        """Paired differences that have an interval, each of which may separate by chance."""
        return sum(cell.difference is not None and cell.difference.half is not None for cell in self.cells.values())

    @cached_property
    def not_run(self) -> list[tuple[Column, Published]]:
        """Published numbers of the table's family for methods that it does not run; none beside validation numbers."""
        result = self.result
        if result.split != "test":
            return []
        run = [result.published_as[method] for method in result.methods if method in result.published_as]
        return [
            (column, row)
            for column in result.columns
            for row in not_run(published_results(), **_place(column), number_family=result.number_family, run=run)
        ]

    @cached_property
    def titles(self) -> tuple[str, dict[str, str]]:
        """What all columns share, and of each column (by key) what tells it from the others."""
        parts = {
            column.key: (column.dataset, f"ipc {column.ipc}", column.student, column.label_protocol)
            for column in self.result.columns
        }
        common = [len(set(values)) == 1 for values in zip(*parts.values(), strict=True)]
        if len(parts) == 1:
            common[1] = False  # a single column still needs a heading
        first = next(iter(parts.values()))
        shared = ", ".join(part for part, same in zip(first, common, strict=True) if same)
        own = {
            key: ", ".join(part for part, same in zip(each, common, strict=True) if not same)
            for key, each in parts.items()
        }
        return shared, own if len(set(own.values())) == len(own) else {key: key for key in own}


def summarise(result: TableResult) -> Summary:
    """All statistics of a table.

    Raises:
        UserError: no column, or columns under hard and soft labels in one table.
    """
    require(bool(result.columns), f"table {result.name}: no columns; name at least one in table.yaml")
    kinds = {column.labels for column in result.columns}
    require(
        len(kinds) == 1,
        f"table {result.name}: columns with {' and '.join(sorted(kinds))} labels in one table; "
        "accuracies under different labels do not compare, give each kind its own table",
    )
    cells = {
        (method, column.key): _cell(result, method, column) for method in result.methods for column in result.columns
    }
    return Summary(result, cells)


def _cell(result: TableResult, method: str, column: Column) -> CellSummary:
    sets = tuple(one for one in result.of(method, column.key) if one.last)
    distinct = distinct_sets(sets)
    difference = None
    if method != result.baseline:
        difference = _difference(sets, result.of(result.baseline, column.key))
    published = ()
    if method in result.published_as and result.split == "test":  # what is published was measured on test splits
        name = result.published_as[method]
        published = find_published(
            published_results(), **_place(column), method=name, number_family=result.number_family
        )
    return CellSummary(
        method=method,
        column=column,
        sets=sets,
        distinct=distinct,
        asked=len(result.seeds),
        students_asked=len(result.students[column.key]),
        last=cell_statistics([one.last for one in distinct]) if sets else None,
        best=cell_statistics([one.best for one in distinct]) if sets and all(one.best for one in distinct) else None,
        difference=difference,
        published=published,
    )


def _difference(sets: Sequence[SetResult], baseline: Sequence[SetResult]) -> Estimate | None:
    """Paired over the seeds that both have; one set against one set is one value, over however many seeds."""
    common = {one.seed for one in sets} & {one.seed for one in baseline}
    pair = [[one for one in each if one.seed in common] for each in (sets, baseline)]
    found = paired_difference(*map(_accuracies, pair))
    alone = all(len(distinct_sets(each)) == 1 for each in pair)
    return Estimate(found.mean, None, 1) if found and alone else found


def _place(column: Column) -> dict[str, str | int]:
    """Where published results may stand beside ``column``."""
    return {"dataset": column.dataset, "labels": column.labels, "student": column.student, "ipc": column.ipc}


def _accuracies(sets: Sequence[SetResult]) -> Accuracies:
    return {
        (one.seed, student): last for one in sets for student, last in zip(one.student_seeds, one.last, strict=True)
    }


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(found) if found else None
