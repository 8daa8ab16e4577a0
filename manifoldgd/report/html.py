"""A page as one self-contained HTML file: nothing to fetch, nothing beside it to lose."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from manifoldgd.report.canvas import Plot
from manifoldgd.report.content import Cell, Link, Notes, Page, Table, number_of
from manifoldgd.report.numbers import finite, mean_of

TEMPLATES = Path(__file__).parent / "templates"
QUALITY = 82  # of photographs and grids on the page, in WebP's percent; plots are drawn, not photographed


def html(page: Page) -> str:
    """The page as HTML text.

    Pictures travel inside, fonts are the reader's own, every string is escaped. The page follows the reader's light or
    dark setting, fits screens from 390 pixels on, and prints.
    """
    return _environment().get_template("page.html").render(page=page)


def table_html(table: Table) -> Markup:
    """A ``<table>`` in a scrolling container; a click on a heading sorts (script of the page)."""
    best = table.best_cells()
    rows = [
        [
            {
                "text": text,
                "class": f"{column.kind}{' best' if (i, j) in best else ''}",
                "sort": _sort_key(cell),
                "url": cell.url if isinstance(cell, Link) else None,
            }
            for j, (cell, text, column) in enumerate(zip(cells, texts, table.columns, strict=True))
        ]
        for i, (cells, texts) in enumerate(zip(table.rows, table.texts(), strict=True))
    ]
    return Markup(_environment().get_template("table.html").render(table=table, rows=rows))


@cache
def _environment() -> Environment:
    """Templates in which plain strings are escaped and missing values are errors."""
    loader = FileSystemLoader(TEMPLATES)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals |= {"table_html": table_html, "data_uri": _data_uri, "drawing": _drawing}
    for kind in (Notes, Plot, Table):
        made.tests[kind.__name__.lower()] = lambda value, kind=kind: isinstance(value, kind)
    return made


def _sort_key(cell: Cell) -> str:
    """What the page sorts by: a plain number where there is one, so that 10 comes after 9, else the text."""
    if isinstance(cell, str | Link):
        return str(cell)
    mean = mean_of(number_of(cell))
    return repr(mean) if finite(mean) else ""


def _drawing(plot: Plot, alt: str) -> Markup:
    return Markup(plot.svg(alt))


def _data_uri(image: Image.Image) -> str:
    """The picture as text: exact where that is small, as for drawings and few pixels, else compressed."""
    packed = {}
    for kind, how in (("png", {"optimize": True}), ("webp", {"quality": QUALITY, "method": 4})):
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **how)
        packed[kind] = buffer.getvalue()
    kind = "png" if len(packed["png"]) <= 2 * len(packed["webp"]) else "webp"
    return f"data:image/{kind};base64," + base64.b64encode(packed[kind]).decode("ascii")
