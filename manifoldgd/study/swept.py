"""A sweep as a study: what its jobs varied becomes rows, the places where they compare become columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manifoldgd.dataset import judging_split
from manifoldgd.report.measures import check_format
from manifoldgd.store.keys import key_of
from manifoldgd.study.page import settings_text
from manifoldgd.study.results import Column, SetResult, TableResult, column_of

Job = tuple[Mapping[str, str], Mapping[str, Any]]  # overrides of a job, and its ``metrics.json``

OF_COLUMNS = ("dataset", "ipc", "student", "seed", "student_seeds")  # keys of a run that make no row of their own


def swept_result(folder: Path, jobs: Sequence[Job], *, title: str) -> TableResult:
    """The finished jobs of a sweep, for the same frame, statistics and page as a table.

    Accuracies of another dataset, number of images a class, student or label protocol are other quantities: each has a
    column of its own. Jobs that differ in nothing but their distillation seed are sets of one cell. There is no
    baseline.

    Args:
        folder: of the sweep, whose name is the sweep's; links to the jobs' results are relative to it.
        jobs: of each finished job the overrides that vary within the sweep, and its record of format 1.
        title: heading.

    Raises:
        UserError: a record has another format.
    """
    varied = dict.fromkeys(key for overrides, _ in jobs for key in overrides)
    settings: dict[str, dict[str, str]] = {}
    columns: dict[str, Column] = {}
    sets: list[SetResult] = []
    for overrides, metrics in jobs:
        check_format(metrics)
        own = {key: str(value) for key, value in overrides.items() if key not in OF_COLUMNS}
        method = settings_text(own) or str(metrics["method"])
        if settings.setdefault(method, own) != own:  # values alone do not tell the rows apart
            method = " ".join(f"{key}={value}" for key, value in own.items())
            settings.setdefault(method, own)
        place = {name: metrics[name] for name in ("dataset", "ipc", "student", "label_protocol")}
        key = "-".join(map(str, place.values()))
        column = columns.setdefault(key, column_of({"key": key, **place}))
        seeds = sorted({*(column.student_seeds or ()), *metrics["student_seeds"]})
        columns[key] = replace(column, student_seeds=tuple(seeds))
        grid = Path(metrics["folder"], "grid.png") if metrics.get("folder") else None
        one = SetResult.of_run(
            metrics,
            method=method,
            column=key,
            seed=metrics["distillation_seed"],
            key=metrics.get("fingerprint") or key_of(own, metrics["distillation_seed"]),
            student_seeds=metrics["student_seeds"],
            grid=os.path.relpath(grid, folder) if grid and grid.is_file() else None,
        )
        sets.append(one)
    return TableResult(
        name=folder.name,
        title=title,
        question=f"Varied: {', '.join(varied)}." if varied else "",
        columns=tuple(columns.values()),
        methods=tuple(settings),
        seeds=tuple(sorted({one.seed for one in sets})),
        split="validation" if {judging_split(metrics["dataset"]) for _, metrics in jobs} == {"validation"} else "test",
        settings=settings if any(settings.values()) else {},
        sets=tuple(sets),
    )
