"""A table for programs: CSV with every number at full precision, accuracies as fractions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from manifoldgd.estimates import Estimate
from manifoldgd.study.summary import CellSummary, Summary

STUDENT_FIELDS = (
    "method",
    "column",
    "dataset",
    "ipc",
    "student",
    "label_protocol",
    "split",
    "seed",
    "student_seed",
    "last_top1",
    "best_top1",
    "key",
    "fingerprint",
    "code_version",
)


def cells_csv(summary: Summary) -> str:
    """One row a cell, accuracies as fractions at full precision; cells without a set are there, and empty."""
    measures = sorted({key for one in summary.result.sets for key in one.measures})
    guidance = sorted({key for one in summary.result.sets for key in one.guidance})
    stages = sorted({key for one in summary.result.sets for key in one.seconds})
    rows = []
    for cell in summary.cells.values():
        row = _cell_row(summary, cell)
        row |= {f"measure_{key}": cell.average("measures", key) for key in measures}
        row |= {f"guidance_{key}": cell.average("guidance", key) for key in guidance}
        row |= {f"seconds_{key}": cell.average("seconds", key) for key in stages}
        rows.append(row)
    return _csv(list(rows[0]) if rows else [], rows)


def students_csv(summary: Summary) -> str:
    """One row a student."""
    rows = []
    for cell in summary.cells.values():
        column = cell.column
        place = {
            "method": cell.method,
            "column": column.key,
            "dataset": column.dataset,
            "ipc": column.ipc,
            "student": column.student,
            "label_protocol": column.label_protocol,
            "split": summary.result.split,
        }
        for one in cell.sets:
            made = {name: getattr(one, name) for name in ("seed", "key", "fingerprint", "code_version")}
            for student, last, best in zip(one.student_seeds, one.last, one.best, strict=True):
                rows.append({**place, **made, "student_seed": student, "last_top1": last, "best_top1": best})
    return _csv(STUDENT_FIELDS, rows)


def _cell_row(summary: Summary, cell: CellSummary) -> dict[str, Any]:
    column, last, published = cell.column, cell.last, cell.published[0] if cell.published else None
    return {
        "method": cell.method,
        "column": column.key,
        "dataset": column.dataset,
        "ipc": column.ipc,
        "student": column.student,
        "label_protocol": column.label_protocol,
        "split": summary.result.split,
        "sets": len(cell.sets),
        "sets_asked": cell.asked,
        "sets_distinct": len(cell.distinct),
        "students": last.students if last else 0,
        **_interval("last_top1", last and last.interval),
        "last_top1_between_sets": last and last.between,
        "last_top1_within_set": last and last.within,
        "best_top1": cell.best and cell.best.interval.mean,
        "baseline": summary.result.baseline,
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


def _csv(fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return buffer.getvalue()
