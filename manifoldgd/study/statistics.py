"""From a study's students to its cells: one long frame, a row a student; one wide frame, a row a cell.

A cell is ``G`` distilled sets (distillation seeds ``g``), each judged by ``m_g`` students (student seeds ``i``) with
accuracies ``a_gi``. The *sets are the independent unit*: students of one set saw the same images, so they share that
set's luck, and an interval that counted them one by one would be too narrow by up to ``sqrt(m_g)``.
Every interval is that of :func:`manifoldgd.estimates.estimate` over one number a set.

Accuracies are fractions in [0, 1]; the functions work in any unit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev, variance
from typing import Any

import pandas as pd

from manifoldgd.errors import require
from manifoldgd.estimates import Estimate, estimate
from manifoldgd.study.published import Published, find_published, not_run, published_results
from manifoldgd.study.results import Column, TableResult

Accuracies = Mapping[tuple[int, int], float]  # (distillation seed, student seed) -> accuracy

CELL = ["method", "column"]
PLACE = ("method", "column", "dataset", "ipc", "student", "label_protocol", "split")
RECORDED = (*PLACE, "seed", "student_seed", "last_top1", "best_top1", "key", "fingerprint", "code_version")
OF_A_SET = ("key", "fingerprint", "code_version", "hardware", "run", "grid")
GROUPS = {"measures": "measure_", "guidance": "guidance_", "seconds": "seconds_"}  # of a set: prefix of their columns
PRINTED = ("shape", "lacking", "students_asked", "published")  # of a cell: for people, not for spreadsheets


def cell_statistics(sets: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean, interval and the two standard deviations of a cell.

    * ``last_top1``: the mean of the set means ``a_g = mean_i a_gi`` with its interval. Every set weighs the same,
      however many students it has; with equal numbers it is the mean of all students.
    * ``last_top1_between_sets``: ``sqrt(sum_g (a_g - mean)^2 / (G - 1))``, the deviation of the set means as they are,
      so with the share ``within^2 / m`` that a finite number of students leaves in them; ``None`` for one set.
    * ``last_top1_within_set``: ``sqrt(sum_gi (a_gi - a_g)^2 / sum_g (m_g - 1))``, pooled: sets with more students count
      more; ``None`` where no set has two.
    * ``students``: over all sets.

    Args:
        sets: for each distilled set the accuracies of its students; without any set every number is missing.

    Raises:
        ValueError: a set without students.

    >>> cell = cell_statistics([[0.70, 0.72], [0.74, 0.76]])
    >>> [round(cell[name], 4) for name in ("last_top1_between_sets", "last_top1_within_set", "students")]
    [0.0283, 0.0141, 4]
    >>> round(cell["last_top1"].mean, 4)
    0.73
    """
    if not all(sets):
        raise ValueError("sets: expected at least one student in each")
    means = [fmean(students) for students in sets]
    repeated = [students for students in sets if len(students) > 1]
    freedom = sum(len(students) - 1 for students in repeated)
    squares = sum((len(students) - 1) * variance(students) for students in repeated)
    return {
        "students": sum(map(len, sets)),
        "last_top1": estimate(means) if means else None,
        "last_top1_between_sets": stdev(means) if len(means) > 1 else None,
        "last_top1_within_set": math.sqrt(squares / freedom) if freedom else None,
    }


def paired_difference(method: Accuracies, baseline: Accuracies) -> Estimate | None:
    """How much better ``method`` is than ``baseline`` on the same seeds; ``None`` where they share none.

    Only (distillation seed, student seed) pairs that both have count. Each distillation seed gives one value, the mean
    difference over its common student seeds; the interval is Student's t over these values (the paired t-test, which
    cancels what a seed does to both: the clustering, the noise, the students' initialisation). One common seed gives a
    mean, no interval and so no verdict.

    >>> method = {(0, 0): 0.75, (1, 0): 0.78, (2, 0): 0.90}
    >>> difference = paired_difference(method, {(0, 0): 0.73, (1, 0): 0.75, (1, 1): 0.1})
    >>> round(difference.mean, 4), difference.count, difference.verdict
    (0.025, 2, None)
    >>> paired_difference(method, {(9, 0): 0.7}) is None
    True
    """
    by_seed: dict[int, list[float]] = {}
    for seed, student_seed in sorted(method.keys() & baseline.keys()):
        by_seed.setdefault(seed, []).append(method[seed, student_seed] - baseline[seed, student_seed])
    return estimate([fmean(values) for values in by_seed.values()]) if by_seed else None


