"""A whole table as one run, beside the runs of its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from manifoldgd.store.keys import key_of
from manifoldgd.study.results import TableResult
from manifoldgd.study.summary import CellSummary, summarise
from manifoldgd.study.timing import computing_seconds
from manifoldgd.tracking.tracker import Tracker, run_tags

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
        figures: folder of the rendered pictures.
        group: of the cells' runs.

    Returns:
        Where the run can be looked at; ``None`` offline and without a tracker.
    """
    tracker.start(
        name=group,
        group=group,
        job_type=JOB_TYPE,
        config={"table": result.name, **_facts(result)},
        tags=sorted({tag for one in result.columns for tag in run_tags({name: getattr(one, name) for name in TAGGED})}),
        run_id=f"table-{key_of(result.name, group)}",
    )
    exit_code, url = 1, tracker.url
    try:
        summary = summarise(result)
        cells = [cell for column in result.columns for cell in summary.column(column) if cell.last]
        tables = {TABLE: _columns(_rows(result, cells)), PER_CLASS: _columns(_per_class(cells, result.class_names))}
        tracker.finish(
            summary={"cells/finished": len(cells), "sets/failed": len(result.failed), **_numbers(cells)},
            tables={name: columns for name, columns in tables.items() if columns},
            images={f"{FIGURES}{file.stem}": _picture(file) for file in sorted(figures.glob("*.png"))},
        )
        exit_code = 0
    finally:
        tracker.close(exit_code)
    return url


def _facts(result: TableResult) -> dict[str, Any]:
    names = ("title", "question", "methods", "seeds", "baseline", "split", "number_family", "notes")
    facts = {name: getattr(result, name) for name in names}
    versions = Counter(one.code_version for one in result.sets)
    return {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()},
        "columns": [column.title for column in result.columns],
        "student_seeds": {key: list(seeds) for key, seeds in result.students.items()},
        "parameters": dict(result.parameters),
        "code_versions": sorted(versions),
    }


def _statistics(cell: CellSummary) -> dict[str, float | None]:
    """Of the last epoch, over different sets: students of one are no independent repetitions."""
    return {"mean": cell.last.interval.mean, "std": cell.last.between, "ci95": cell.last.interval.half}


def _numbers(cells: list[CellSummary]) -> dict[str, float]:
    return {
        f"{cell.column.key}/{cell.method}/{name}": value
        for cell in cells
        for name, value in _statistics(cell).items()
        if value is not None
    }


def _rows(result: TableResult, cells: list[CellSummary]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        column = cell.column
        yield {
            "column": column.key,
            "dataset": column.dataset,
            "ipc": column.ipc,
            "student": column.student,
            "method": cell.method,
            **_statistics(cell),
            "best_epoch_mean": cell.best and cell.best.interval.mean,
            "sets": len(cell.distinct),
            "students": cell.last.students,
            "seconds": computing_seconds(result.of(cell.method, column.key)).total(),
        }


def _per_class(cells: list[CellSummary], class_names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        accuracies = cell.per_class or ()
        if len(accuracies) == len(class_names):  # not of a column with classes of its own
            for name, accuracy in zip(class_names, accuracies, strict=True):
                yield {"column": cell.column.key, "method": cell.method, "class": name, "accuracy": accuracy}


def _columns(rows: Iterator[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns


def _picture(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.copy()
