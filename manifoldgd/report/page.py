"""One self-contained HTML page: nothing to fetch, nothing beside it to lose."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from manifoldgd.files import atomic_write_text
from manifoldgd.report.markup import render
from manifoldgd.report.tables import Table


@dataclass(frozen=True)
class Figure:
    """A picture with what it shows (``caption``) and what one would read aloud in its place (``alt``)."""

    image: bytes | Image.Image  # PNG bytes, or an image to be encoded
    caption: str
    alt: str
    dark: bytes | Image.Image | None = None  # the same picture for dark pages
    pixels_per_point: float = 1.0  # image pixels for one page pixel at full size; 2 for plots keeps them sharp
    min_width: int = 0  # page pixels below which the figure scrolls instead of shrinking
    wide: bool = False  # takes a row of its own
    narrow: bool = False  # several stand side by side where there is room
    name: str = ""  # stem of the file it is also saved as, if any

    def png(self) -> bytes:
        """The picture for light pages, encoded."""
        return _png(self.image)


Block = str | Figure | Table  # a string is a paragraph


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in order: paragraphs, figures, tables."""

    title: str
    blocks: Sequence[Block]
    folded: bool = False  # opened by a click

    def figures(self) -> list[Figure]:
        """Those of its figures that are also saved as files."""
        return [block for block in self.blocks if isinstance(block, Figure) and block.name]


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    subtitle: str,
    key_figures: Sequence[tuple[str, str, str]],
    sections: Sequence[Section],
    config: str,
    notices: Sequence[str] = (),
) -> None:
    """Write the page, whole or not at all.

    Images travel inside as base64, fonts are the reader's own, every string is escaped. The page follows the reader's
    light or dark setting, fits screens from 390 pixels on, and prints.

    Args:
        path: the HTML file.
        title: heading and window title.
        subtitle: one sentence below it; may be empty.
        key_figures: ``(label, value, note)``; the first is the headline.
        sections: the body, in order.
        config: shown folded at the end; left out if empty.
        notices: what nobody may overlook, above everything else.

    Raises:
        ValueError: a figure is not a PNG.
        OSError: the folder is not writable.
    """
    body = [
        {"title": section.title, "folded": section.folded, "blocks": [_block(block) for block in section.blocks]}
        for section in sections
    ]
    page = render(
        "page.html",
        title=title,
        subtitle=subtitle,
        notices=notices,
        key_figures=key_figures,
        sections=body,
        config=config.strip("\n"),
    )
    atomic_write_text(path, str(page))


def _block(block: Block) -> dict[str, Any]:
    """What the template needs to know of a block."""
    if isinstance(block, str):
        return {"kind": "text", "text": block}
    if isinstance(block, Table):
        return {"kind": "table", "html": block.to_html()}
    image = block.png()
    width, height = _size(image)
    return {
        "kind": "figure",
        "light": _data_uri(image),
        "dark": None if block.dark is None else _data_uri(_png(block.dark)),
        "width": round(width / block.pixels_per_point),
        "height": round(height / block.pixels_per_point),
        "alt": block.alt,
        "caption": block.caption,
        "min_width": min(block.min_width, round(width / block.pixels_per_point)),
        "shape": "wide" if block.wide else "narrow" if block.narrow else "",
    }


def _png(image: bytes | Image.Image) -> bytes:
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _size(png: bytes) -> tuple[int, int]:
    """Width and height from the header, where every PNG has them."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
        raise ValueError(f"image: expected PNG bytes, got {png[:8]!r}")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
