"""Accuracies that others published, each with its source and its *number family*.

Papers of this field copy their baselines from one another in families; the same unchanged baseline differs by points
from family to family (other epochs, other crops, other test images). A number of another family may stand beside a
measured one only with a mark that says so.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from manifoldgd.errors import UserError, require
from manifoldgd.study.results import Column

FILE = Path(__file__).with_name("published_results.csv")
TEXTS = ("dataset", "number_family", "labels", "student", "method", "kind", "source")
NUMBERS = ("ipc", "top1_percent")  # std may be empty: not every source gives one


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published accuracy, fractions in [0, 1]."""

    dataset: str
    number_family: str
    labels: str  # "hard" or "soft"
    student: str
    ipc: int
    method: str  # as the source calls it
    kind: str  # "training-free", "training-based", "coreset", "full data", ...
    top1: float
    std: float | None  # as the source gives it, over whatever it repeats
    source: str

    def stands_beside(self, column: Column) -> bool:
        """Whether it was measured where a column is; hard and soft labels are never crossed."""
        names = ("dataset", "labels", "student", "ipc")
        return all(getattr(self, name) == getattr(column, name) for name in names)


@cache
def published_results() -> tuple[Published, ...]:
    """Every row of the packaged file."""
    return read_published(FILE)


def read_published(file: Path) -> tuple[Published, ...]:
    """Rows of a file like ``published_results.csv``.

    Raises:
        UserError: a column is missing, or a number is none.
    """
    rows = []
    with file.open(encoding="utf-8", newline="") as stream:
        for line, held in enumerate(csv.DictReader(stream), start=2):
            missing = [key for key in (*TEXTS, *NUMBERS) if not held.get(key)]
            require(not missing, f"{file}, line {line}: {', '.join(missing)} missing; only std may be empty")
            try:
                top1, ipc = float(held["top1_percent"]) / 100, int(held["ipc"])
                std = float(held["std"]) / 100 if held.get("std") else None
            except ValueError as error:
                raise UserError(f"{file}, line {line}: {error}; expected numbers in ipc, top1_percent, std") from error
            rows.append(Published(top1=top1, std=std, ipc=ipc, **{key: held[key] for key in TEXTS}))
    return tuple(rows)


def find_published(
    rows: Collection[Published], column: Column, *, method: str, number_family: str
) -> tuple[Published, ...]:
    """What was published for one cell: the row of ``number_family``, or else those of all other families.

    Args:
        rows: where to look.
        column: of the cell.
        method: as the publications call it.
        number_family: the family wanted. Rows of any other need a mark: compare their ``number_family`` with it.
    """
    found = [row for row in rows if row.stands_beside(column) and row.method == method]
    return tuple([row for row in found if row.number_family == number_family] or found)


def not_run(
    rows: Collection[Published], column: Column, *, number_family: str, run: Collection[str]
) -> tuple[Published, ...]:
    """What ``number_family`` holds for a column besides the methods in ``run`` (published names), best first."""
    found = [row for row in rows if row.stands_beside(column) and row.number_family == number_family]
    return tuple(sorted((row for row in found if row.method not in run), key=lambda row: -row.top1))