def frame_of(result: TableResult) -> pd.DataFrame:
    """The students of a study, a row each, by method, column and seed in the order of the study.

    Columns: what the cell is (:data:`PLACE`), which set and student (``seed``, ``student_seed``), what was measured
    (``last_top1``, ``best_top1``, and ``per_class``, a tuple), on what (``key``, ``fingerprint``, ``code_version``).
    The same for all students of a set are ``hardware``, ``run``, ``grid``, one column each for its measures, guidance
    and seconds, how many they are (``students``), the mean of their accuracies (``mean_top1``), and whether the set is
    ``distinct``: seeds that lead to the same images add nothing to what is known.
    """
    methods, columns = list(result.methods), {column.key: column for column in result.columns}
    known = [one for one in result.sets if one.method in methods and one.column in columns]
    known.sort(key=lambda one: (methods.index(one.method), list(columns).index(one.column), one.seed))
    rows: list[dict[str, Any]] = []
    for one in known:
        facts = vars(columns[one.column]) | vars(one) | {"split": result.split}
        of_set = {name: facts[name] for name in (*PLACE, "seed", *OF_A_SET)}
        for group, prefix in GROUPS.items():
            of_set |= {f"{prefix}{key}": value for key, value in facts[group].items()}
        of_set |= {"students": len(one.students), "mean_top1": one.mean_top1}
        rows += [of_set | student for student in one.students]
    names = dict.fromkeys(
        (*RECORDED, *OF_A_SET, "students", "mean_top1", "per_class", *(n for row in rows for n in row))
    )
    frame = pd.DataFrame(rows, columns=list(names), dtype=object)
    numbers = ["ipc", "seed", "student_seed", "last_top1", "best_top1", "students", "mean_top1", *_of_groups(frame)]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    places = frame.groupby(CELL, sort=False)
    distinct = {(*place, seed) for place, of_cell in places for seed in distinct_seeds(of_cell)}
    sets = zip(*(frame[name] for name in (*CELL, "seed")), strict=True)
    frame["distinct"] = pd.Series([each in distinct for each in sets], frame.index, dtype=bool)
    return frame


def distinct_seeds(students: pd.DataFrame) -> list[int]:
    """Of the seeds of a cell one for each different set, in their order; of equal sets that with the most students.

    Where a record is older than fingerprints, equal keys are equal sets.
    """

    def equal(one: pd.Series, other: pd.Series) -> bool:
        name = "fingerprint" if one["fingerprint"] and other["fingerprint"] else "key"
        return one[name] == other[name]

    found: list[pd.Series] = []
    for _, one in students.drop_duplicates("seed").iterrows():
        place = next((place for place, other in enumerate(found) if equal(one, other)), None)
        if place is None:
            found.append(one)
        elif one["students"] > found[place]["students"]:
            found[place] = one
    return [one["seed"] for one in found]


def _of_groups(frame: pd.DataFrame) -> list[str]:
    """Columns with the measures, guidance and seconds of sets, in the order of spreadsheets."""
    return [name for prefix in GROUPS.values() for name in sorted(frame) if name.startswith(prefix)]


def computing_seconds(sets: pd.DataFrame) -> pd.Series:
    """Seconds by stage over sets, each stage counted as often as it ran.

    A run that stands for several seeds counts once, and so does the making of a set that several columns share: their
    results have the same images and the same seconds.
    """
    runs = sets.drop_duplicates([*CELL, "key"])
    stages = runs[[name for name in runs if name.startswith(GROUPS["seconds"])]].astype(float)
    stages = stages.rename(columns=lambda name: name.removeprefix(GROUPS["seconds"]))
    if "distill" in stages:
        making = pd.DataFrame({"set": runs["fingerprint"], "seconds": stages["distill"]})
        stages.loc[making["set"].ne("") & making.duplicated(), "distill"] = math.nan
    return stages.dropna(axis="columns", how="all").sum()


