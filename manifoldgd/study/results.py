"""What a study holds once (some of) its cells are measured. The one artifact between the runner and the pages.

A *cell* is one method in one column; it is measured on several distilled sets (distillation seeds), each judged by
several students (student seeds). A :class:`SetResult` is one of these sets with its students.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypedDict

from manifoldgd.errors import UserError, require
from manifoldgd.store.keys import read_json, write_json

Labels = Literal["hard", "soft"]

FORMAT = 2  # of results.json; in format 1 a set held its students by quantity, here each of them is a row


@dataclass(frozen=True, kw_only=True)
class Column:
    """Where methods are compared: one dataset, one number of images a class, one student under one protocol."""

    key: str  # short and unique within the table, for instance "ipc10-convnet3"
    dataset: str  # name of the dataset, variant included
    ipc: int
    student: str  # as results call it, for instance "ConvNet-3"
    label_protocol: str  # for instance "hard_small"
    labels: Labels = "hard"  # of the protocol; hard and soft ones never share a table
    student_seeds: tuple[int, ...] | None = None  # asked for here; None: those of the table

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.dataset}, ipc {self.ipc}, {self.student}"


class Judgement(TypedDict):
    """What one student says of a set: a row of the long frame. Accuracies are fractions in [0, 1]."""

    student_seed: int
    last_top1: float  # after the last epoch: the headline
    best_top1: float | None  # best evaluated epoch: shown apart, never ranked by
    per_class: Sequence[float] | None  # last-epoch accuracy of each class


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """One distilled set, judged by its students."""

    method: str  # row of the table
    column: str  # key of a Column
    seed: int  # distillation seed
    key: str  # hash of the configuration that was run: what makes the cell this cell
    students: tuple[Judgement, ...]
    seconds: Mapping[str, float]  # distill, students, metrics
    measures: Mapping[str, float | None] = field(default_factory=dict)  # set metrics: frechet distance and so on
    guidance: Mapping[str, float | None] = field(default_factory=dict)  # means over steps: "ratio", "kept"
    grid: str | None = None  # path of grid.png, relative to the folder of results.json
    code_version: str = ""
    hardware: str = ""
    run: str | None = None  # link to the tracked run
    fingerprint: str = ""  # hash of the set's images and labels; empty in records from before it was taken

    @classmethod
    def of_run(
        cls,
        metrics: Mapping[str, Any],
        *,
        method: str,
        column: str,
        seed: int,
        key: str,
        student_seeds: Sequence[int],
        grid: str | None,
    ) -> SetResult:
        """From what a run left in ``metrics.json``; students of other seeds are left out.

        Raises:
            KeyError: a student or a part is not there.
        """
        by_seed = {one["seed"]: one for one in metrics["students"]}
        students = [by_seed[seed] for seed in student_seeds]
        return cls(
            method=method,
            column=column,
            seed=seed,
            key=key,
            students=tuple(
                Judgement(
                    student_seed=one["seed"],
                    last_top1=one["last_top1"],
                    best_top1=one["best_top1"],
                    per_class=one["per_class"],
                )
                for one in students
            ),
            seconds={**metrics["seconds"], "students": round(math.fsum(one["seconds"] for one in students), 2)},
            measures=metrics["set_metrics"],
            guidance=_mean_guidance(metrics["guidance"]),
            grid=grid,
            code_version=metrics.get("code_version", ""),
            hardware=metrics.get("hardware", ""),
            run=metrics.get("run_url"),
            fingerprint=metrics.get("fingerprint", ""),
        )

    @property
    def student_seeds(self) -> tuple[int, ...]:
        """Of the students that judged it."""
        return tuple(one["student_seed"] for one in self.students)

    @property
    def mean_top1(self) -> float:
        """Last-epoch accuracy, the mean over its students."""
        return fmean(one["last_top1"] for one in self.students)


def _mean_guidance(guidance: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Means over the guided steps."""
    if not guidance:
        return {}
    means: dict[str, float | None] = {}
    for name in ("ratio", "kept"):
        values = [step[f"{name}_mean"] for step in guidance["steps"] if step[f"{name}_mean"] is not None]
        means[name] = sum(values) / len(values) if values else None
    return means


