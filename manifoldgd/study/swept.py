"""A sweep as a study: what its jobs varied becomes rows, the places where they compare become columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manifoldgd.dataset import judging_split
from manifoldgd.report.measures import check_format
from manifoldgd.store.keys import key_of
from manifoldgd.study.page import settings_text
from manifoldgd.study.results import Column, SetResult, TableResult, column_of

Job = tuple[Mapping[str, str], Mapping[str, Any]]  # overrides of a job, and its ``metrics.json``

PLACES = ("dataset", "ipc", "student")  # keys of a run that say where accuracies compare
SEEDS = ("seed", "student_seeds")


def swept_result(folder: Path, jobs: Sequence[Job], *, name: str, title: str) -> TableResult:
    """The finished jobs of a sweep, for the same frame, statistics and page as a table.

    Accuracies of another dataset, number of images a class, student or label protocol are other quantities: each has a
    column of its own. Jobs that differ in nothing but their distillation seed are sets of one cell. There is no
    baseline.

    Args:
        folder: of the sweep; links to the jobs' results are relative to it.
        jobs: of each finished job the overrides that vary within the sweep, and its record of format 1.
        name: of the sweep.
        title: heading.

    Raises:
        UserError: a record has another format.
    """
    for _, metrics in jobs:
        check_format(metrics)
    varied = dict.fromkeys(key for overrides, _ in jobs for key in overrides)
    keys = [key for key in varied if key not in (*PLACES, *SEEDS)]
    settings: dict[str, dict[str, str]] = {}
    columns: dict[str, Column] = {}
    sets: list[SetResult] = []
    seeds: dict[str, set[int]] = {}
    for overrides, metrics in jobs:
        own = {key: str(overrides[key]) for key in keys if key in overrides}
        method = _row_name(settings, own, metrics)
        column = _column_of(metrics)
        columns.setdefault(column.key, column)
        seeds.setdefault(column.key, set()).update(metrics["student_seeds"])
        sets.append(
            SetResult.of_run(
                metrics,
                method=method,
                column=column.key,
                seed=metrics["distillation_seed"],
                key=metrics.get("fingerprint") or key_of(own, metrics["distillation_seed"]),
                student_seeds=metrics["student_seeds"],
                grid=_grid(folder, metrics),
            )
        )
    return TableResult(
        name=name,
        title=title,
        question=f"Varied: {', '.join(varied)}." if varied else "",
        columns=tuple(
            Column(**{**vars(column), "student_seeds": tuple(sorted(seeds[key]))}) for key, column in columns.items()
        ),
        methods=tuple(settings),
        class_names=(),
        seeds=tuple(sorted({one.seed for one in sets})),
        student_seeds=(),
        baseline="",
        split="validation" if {judging_split(metrics["dataset"]) for _, metrics in jobs} == {"validation"} else "test",
        number_family="",
        settings=settings if keys else {},
        sets=tuple(sets),
    )


def _row_name(settings: dict[str, dict[str, str]], own: dict[str, str], metrics: Mapping[str, Any]) -> str:
    """The name of the row with these settings, entered if it is new; told apart by keys where values alone do not."""
    name = settings_text(own) or str(metrics["method"])
    if settings.setdefault(name, own) != own:
        name = " ".join(f"{key}={value}" for key, value in own.items())
        settings.setdefault(name, own)
    return name


def _column_of(metrics: Mapping[str, Any]) -> Column:
    place = {name: metrics[name] for name in ("dataset", "ipc", "student", "label_protocol")}
    return column_of({"key": "-".join(str(value) for value in place.values()), **place})


def _grid(folder: Path, metrics: Mapping[str, Any]) -> str | None:
    home = metrics.get("folder")
    file = Path(home) / "grid.png" if home else None
    return os.path.relpath(file, folder) if file is not None and file.is_file() else None
