"""Pictures of an earlier rendering that a table no longer has: found by what was rendered, so no other file goes.

``table.csv`` says which methods and columns the last rendering in a folder had, and names of pictures follow from them.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path

from manifoldgd.report.table_page import figure_name

CSV = "table.csv"
FIGURES = "figures"
BY_COLUMN = ("accuracy", "difference", "scale", "per_class")  # first parts of the names of figures
BY_PLACE = ("ipc_accuracy", "ipc_difference")  # of a dataset and a student


def remove_figures(folder: Path, kept: Collection[str]) -> None:
    """Remove the figures of the last rendering in ``folder`` whose names, without suffix, are not in ``kept``.

    To be called before ``table.csv`` is written anew.
    """
    names = set()
    for row in _rendered(folder):
        names |= {figure_name(kind, row["column"]) for kind in BY_COLUMN}
        names |= {figure_name(kind, f"{row['dataset']}_{row['student']}") for kind in BY_PLACE}
    _remove(folder / FIGURES, names - set(kept))


def _rendered(folder: Path) -> Iterator[dict[str, str]]:
    """A row for each method and column of the last rendering; none where a file is not ours."""
    try:
        with (folder / CSV).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error):
        return
    yield from (row for row in rows if all(row.get(key) for key in ("method", "column", "dataset", "student")))


def _remove(folder: Path, names: Collection[str]) -> None:
    for file in folder.glob("*.png"):
        if file.stem in names:
            file.unlink()
