"""From the frame of a study to what is said of each cell: its statistics, and what was published beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import pandas as pd

from manifoldgd.errors import require
from manifoldgd.estimates import Estimate
from manifoldgd.study.frame import PLACE, RECORDED, distinct_seeds, frame_of
from manifoldgd.study.published import Published, find_published, not_run, published_results
from manifoldgd.study.results import Column, TableResult
from manifoldgd.study.statistics import Cell, cell_statistics, paired_difference


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """One method in one column. Accuracies are fractions in [0, 1]."""

    method: str
    column: Column
    students: pd.DataFrame  # of the judged sets, as :func:`manifoldgd.study.frame.frame_of` has them
    distinct: Sequence[int]  # seeds, one for each different set: what statistics count
    asked: int  # distilled sets that the study asks for
    students_asked: int  # of each set
    last: Cell | None  # last epoch: the headline; None before the first set is judged
    best: Cell | None  # best epoch: chosen on the images that judge, so never ranked by
    difference: Estimate | None  # last epoch, paired with the baseline; None for the baseline itself
    published: tuple[Published, ...]  # of the study's number family, or else of others

    @cached_property
    def sets(self) -> pd.DataFrame:
        """A row a set, by distillation seed."""
        return self.students.drop_duplicates("seed")

    @property
    def is_whole(self) -> bool:
        """Whether every asked set is there."""
        return len(self.sets) >= self.asked

    @property
    def lacking(self) -> int:
        """Judged sets that have fewer students than asked for."""
        return int((self.students.groupby("seed").size() < self.students_asked).sum())

    @property
    def shape(self) -> str:
        """Sets times students, for people."""
        counts = set(self.students[self.students["seed"].isin(self.distinct)].groupby("seed").size())
        if len(counts) == 1:
            return f"{len(self.distinct)} × {counts.pop()}"
        return f"{len(self.distinct)} sets, {self.last.students} students" if self.last else "0"

    @property
    def repeats(self) -> bool:
        """Whether some distillation seeds gave the same set."""
        return len(self.distinct) < len(self.sets)

    def average(self, name: str) -> float | None:
        """Mean of a column of the frame over the sets that have a value there."""
        return _mean(self.sets[name]) if name in self.sets else None

    @property
    def seconds(self) -> float | None:
        """Mean over sets of all stages together."""
        stages = self.sets[[name for name in self.sets if name.startswith("seconds_")]]
        return _mean(math.fsum(row.dropna()) for _, row in stages.dropna(how="all").iterrows())

    @property
    def per_class(self) -> list[float | None] | None:
        """Last-epoch accuracy of each class, sets weighing alike; ``None`` where it was not recorded."""
        held = self.students[self.students["seed"].isin(self.distinct) & self.students["per_class"].notna()]
        sets = [
            [_mean(values) for values in zip(*students, strict=True)]
            for _, students in held.groupby("seed")["per_class"]
        ]
        return [_mean(values) for values in zip(*sets, strict=True)] if sets else None


@dataclass(frozen=True)
class Summary:
    """Every cell of a study, finished or not."""

    result: TableResult
    cells: Mapping[tuple[str, str], CellSummary]  # by (method, key of the column)

    def column(self, column: Column) -> list[CellSummary]:
        """The cells of one column, in the order of the methods."""
        return [self.cells[method, column.key] for method in self.result.methods]

    @property
    def labels(self) -> set[str]:
        """``"hard"``, ``"soft"``: a table has one kind in all its columns."""
        return {column.labels for column in self.result.columns}

    @property
    def missing(self) -> int:
        """Sets that are asked for and not there."""
        return sum(max(0, cell.asked - len(cell.sets)) for cell in self.cells.values())

    @property
    def lacking(self) -> int:
        """Sets that have fewer students than the study asks for."""
        return sum(cell.lacking for cell in self.cells.values())

    @property
    def comparisons(self) -> int:
        """Paired differences that have an interval, each of which may separate by chance."""
        return sum(cell.difference is not None and cell.difference.half is not None for cell in self.cells.values())

    @cached_property
    def not_run(self) -> list[tuple[Column, Published]]:
        """Published numbers of the study's family for methods that it does not run; none beside validation numbers."""
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
    """All statistics of a study.

    Raises:
        UserError: no column, or columns under hard and soft labels in one table.
    """
    require(bool(result.columns), f"table {result.name}: no columns; name at least one in table.yaml")
    kinds = {column.labels for column in result.columns}
    require(
        len(kinds) == 1 or not result.baseline,
        f"table {result.name}: columns with {' and '.join(sorted(kinds))} labels in one table; "
        "accuracies under different labels do not compare, give each kind its own table",
    )
    frame = frame_of(result)
    groups = dict(iter(frame.groupby(["method", "column"], sort=False)))
    nobody = frame.iloc[:0]
    return Summary(
        result,
        {
            (method, column.key): _cell(
                result,
                method,
                column,
                groups.get((method, column.key), nobody),
                groups.get((result.baseline, column.key), nobody),
            )
            for method in result.methods
            for column in result.columns
        },
    )


