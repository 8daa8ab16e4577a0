"""One table, five faces: HTML, Markdown, CSV, LaTeX and plain text, with the best cell of each column marked."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from markupsafe import Markup

from manifoldgd.report.markup import render
from manifoldgd.report.numbers import (
    MISSING,
    Spread,
    finite,
    number_format,
    percent,
    spread_text,
)


@dataclass(frozen=True)
class Link:
    """Text that leads somewhere on a page; elsewhere the text alone."""

    text: str
    url: str

    def __str__(self) -> str:
        return self.text


Cell = str | int | float | Spread | Link | None


@dataclass(frozen=True)
class Column:
    """What a column holds.

    A *setting* is printed as given; a *measure* is a number (or a :class:`Spread`) printed to the digits its spread
    supports, the same for the whole column.
    """

    key: str  # name in CSV files
    title: str  # name for people, with the unit
    kind: Literal["setting", "measure"] = "measure"
    better: Literal["high", "low"] | None = None  # which end is marked best; None marks nothing
    percent: bool = False  # values are fractions, people see percentages
    signed: bool = False  # a plus before positive numbers, for differences
    digits: int | None = None  # decimals, where the values themselves do not tell how many they support


@dataclass(frozen=True)
class Failure:
    """A row that never came to be: which job, and one line on why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Table:
    """Columns, rows, and apart from them the rows that failed.

    Raises:
        ValueError: a row has not one cell a column, or two columns share a key.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    failed: Sequence[Failure] = ()

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        if len(set(keys)) < len(keys):
            raise ValueError(f"columns: expected distinct keys, got {keys}")
        for position, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"rows[{position}]: expected {len(self.columns)} cells, got {len(row)}")

    def best_cells(self) -> frozenset[tuple[int, int]]:
        """``(row, column)`` of the best mean of each directed column, equal ones all.

        Missing, NaN and infinite values are never best; where all values are equal, none is better than another.
        """
        best = set()
        for position, column in enumerate(self.columns):
            means = {row: _spread(cells[position]).mean for row, cells in enumerate(self.rows) if column.better}
            ranked = {row: mean for row, mean in means.items() if finite(mean)}
            if len(set(ranked.values())) > 1:
                goal = max(ranked.values()) if column.better == "high" else min(ranked.values())
                best |= {(row, position) for row, mean in ranked.items() if mean == goal}
        return frozenset(best)

    def without(self, keys: Collection[str]) -> Table:
        """The same table less the columns named in ``keys``, for narrow places."""
        kept = [j for j, column in enumerate(self.columns) if column.key not in keys]
        rows = [[row[j] for j in kept] for row in self.rows]
        return replace(self, columns=[self.columns[j] for j in kept], rows=rows)

    def texts(self) -> list[list[str]]:
        """Every cell as people see it."""
        columns = [self._column_texts(position) for position in range(len(self.columns))]
        return [[column[row] for column in columns] for row in range(len(self.rows))]

    def _column_texts(self, position: int) -> list[str]:
        column, cells = self.columns[position], [row[position] for row in self.rows]
        if column.kind == "setting":
            return [_setting(cell) for cell in cells]
        spreads = [percent(_spread(cell)) if column.percent else _spread(cell) for cell in cells]
        spec = number_format(spreads) if column.digits is None else f".{column.digits}f"
        spec = "+" + spec if column.signed else spec
        return [spread_text(spread, spec) for spread in spreads]

    def to_html(self) -> Markup:
        """A ``<table>`` in a scrolling container; a click on a heading sorts (script of the page)."""
        best, texts = self.best_cells(), self.texts()
        rows = [
            [
                {
                    "text": texts[i][j],
                    "sort": _sort_key(cell),
                    "best": (i, j) in best,
                    "measure": column.kind == "measure",
                    "url": cell.url if isinstance(cell, Link) else None,
                }
                for j, (cell, column) in enumerate(zip(row, self.columns, strict=True))
            ]
            for i, row in enumerate(self.rows)
        ]
        return render("table.html", table=self, rows=rows)

    def to_markdown(self) -> str:
        """A pipe table, best in bold, failures as a list below."""
        best, texts = self.best_cells(), self.texts()
        lines = [
            [markdown(column.title) for column in self.columns],
            ["---" if column.kind == "setting" else "---:" for column in self.columns],
        ]
        for i, row in enumerate(texts):
            lines.append([f"**{markdown(text)}**" if (i, j) in best else markdown(text) for j, text in enumerate(row)])
        body = "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
        head = f"{markdown(self.caption)}\n\n" if self.caption else ""
        tail = "".join(f"- {markdown(failure.name)}: {markdown(failure.reason)}\n" for failure in self.failed)
        return head + body + (f"\nFailed:\n\n{tail}" if tail else "")

    def to_csv(self) -> str:
        """Raw values at full precision (fractions stay fractions), each deviation in a column ``<key>_std``.

        Failures are not rows of the table and are left out.
        """
        with_std = [any(isinstance(row[j], Spread) for row in self.rows) for j in range(len(self.columns))]
        header: list[str] = []
        for column, spread in zip(self.columns, with_std, strict=True):
            header += [column.key, f"{column.key}_std"] if spread else [column.key]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(header)
        for row in self.rows:
            values: list[Cell] = []
            for cell, spread in zip(row, with_std, strict=True):
                values += [_spread(cell).mean, _spread(cell).std] if spread else [cell]
            writer.writerow(["" if _missing(value) else value for value in values])
        return buffer.getvalue()

    def to_latex(self) -> str:
        """A ``tabular`` in booktabs style, best in bold; failures as comments."""
        best, texts = self.best_cells(), self.texts()
        alignment = "".join("l" if column.kind == "setting" else "r" for column in self.columns)
        lines = [f"% failed: {_one_line(failure.name)}: {_one_line(failure.reason)}" for failure in self.failed]
        lines += [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
        lines += [" & ".join(latex(column.title) for column in self.columns) + r" \\", r"\midrule"]
        for i, row in enumerate(texts):
            cells = [rf"\textbf{{{latex(text)}}}" if (i, j) in best else latex(text) for j, text in enumerate(row)]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def to_text(self, *, colour: bool = False) -> str:
        """Aligned columns for a terminal or a log, best marked ``*`` and, with ``colour``, bold."""
        best, texts = self.best_cells(), self.texts()
        marked = [
            [_one_line(text) + ("*" if (i, j) in best else " ") for j, text in enumerate(row)]
            for i, row in enumerate(texts)
        ]
        titles = [_one_line(column.title) + " " for column in self.columns]
        widths = [max(len(row[j]) for row in [titles, *marked]) for j in range(len(titles))]
        lines = [_line(titles, widths, self.columns), "  ".join("-" * width for width in widths)]
        for i, row in enumerate(marked):
            bold = {j for j in range(len(row)) if colour and (i, j) in best}
            lines.append(_line(row, widths, self.columns, bold))
        lines += ["* best of its column"] if best else []
        if self.failed:
            lines += ["", f"failed ({len(self.failed)}):"]
            lines += [f"  {_one_line(failure.name)}: {_one_line(failure.reason)}" for failure in self.failed]
        return "\n".join([*([self.caption] if self.caption else []), *lines]) + "\n"


def _line(
    cells: Sequence[str],
    widths: Sequence[int],
    columns: Sequence[Column],
    bold: set[int] | frozenset[int] = frozenset(),
) -> str:
    padded = []
    for j, (cell, width, column) in enumerate(zip(cells, widths, columns, strict=True)):
        text = cell.ljust(width) if column.kind == "setting" else cell.rjust(width)
        padded.append(f"\x1b[1m{text}\x1b[0m" if j in bold else text)
    return "  ".join(padded).rstrip()


def _spread(cell: Cell) -> Spread:
    """A cell as mean and deviation; text has neither."""
    if isinstance(cell, Spread):
        return cell
    return Spread(None if cell is None or isinstance(cell, str | Link) else float(cell))


def _missing(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and cell != cell)


def _setting(cell: Cell) -> str:
    return MISSING if _missing(cell) else str(cell)


def _sort_key(cell: Cell) -> str:
    """What the page sorts by: a plain number where there is one, so that 10 comes after 9, else the text."""
    if isinstance(cell, str | Link):
        return str(cell)
    mean = _spread(cell).mean
    return repr(mean) if finite(mean) else ""


def _one_line(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def markdown(text: str) -> str:
    """``text`` on one line, so that Markdown prints it as it stands."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", _one_line(text))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "∞": r"$\infty$",
    "–": "--",
    "×": r"$\times$",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "[": "{[}",  # after the end of a line a bare one would begin an option
    # Without a modern font encoding these three come out as other characters.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def latex(text: str) -> str:
    """``text`` on one line, so that LaTeX prints it as it stands."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))
