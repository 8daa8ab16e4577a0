"""Cells that need equal sets: one makes it, the others copy it.

Columns that differ in the student are such cells, and so are tables that differ in how students are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from manifoldgd.errors import UserError
from manifoldgd.store.keys import read_json
from manifoldgd.store.results import NOTE, same_config
from manifoldgd.store.sets import copy_set, has_set
from manifoldgd.study.cells import Cell


def waits(cell: Cell, running: Iterable[Cell], output: Path) -> bool:
    """Whether one of the ``running`` cells is making the set that ``cell`` needs."""
    return not has_set(cell.folder(output)) and any(
        same_config(each.set_config, cell.set_config) and not has_set(each.folder(output)) for each in running
    )


def share_set(cell: Cell, output: Path) -> None:
    """Copy the set of a cell from the folder of another one, if there is an equal one and its own is not begun.

    Args:
        cell: about to be run.
        output: folder of the table, on which this process holds the lock.
    """
    folder = cell.folder(output)
    if not (folder / "set").exists() and (source := _source(cell, output)):
        copy_set(source, folder, cell.set_config)


def take_sets(cells: Iterable[Cell], output: Path, places: Sequence[Path]) -> int:
    """Copy the sets of cells from the folders of other tables, where they hold equal ones.

    Args:
        cells: those whose set is begun or finished in ``output`` keep it.
        output: folder of the table, on which this process holds the lock.
        places: folders of other tables, the first that has a set counts; nobody needs to hold a lock on them.

    Returns:
        How many were copied.
    """
    taken = 0
    for cell in cells:
        folder = cell.folder(output)
        sources = () if (folder / "set").exists() else (_source(cell, place) for place in places)
        if source := next(filter(None, sources), None):
            copy_set(source, folder, cell.set_config)
            taken += 1
    return taken


def in_waves(cells: Sequence[Cell], output: Path) -> list[list[Cell]]:
    """Cells that can run at once, and then those that need a set of the first."""
    first: list[Cell] = []
    later: list[Cell] = []
    for cell in cells:
        share_set(cell, output)
        (later if waits(cell, first, output) else first).append(cell)
    return [wave for wave in (first, later) if wave]


def _source(cell: Cell, output: Path) -> Path | None:
    """A result folder of the table with a complete set of the same configuration, also of cells not asked for now."""
    for note in sorted((output / "sets").glob(f"*/*/{NOTE}")):
        if not note.resolve().is_relative_to(output.resolve()):
            continue  # a link out of the folder, which may have come from elsewhere
        with suppress(UserError):  # a note that cannot be read is no set to copy; whose cell it is says so
            if same_config(read_json(note).get("set"), cell.set_config) and has_set(note.parent):
                return note.parent
    return None