def _cell(
    result: TableResult, method: str, column: Column, students: pd.DataFrame, baseline: pd.DataFrame
) -> CellSummary:
    distinct = distinct_seeds(students)
    held = students[students["seed"].isin(distinct)].groupby("seed")
    published = ()
    if method in result.published_as and result.split == "test":  # what is published was measured on test splits
        name = result.published_as[method]
        published = find_published(
            published_results(), **_place(column), method=name, number_family=result.number_family
        )
    return CellSummary(
        method=method,
        column=column,
        students=students,
        distinct=distinct,
        asked=len(result.seeds),
        students_asked=len(result.students[column.key]),
        last=cell_statistics([list(each) for _, each in held["last_top1"]]) if distinct else None,
        best=cell_statistics([list(each) for _, each in held["best_top1"]])
        if distinct and students["best_top1"].notna().all()
        else None,
        difference=None if method == result.baseline else _difference(students, baseline),
        published=published,
    )


def _difference(students: pd.DataFrame, baseline: pd.DataFrame) -> Estimate | None:
    """Paired over the seeds that both have; one set against one set is one value, over however many seeds."""
    common = set(students["seed"]) & set(baseline["seed"])
    pair = [each[each["seed"].isin(common)] for each in (students, baseline)]
    found = paired_difference(
        *(
            dict(zip(zip(each["seed"], each["student_seed"], strict=True), each["last_top1"], strict=True))
            for each in pair
        )
    )
    alone = all(len(distinct_seeds(each)) == 1 for each in pair)
    return Estimate(found.mean, None, 1) if found and alone else found


def _place(column: Column) -> dict[str, str | int]:
    """Where published results may stand beside ``column``."""
    return {"dataset": column.dataset, "labels": column.labels, "student": column.student, "ipc": column.ipc}


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(found) if found else None


def students_csv(summary: Summary) -> str:
    """One row a student, accuracies as fractions at full precision."""
    return _csv(frame_of(summary.result)[list(RECORDED)])


def cells_csv(summary: Summary) -> str:
    """One row a cell, accuracies as fractions at full precision; cells without a set are there, and empty.

    Of a sweep, what was swept stands in columns of its own.
    """
    names = [name for name in frame_of(summary.result) if name.startswith(("measure_", "guidance_", "seconds_"))]
    swept = dict.fromkeys(key for held in summary.result.settings.values() for key in held)
    rows = []
    for cell in summary.cells.values():
        settings = {key: summary.result.settings.get(cell.method, {}).get(key) for key in swept if key not in PLACE}
        averages = {name: cell.average(name) for name in sorted(names, key=_by_group)}
        rows.append(settings | _cell_row(summary.result, cell) | averages)
    return _csv(pd.DataFrame(rows, dtype=object))


def _by_group(name: str) -> tuple[int, str]:
    return ("measure", "guidance", "seconds").index(name.partition("_")[0]), name


def _cell_row(result: TableResult, cell: CellSummary) -> dict[str, str | float | None]:
    column, last, published = cell.column, cell.last, cell.published[0] if cell.published else None
    return {
        "method": cell.method,
        "column": column.key,
        "dataset": column.dataset,
        "ipc": column.ipc,
        "student": column.student,
        "label_protocol": column.label_protocol,
        "split": result.split,
        "sets": len(cell.sets),
        "sets_asked": cell.asked,
        "sets_distinct": len(cell.distinct),
        "students": last.students if last else 0,
        **_interval("last_top1", last and last.interval),
        "last_top1_between_sets": last and last.between,
        "last_top1_within_set": last and last.within,
        "best_top1": cell.best and cell.best.interval.mean,
        "baseline": result.baseline,
        **_interval("difference", cell.difference),
        "difference_pairs": cell.difference and cell.difference.count,
        "verdict": cell.difference and cell.difference.verdict,
        "published_top1": published and published.top1,
        "published_std": published and published.std,
        "published_family": published and published.number_family,
        "seconds": cell.seconds,
    }


def _interval(name: str, found: Estimate | None) -> dict[str, float | None]:
    low, high = (found.low, found.high) if found else (None, None)
    return {name: found and found.mean, f"{name}_low": low, f"{name}_high": high}


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")