@dataclass(frozen=True)
class Summary:
    """What is said of a study, finished or not.

    Raises:
        UserError: a table without columns, or with columns under hard and soft labels.
    """

    result: TableResult

    def __post_init__(self) -> None:
        result = self.result
        where = f"table {result.name}"
        require(bool(result.columns) or not result.baseline, f"{where}: no columns; name at least one in table.yaml")
        require(
            len(self.labels) <= 1 or not result.baseline,
            f"{where}: columns with {' and '.join(sorted(self.labels))} labels in one table; "
            "accuracies under different labels do not compare, give each kind its own table",
        )

    @property
    def labels(self) -> set[str]:
        """``"hard"``, ``"soft"``: a table has one kind in all its columns."""
        return {column.labels for column in self.result.columns}

    @cached_property
    def students(self) -> pd.DataFrame:
        """The long frame, see :func:`frame_of`."""
        return frame_of(self.result)

    @cached_property
    def sets(self) -> pd.DataFrame:
        """A row a set: what its students share."""
        return self.students.drop_duplicates([*CELL, "seed"])

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The wide frame by (method, column), a row a cell, those without a set too; what is unknown is ``None``.

        Columns are those of ``table.csv``, where ``last_top1`` and ``difference`` hold an :class:`Estimate`, and
        :data:`PRINTED`.
        """
        nobody = self.students.iloc[:0]
        groups = defaultdict(lambda: nobody, iter(self.students.groupby(CELL, sort=False)))
        places = [(method, column) for method in self.result.methods for column in self.result.columns]
        index = pd.MultiIndex.from_tuples([(method, column.key) for method, column in places], names=CELL)
        rows = [self._cell(method, column, groups) for method, column in places]
        return pd.DataFrame(rows, index=index if places else None, dtype=object)

    def _cell(self, method: str, column: Column, groups: Mapping[tuple[str, str], pd.DataFrame]) -> dict[str, Any]:
        result, asked = self.result, len(self.result.students[column.key])
        students, baseline = (groups[name, column.key] for name in (method, result.baseline))
        sets, judged = students.drop_duplicates("seed"), students[students["distinct"]].groupby("seed")
        best = [fmean(each) for _, each in judged["best_top1"]] if students["best_top1"].notna().all() else []
        difference = None if method == result.baseline else _difference(students, baseline)
        published: tuple[Published, ...] = ()
        if method in result.published_as and result.split == "test":  # what is published was measured on test splits
            name, family = result.published_as[method], result.number_family
            published = find_published(published_results(), column, method=name, number_family=family)
        swept = dict.fromkeys(key for held in result.settings.values() for key in held if key not in PLACE)
        stages = sets[[name for name in sets if name.startswith(GROUPS["seconds"])]].dropna(how="all")
        return {
            **{key: result.settings.get(method, {}).get(key) for key in swept},
            "method": method,
            "column": column.key,
            "dataset": column.dataset,
            "ipc": column.ipc,
            "student": column.student,
            "label_protocol": column.label_protocol,
            "split": result.split,
            "sets": len(sets),
            "sets_asked": len(result.seeds),
            "sets_distinct": int(sets["distinct"].sum()),
            **cell_statistics([list(each) for _, each in judged["last_top1"]]),
            "best_top1": fmean(best) if best else None,
            "baseline": result.baseline,
            "difference": difference,
            "difference_pairs": difference and difference.count,
            "verdict": difference and difference.verdict,
            "published_top1": published[0].top1 if published else None,
            "published_std": published[0].std if published else None,
            "published_family": published[0].number_family if published else None,
            "seconds": _mean(math.fsum(row.dropna()) for _, row in stages.iterrows()),
            **{name: _mean(sets[name]) for name in _of_groups(sets)},
            "shape": _shape(sets.loc[sets["distinct"], "students"].tolist()),
            "lacking": int((sets["students"] < asked).sum()),
            "students_asked": asked,
            "published": published,
        }

    def sets_of(self, method: str, column: Column) -> pd.DataFrame:
        """The sets of a cell."""
        return self.sets[(self.sets["method"] == method) & (self.sets["column"] == column.key)]

    def of(self, column: Column, methods: Sequence[str] | None = None) -> pd.DataFrame:
        """The cells of a column by method: all in the order of the study, or those of ``methods``."""
        return self.cells.xs(column.key, level="column").loc[list(methods or self.result.methods)]

    def per_class(self, column: Column) -> pd.DataFrame:
        """Last-epoch accuracy by class and method, of those that recorded it; sets weigh alike."""
        students = self.students[self.students["distinct"]]
        judged = students[students["column"].eq(column.key) & students["per_class"].notna()]
        of_students = pd.DataFrame(judged["per_class"].tolist(), [judged["method"], judged["seed"]], dtype=float)
        return of_students.groupby(level=[0, 1], sort=False).mean().groupby(level=0, sort=False).mean().T

    @property
    def missing(self) -> int:
        """Sets that are asked for and not there."""
        return int((self.cells["sets_asked"] - self.cells["sets"]).clip(lower=0).sum())

    @property
    def comparisons(self) -> int:
        """Paired differences that have an interval, each of which may separate by chance."""
        return sum(found is not None and found.half is not None for found in self.cells["difference"])

    @cached_property
    def not_run(self) -> list[tuple[Column, Published]]:
        """Published numbers of the study's family for methods that it does not run; none beside validation numbers."""
        result = self.result
        run = [name for method, name in result.published_as.items() if method in result.methods]
        return [
            (column, row)
            for column in (result.columns if result.split == "test" else ())
            for row in not_run(published_results(), column, number_family=result.number_family, run=run)
        ]

    @cached_property
    def titles(self) -> tuple[str, dict[str, str]]:
        """What all columns share, and of each column (by key) what tells it from the others."""
        columns = self.result.columns
        parts = [(each.dataset, f"ipc {each.ipc}", each.student, each.label_protocol) for each in columns]
        common = [len(set(values)) == 1 for values in zip(*parts, strict=True)]
        if len(parts) == 1:
            common[1] = False  # a single column still needs a heading
        shared = ", ".join(part for part, same in zip(parts[0], common, strict=True) if same)
        own = [", ".join(part for part, same in zip(each, common, strict=True) if not same) for each in parts]
        keys = [each.key for each in columns]
        return shared, dict(zip(keys, own if len(set(own)) == len(own) else keys, strict=True))