@dataclass(frozen=True, kw_only=True)
class FailedSet:
    """A set that could not be made or judged."""

    method: str
    column: str
    seed: int
    reason: str  # one line


@dataclass(frozen=True, kw_only=True)
class TableResult:
    """A table, finished or not."""

    name: str  # folder under experiments/
    title: str
    question: str = ""
    columns: tuple[Column, ...]
    methods: tuple[str, ...]  # rows, in the order of table.yaml
    class_names: tuple[str, ...] = ()  # none where columns differ in them
    seeds: tuple[int, ...]  # distillation seeds asked for
    student_seeds: tuple[int, ...] = ()  # asked for, where a column has none of its own
    baseline: str = ""  # method that the others are compared with, on the same seeds; a sweep has none
    split: Literal["test", "validation"]  # which images judged
    number_family: str = ""  # of published numbers that may stand beside these (``published_results.csv``)
    published_as: Mapping[str, str] = field(default_factory=dict)  # method -> its name in published_results.csv
    parameters: Mapping[str, float] = field(default_factory=dict)  # method -> guidance scale, for that plot
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of a sweep: method -> key -> value
    notes: tuple[str, ...] = ()  # what a reader must know, for instance where the defaults were tuned
    sets: tuple[SetResult, ...] = ()
    failed: tuple[FailedSet, ...] = ()

    @property
    def students(self) -> Mapping[str, tuple[int, ...]]:
        """The student seeds asked for in each column, by its key."""
        return {column.key: column.student_seeds or self.student_seeds for column in self.columns}

    @property
    def student_seeds_text(self) -> str:
        """The student seeds of the table, and of the columns that have others; for people."""
        groups: dict[str, list[str]] = {}
        for key, seeds in self.students.items():
            groups.setdefault(", ".join(map(str, seeds)), []).append(key)
        return "; ".join(f"{seeds} ({', '.join(keys)})" if len(groups) > 1 else seeds for seeds, keys in groups.items())

    def save(self, file: Path) -> None:
        """Write ``results.json``, whole or not at all."""
        write_json(file, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, file: Path) -> TableResult:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the file is unreadable, of another format, or does not hold a table.
        """
        held = read_json(file)
        require(
            held.get("format") in (1, FORMAT),
            f"{file}: holds a table of format {held.get('format')}, this version reads 1 and {FORMAT}; "
            "choose another output or remove the file",
        )
        try:
            held = {key: value for key, value in held.items() if key != "format"}
            parts: dict[str, Any] = {
                "columns": tuple(column_of(each) for each in held.pop("columns")),
                "sets": tuple(_set_result(each) for each in held.pop("sets")),
                "failed": tuple(FailedSet(**each) for each in held.pop("failed")),
            }
            lists = {key: tuple(value) for key, value in held.items() if isinstance(value, list)}
            return cls(**{**held, **lists, **parts})
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{file}: is no table of ours ({error}); choose another output or remove it") from error


def column_of(held: Mapping[str, Any]) -> Column:
    """A column as a record holds it."""
    seeds = held.get("student_seeds")
    # Records from before the labels were noted: there the names of soft-label protocols begin with the word.
    labels = held.get("labels") or ("soft" if held["label_protocol"].startswith("soft") else "hard")
    return Column(**{**held, "labels": labels, "student_seeds": None if seeds is None else tuple(seeds)})


def _set_result(held: dict[str, Any]) -> SetResult:
    if "students" not in held:  # format 1: a list a quantity, in the order of the students
        quantities = ("student_seeds", "last", "best", "per_class")
        seeds, last, best, per_class = (held.pop(name) for name in quantities)
        students = zip_longest(seeds, last, best, per_class)
        held["students"] = [dict(zip(Judgement.__annotations__, one, strict=True)) for one in students]
    return SetResult(**{**held, "students": tuple(held["students"])})
