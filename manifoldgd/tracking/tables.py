"""A whole table as one run, beside the runs of its cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from manifoldgd.report.grids import picture
from manifoldgd.store.keys import key_of
from manifoldgd.study.results import TableResult
from manifoldgd.study.statistics import Summary, computing_seconds
from manifoldgd.tracking.tracker import RunFacts, RunResult, Tracker, run_tags

JOB_TYPE = "table"  # of this run; the cells' runs are of the type "cell"
TAGGED = ("dataset", "student", "ipc")
TABLE, PER_CLASS, FIGURES = "table", "per_class", "figure/"  # what the run holds


def track_table(tracker: Tracker, result: TableResult, figures: Path, *, group: str) -> str | None:
    """Record a table as one run of job type ``table`` in the group of its cells; again replaces, never doubles.

    The run's id is that of the table's name and group, so another call continues the run, offline too: ``wandb sync``
    of its folders leads to the one run.

    The run holds the table and the per-class accuracies (accuracies in [0, 1]), the pictures ``figures/*.png``, and
    ``<column>/<method>/mean``, ``.../std``, ``.../ci95`` (over distilled sets) as its summary. Trouble with W&B is said
    in a line and changes nothing on disk.

    Args:
        tracker: not in use by another run.
        result: finished or not.
        figures: folder of the rendered pictures, in the table's own.
        group: of the cells' runs.

    Returns:
        Where the run can be looked at; ``None`` offline and without a tracker.
    """
    summary = Summary(result)
    cells = _cells(summary)
    tables = {TABLE: cells, PER_CLASS: _per_class(summary)}
    tags = {tag for one in result.columns for tag in run_tags({name: getattr(one, name) for name in TAGGED})}
    config = {"table": result.name, **_facts(result)}
    run = RunFacts(
        name=group,
        group=group,
        job_type=JOB_TYPE,
        config=config,
        run_id=f"table-{key_of(result.name, group)}",
        folder=figures.parent,
        tags=sorted(tags),
    )
    with tracker.tracking(run):
        url = tracker.url
        tracker.finish(
            RunResult(
                summary={"cells/finished": len(cells), "sets/failed": len(result.failed), **_numbers(cells)},
                tables={name: table.to_dict("list") for name, table in tables.items() if len(table)},
                images={f"{FIGURES}{file.stem}": picture(file) for file in sorted(figures.glob("*.png"))},
            )
        )
    return url


def _facts(result: TableResult) -> dict[str, Any]:
    names = ("title", "question", "methods", "seeds", "baseline", "split", "number_family", "notes")
    facts = {name: getattr(result, name) for name in names}
    return {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()},
        "columns": [column.title for column in result.columns],
        "student_seeds": {key: list(seeds) for key, seeds in result.students.items()},
        "parameters": dict(result.parameters),
        "code_versions": sorted({one.code_version for one in result.sets}),
    }


def _cells(summary: Summary) -> pd.DataFrame:
    """The finished cells; statistics of the last epoch are over different sets: students of one are no repetitions."""
    rows = [
        {
            **{name: cell[name] for name in ("column", "dataset", "ipc", "student", "method")},
            "mean": cell["last_top1"].mean,
            "std": cell["last_top1_between_sets"],
            "ci95": cell["last_top1"].half,
            "best_epoch_mean": cell["best_top1"],
            "sets": cell["sets_distinct"],
            "students": cell["students"],
            "seconds": computing_seconds(summary.sets_of(method, column)).sum(),
        }
        for column in summary.result.columns
        for method, cell in summary.of(column).iterrows()
        if cell["last_top1"]
    ]
    return pd.DataFrame(rows, dtype=object)


def _numbers(cells: pd.DataFrame) -> dict[str, float]:
    return {
        f"{cell['column']}/{cell['method']}/{name}": cell[name]
        for _, cell in cells.iterrows()
        for name in ("mean", "std", "ci95")
        if cell[name] is not None
    }


def _per_class(summary: Summary) -> pd.DataFrame:
    """A row a class and cell; not of a column with classes of its own."""
    rows = [
        {"column": column.key, "method": method, "class": name, "accuracy": accuracy}
        for column in summary.result.columns
        for method, accuracies in summary.per_class(column).items()
        if len(accuracies) == len(summary.result.class_names)
        for name, accuracy in zip(summary.result.class_names, accuracies, strict=True)
    ]
    return pd.DataFrame(rows)
