"""The cells of a study, one for each method, column and distillation seed: what is run, and where its result goes.

Cells that need equal sets share them: one makes the set, the others copy it. Columns that differ in the student are
such cells, and so are tables that differ in how students are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from manifoldgd.errors import UserError
from manifoldgd.files import one_at_a_time
from manifoldgd.store.keys import FETCHING, essence, key_of, read_json
from manifoldgd.store.results import NOTE, same_config
from manifoldgd.store.sets import copy_set, has_set
from manifoldgd.study.definition import override

# Where data lies and how it came there says nothing about what was measured.
PLACES = ("folder", *FETCHING)

Place = tuple[str, str, int]  # method, column, distillation seed


@dataclass(frozen=True, kw_only=True, eq=False)  # told apart by identity: configurations cannot be hashed
class Cell:
    """A set and its students. Cells of one name are one ``manifoldgd run``."""

    method: str
    column: str
    seed: int  # distillation seed
    overrides: tuple[str, ...]  # of `manifoldgd run`, without output
    set_config: dict[str, Any]  # what the set depends on, resolved
    judge_config: dict[str, Any]  # what its judgement depends on, resolved, without the students' seeds
    measures: bool = False  # whether the set is to be measured beside its students
    data: Mapping[str, Any] = field(default_factory=dict)  # hashes that its metrics have to hold, where they hold any

    @property
    def place(self) -> Place:
        """Where it stands in the table."""
        return self.method, self.column, self.seed

    @property
    def key(self) -> str:
        """What makes the cell this cell: equal keys, equal sets and students of equal seeds."""
        return key_of(*(essence(each, apart_from=PLACES) for each in (self.set_config, self.judge_config)))

    @property
    def name(self) -> str:
        """For people and for folders; the same for all seeds where the set depends on none."""
        return f"{self.column}/{self.method}{f'-seed{self.seed}' if 'seed' in self.set_config else ''}"

    def folder(self, output: Path) -> Path:
        """The result folder."""
        return output / "sets" / self.name

    def log(self, output: Path) -> Path:
        """What the run printed."""
        return output / "logs" / f"{self.name.replace('/', '-')}.log"

    def arguments(self, output: Path) -> list[str]:
        """Of ``manifoldgd``; the folder's name is what W&B groups the cells by."""
        named = {"table": output.name, "method": self.method, "column": self.column, "seed": self.seed}
        return ["run", *self.overrides, override("cell", named), override("output", str(self.folder(output)))]


def runs(cells: Iterable[Cell]) -> list[Cell]:
    """The first cell of each name: what is run so that all cells have a result."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.name, cell)
    return list(found.values())


def in_turn(cells: Iterable[Cell], seeds: Sequence[int]) -> list[Cell]:
    """Seed by seed, so that a table that is stopped half-way has as many seeds in every cell."""
    order = {seed: index for index, seed in enumerate(seeds)}
    return sorted(cells, key=lambda cell: order[cell.seed])


def waits(cell: Cell, running: Iterable[Cell], output: Path) -> bool:
    """Whether one of the ``running`` cells is making the set that ``cell`` needs."""
    return not has_set(cell.folder(output)) and any(
        same_config(each.set_config, cell.set_config) and not has_set(each.folder(output)) for each in running
    )


def share_set(cell: Cell, output: Path, others: Iterable[Cell] = ()) -> None:
    """Copy the set of a cell from the folder of another one, if there is an equal one and its own is not begun.

    Args:
        cell: about to be run.
        output: folder of the study, on which this process holds the lock.
        others: cells of the study; those whose results lie elsewhere are looked at there.
    """
    folders = (one.folder(output) for one in others if same_config(one.set_config, cell.set_config))
    elsewhere = (folder for folder in folders if not folder.is_relative_to(output) and has_set(folder))
    _take_set(cell, output, chain(elsewhere, _equal_sets(cell, output)))


def take_sets(cells: Iterable[Cell], output: Path, places: Sequence[Path]) -> int:
    """Copy the sets of cells from the folders of tables, where they hold equal ones.

    Args:
        cells: those whose set is begun or finished in ``output`` keep it.
        output: folder of the table, on which this process holds the lock.
        places: folders of tables, the first that has a set counts; nobody needs to hold a lock on them.

    Returns:
        How many were copied.
    """
    return sum(
        _take_set(cell, output, (found for place in places for found in _equal_sets(cell, place))) for cell in cells
    )


def _take_set(cell: Cell, output: Path, sources: Iterable[Path]) -> bool:
    """Whether the first of ``sources`` was copied; not where a set is begun, or another process works on the result."""
    folder = cell.folder(output)

    def busy() -> None:
        raise UserError(f"output: another process works in {folder}; wait for it")

    if (folder / "set").exists() or (source := next(iter(sources), None)) is None:
        return False
    with suppress(UserError), one_at_a_time(folder / "result", busy):  # as every run holds its folder
        if not (folder / "set").exists():
            copy_set(source, folder, cell.set_config)
            return True
    return False


def _equal_sets(cell: Cell, output: Path) -> Iterator[Path]:
    """Result folders of a table with a complete set of the same configuration, also of cells not asked for now."""
    for note in sorted((output / "sets").glob(f"*/*/{NOTE}")):
        if not note.resolve().is_relative_to(output.resolve()):
            continue  # a link out of the folder, which may have come from elsewhere
        with suppress(UserError):  # a note that cannot be read is no set to copy; whose cell it is says so
            if same_config(read_json(note).get("set"), cell.set_config) and has_set(note.parent):
                yield note.parent
