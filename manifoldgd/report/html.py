"""A page as one self-contained HTML file: nothing to fetch, nothing beside it to lose."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from manifoldgd.report.canvas import Plot
from manifoldgd.report.content import Block, Cell, Link, Notes, Page, Table, number_of
from manifoldgd.report.numbers import finite, mean_of

TEMPLATES = Path(__file__).parent / "templates"
QUALITY = 82  # of photographs and grids on the page, in WebP's percent; plots are drawn, not photographed


def html(page: Page) -> str:
    """The page as HTML text.

    Pictures travel inside, fonts are the reader's own, every string is escaped. The page follows the reader's light or
    dark setting, fits screens from 390 pixels on, and prints.
    """
    sections = [
        {"title": section.title, "folded": section.folded, "blocks": [_block(block) for block in section.blocks]}
        for section in page.sections
    ]
    return str(_render("page.html", page=page, sections=sections, config=page.config.strip("\n")))


def _render(template: str, **values: Any) -> Markup:
    """A file of ``templates/`` filled with ``values``; plain strings among them are escaped, missing ones an error."""
    return Markup(_environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _block(block: Block) -> dict[str, Any]:
    """What the template needs to know of a block."""
    if isinstance(block, str):
        return {"kind": "text", "text": block}
    if isinstance(block, Notes):
        return {"kind": "notes", "lines": block.lines}
    if isinstance(block, Table):
        return {"kind": "table", "html": table_html(block)}
    held = {"kind": "figure", "figure": block, "shape": "wide" if block.wide else "narrow" if block.narrow else ""}
    if isinstance(block.drawn, Plot):
        return {**held, "svg": Markup(block.drawn.svg(block.alt)), "min_width": 0}
    width, height = (round(side / block.pixels_per_point) for side in block.drawn.size)
    return {
        **held,
        "svg": None,
        "light": _data_uri(block.drawn),
        "dark": None if block.dark is None else _data_uri(block.dark),
        "width": width,
        "height": height,
        "min_width": min(block.min_width, width),
    }


def table_html(table: Table) -> Markup:
    """A ``<table>`` in a scrolling container; a click on a heading sorts (script of the page)."""
    best, texts = table.best_cells(), table.texts()
    rows = [
        [
            {
                "text": texts[i][j],
                "sort": _sort_key(cell),
                "best": (i, j) in best,
                "measure": column.kind == "measure",
                "url": cell.url if isinstance(cell, Link) else None,
            }
            for j, (cell, column) in enumerate(zip(row, table.columns, strict=True))
        ]
        for i, row in enumerate(table.rows)
    ]
    return _render("table.html", table=table, rows=rows)


def _sort_key(cell: Cell) -> str:
    """What the page sorts by: a plain number where there is one, so that 10 comes after 9, else the text."""
    if isinstance(cell, str | Link):
        return str(cell)
    mean = mean_of(number_of(cell))
    return repr(mean) if finite(mean) else ""


def _data_uri(image: Image.Image) -> str:
    """The picture as text: exact where that is small, as for drawings and few pixels, else compressed."""
    packed = {}
    for kind, how in (("png", {"optimize": True}), ("webp", {"quality": QUALITY, "method": 4})):
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **how)
        packed[kind] = buffer.getvalue()
    kind = "png" if len(packed["png"]) <= 2 * len(packed["webp"]) else "webp"
    return f"data:image/{kind};base64," + base64.b64encode(packed[kind]).decode("ascii")
