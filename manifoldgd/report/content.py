"""What a page says, once: headings, paragraphs, notes, tables of typed numbers, figures. Nothing of how it is printed.

The renderers :mod:`manifoldgd.report.html` and :mod:`manifoldgd.report.text` (Markdown, LaTeX, terminal) take it from
here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from PIL import Image

from manifoldgd.estimates import Estimate
from manifoldgd.report.numbers import (
    ACCURACY,
    MISSING,
    Number,
    finite,
    mean_of,
    number_format,
    number_text,
    percent,
    plus_minus,
)

if TYPE_CHECKING:
    from manifoldgd.report.canvas import Plot


@dataclass(frozen=True)
class Marked:
    """A number with what must stand behind it: the sign of a verdict or of a footnote, what is missing."""

    number: Number
    mark: str


@dataclass(frozen=True)
class Link:
    """Text that leads somewhere on a page; elsewhere the text alone."""

    text: str
    url: str

    def __str__(self) -> str:
        return self.text


Cell = str | int | float | Estimate | Marked | Link | None
End = Literal["high", "low"]


@dataclass(frozen=True)
class Column:
    """What a column holds.

    A *setting* is printed as given; a *measure* is a number. Percentages have one decimal, other measures the digits
    that their intervals support, the same for the whole column.
    """

    key: str  # unique in its table
    title: str  # name for people, with the unit
    kind: Literal["setting", "measure"] = "measure"
    better: End | None = None  # which end is marked best; None marks nothing
    percent: bool = False  # values are fractions, people see percentages
    signed: bool = False  # a plus before positive numbers, for differences


@dataclass(frozen=True)
class Table:
    """Columns and rows.

    Raises:
        ValueError: a row has not one cell a column, or two columns share a key.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        if len(set(keys)) < len(keys):
            raise ValueError(f"columns: expected distinct keys, got {keys}")
        for position, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"rows[{position}]: expected {len(self.columns)} cells, got {len(row)}")

    @classmethod
    def of(cls, columns: Sequence[tuple[Column, Sequence[Cell]]], caption: str = "") -> Table:
        """From columns with their cells; those in which every cell is ``None`` are left out."""
        held = [(column, cells) for column, cells in columns if any(cell is not None for cell in cells)]
        rows = [list(row) for row in zip(*(cells for _, cells in held), strict=True)]
        return cls([column for column, _ in held], rows, caption)

    @property
    def plus_minus(self) -> str:
        """What ``±`` means in this table; empty where it has none."""
        return plus_minus(number_of(cell) for row in self.rows for cell in row)

    def best_cells(self) -> frozenset[tuple[int, int]]:
        """``(row, column)`` of the best mean of each directed column, equal ones all.

        Missing, NaN and infinite values are never best; where all values are equal, none is better than another.
        """
        best = set()
        for position, column in enumerate(self.columns):
            means = {row: mean_of(number_of(cells[position])) for row, cells in enumerate(self.rows) if column.better}
            ranked = {row: mean for row, mean in means.items() if finite(mean)}
            if len(set(ranked.values())) > 1:
                goal = max(ranked.values()) if column.better == "high" else min(ranked.values())
                best |= {(row, position) for row, mean in ranked.items() if mean == goal}
        return frozenset(best)

    def texts(self) -> list[list[str]]:
        """Every cell as people see it."""
        columns = [_texts(column, [row[i] for row in self.rows]) for i, column in enumerate(self.columns)]
        return [[column[row] for column in columns] for row in range(len(self.rows))]


def number_of(cell: Cell) -> Number:
    """The number in a cell; text has none."""
    if isinstance(cell, Marked):
        return cell.number
    return None if isinstance(cell, str | Link) else cell


def _texts(column: Column, cells: Sequence[Cell]) -> list[str]:
    if column.kind == "setting":
        return [MISSING if cell is None or cell != cell else str(cell) for cell in cells]
    numbers = [percent(number_of(cell)) if column.percent else number_of(cell) for cell in cells]
    spec = ("+" if column.signed else "") + (ACCURACY if column.percent else number_format(numbers))
    marks = [cell.mark if isinstance(cell, Marked) else "" for cell in cells]
    return [f"{number_text(number, spec)} {mark}".rstrip() for number, mark in zip(numbers, marks, strict=True)]


@dataclass(frozen=True)
class Figure:
    """A picture with what it shows (``caption``) and what one would read aloud in its place (``alt``)."""

    image: Plot | Image.Image | Callable[[], Plot | Image.Image]  # a function is called once it is needed
    caption: str
    alt: str
    dark: Image.Image | None = None  # the same picture for dark pages; plots take their colours from the page
    pixels_per_point: float = 1.0  # image pixels for one page pixel at full size
    min_width: int = 0  # page pixels below which the figure scrolls instead of shrinking
    shape: Literal["", "wide", "narrow"] = ""  # takes a row of its own; several stand side by side
    name: str = ""  # stem of the file it is also saved as, if any
    url: str | None = None  # where a click leads

    @cached_property
    def drawn(self) -> Plot | Image.Image:
        """The picture."""
        return self.image() if callable(self.image) else self.image

    def png(self) -> bytes:
        """The picture for light pages, as a file."""
        if not isinstance(self.drawn, Image.Image):
            return self.drawn.png()
        buffer = io.BytesIO()
        self.drawn.save(buffer, format="PNG", optimize=True)
        return buffer.getvalue()


@dataclass(frozen=True)
class Notes:
    """Lines of small print."""

    lines: Sequence[str]


Block = str | Notes | Figure | Table  # a string is a paragraph


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in order."""

    title: str
    blocks: Sequence[Block]
    folded: bool = False  # opened by a click; a terminal shows the notes of it only
    links: bool = False  # leads to other pages, and says nothing where one cannot click


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything a page says."""

    title: str
    subtitle: str = ""
    notices: Sequence[str] = ()  # what nobody may overlook, above everything else
    key_figures: Sequence[tuple[str, str, str]] = ()  # (label, value, note); the first is the headline
    sections: Sequence[Section] = field(default_factory=tuple)
    config: str = ""  # the resolved configuration, folded at the end

    def figures(self) -> Iterator[Figure]:
        """Those that are also saved as files."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Figure) and block.name)
