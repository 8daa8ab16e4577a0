"""The cells of a table, one for each method, column and distillation seed, and where each leaves its result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifoldgd.store.keys import FETCHING, essence, key_of
from manifoldgd.study.definition import override

# Where data lies and how it came there says nothing about what was measured.
PLACES = ("folder", *FETCHING)


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