def _difference(students: pd.DataFrame, baseline: pd.DataFrame) -> Estimate | None:
    """Paired over the seeds that both have; one set against one set is one value, over however many seeds."""
    seeds, columns = set(students["seed"]) & set(baseline["seed"]), ("seed", "student_seed", "last_top1")
    pair = [each[each["seed"].isin(seeds)] for each in (students, baseline)]
    rows = (zip(*(each[name] for name in columns), strict=True) for each in pair)
    found = paired_difference(*({(seed, student): value for seed, student, value in each} for each in rows))
    alone = found is not None and all(len(distinct_seeds(each)) == 1 for each in pair)
    return Estimate(found.mean, None, 1) if found and alone else found


def _shape(students: Sequence[int]) -> str:
    """Sets times students, from the students of each set.

    >>> _shape([3, 3]), _shape([1, 2]), _shape([])
    ('2 × 3', '2 sets, 3 students', '0')
    """
    if len(set(students)) == 1:
        return f"{len(students)} × {students[0]}"
    return f"{len(students)} sets, {sum(students)} students" if students else "0"


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(found) if found else None


def students_csv(summary: Summary) -> str:
    """One row a student, accuracies as fractions at full precision."""
    return _csv(summary.students[list(RECORDED)])


def cells_csv(summary: Summary) -> str:
    """One row a cell, accuracies as fractions at full precision; cells without a set are there, and empty.

    Of a sweep, what was swept stands in columns of its own; an estimate takes three, its mean and both ends.
    """
    parts = []
    for name, values in summary.cells.drop(columns=list(PRINTED), errors="ignore").items():
        if name in ("last_top1", "difference"):
            ends = [(each.mean, each.low, each.high) if each else (None, None, None) for each in values]
            parts.append(pd.DataFrame(ends, values.index, [name, f"{name}_low", f"{name}_high"], dtype=object))
        else:
            parts.append(values)
    return _csv(pd.concat(parts, axis="columns") if parts else pd.DataFrame())


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")
