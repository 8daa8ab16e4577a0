"""Image grids: one row a class, one column a rank, every pixel of a small image enlarged to a visible square.

Shape letters: ``n`` images, ``C`` channels (1 or 3), ``H, W`` height and width in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from manifoldgd.files import atomic_path
from manifoldgd.report.palette import LIGHT, Scheme

FONT_PIXELS = 15
GAP = 4  # pixels between cells, and around the grid
PAIR_GAP = 14  # pixels between rows of pairs
SEAM = 2  # pixels between a prototype and what it became
LABEL_PIXELS = 168  # widest class name; longer ones end in an ellipsis


@dataclass(frozen=True)
class Layout:
    """Where the cells of a grid lie, in pixels of the grid."""

    left: int  # x of the first column
    cell_width: int
    cell_height: int
    row_gap: int = GAP

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Top left pixel ``(x, y)`` of a cell."""
        return self.left + column * (self.cell_width + GAP), GAP + row * (self.cell_height + self.row_gap)


def scale_for(pixels: int, target: int = 64) -> float:
    """The factor that brings an edge of ``pixels`` near ``target``: a whole number upwards, a fraction downwards."""
    return float(max(1, round(target / pixels))) if pixels <= target else target / pixels


def image_grid(
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    scale: float,
    ranks: Tensor | None = None,
    scheme: Scheme = LIGHT,
) -> Image.Image:
    """Images by class, names at the left.

    Args:
        images: ``[n, C, H, W]`` uint8, one or three channels.
        labels: ``[n]`` int64, index into ``class_names``; a class without images keeps its empty row.
        class_names: one a row, in this order.
        scale: enlargement. At 1 and above a whole number, nearest neighbour; below 1 area-averaged.
        ranks: ``[n]`` order within each class; the order of appearance if ``None``.
        scheme: background and text colour.

    Raises:
        ValueError: wrong shape, type or scale.
    """
    _check_lengths(images, labels, ranks)
    return _compose(_cells(images, scale), _rows(labels, class_names, ranks), class_names, GAP, scheme)


def pairs_grid(
    prototypes: Tensor,
    outcomes: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    scale: float,
    ranks: Tensor | None = None,
    scheme: Scheme = LIGHT,
) -> Image.Image:
    """Each prototype directly above the image that was sampled for it; arguments as in :func:`image_grid`.

    Args:
        prototypes: ``[n, C, H, W]`` uint8, decoded prototypes; row ``i`` belongs to ``outcomes[i]``.
        outcomes: ``[n, C, H, W]`` uint8.
        labels: ``[n]`` int64.
        class_names: one a double row.
        scale: enlargement.
        ranks: ``[n]`` order within each class.
        scheme: background and text colour.

    Raises:
        ValueError: ``prototypes`` and ``outcomes`` differ in shape, or an argument that :func:`image_grid` refuses.
    """
    if prototypes.shape != outcomes.shape:
        shapes = f"{tuple(prototypes.shape)} and {tuple(outcomes.shape)}"
        raise ValueError(f"prototypes, outcomes: expected one shape, got {shapes}")
    _check_lengths(outcomes, labels, ranks)
    pairs = zip(_cells(prototypes, scale), _cells(outcomes, scale), strict=True)
    cells = [_stacked(above, below, scheme) for above, below in pairs]
    return _compose(cells, _rows(labels, class_names, ranks), class_names, PAIR_GAP, scheme)


def save_png(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write ``image`` as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def _cells(images: Tensor, scale: float) -> list[Image.Image]:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        got = f"{tuple(images.shape)} {images.dtype}"
        raise ValueError(f"images: expected [n, C, H, W] uint8 with C = 1 or 3, got {got}")
    if scale <= 0 or (scale >= 1 and scale != int(scale)):
        raise ValueError(f"scale: expected a whole number or a fraction below 1, got {scale}")
    height, width = images.shape[2:]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    pixels = images.detach().cpu().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().numpy()
    return [Image.fromarray(array).resize(size, how) for array in pixels]


def _stacked(above: Image.Image, below: Image.Image, scheme: Scheme) -> Image.Image:
    pair = Image.new("RGB", (above.width, above.height + SEAM + below.height), scheme.paper)
    pair.paste(above, (0, 0))
    pair.paste(below, (0, above.height + SEAM))
    return pair


def _compose(
    cells: Sequence[Image.Image], rows: Sequence[Sequence[int]], class_names: Sequence[str], gap: int, scheme: Scheme
) -> Image.Image:
    """Cells on a page: ``rows[r][c]`` is the cell at row ``r``, column ``c``."""
    names = _fit_names(class_names)
    size = cells[0].size if cells else (1, 1)
    layout = Layout(_label_width(names), *size, row_gap=gap)
    width, bottom = layout.corner(len(rows), max(map(len, rows), default=0))
    page = Image.new("RGB", (width, bottom - gap + GAP if rows else GAP), scheme.paper)
    draw = ImageDraw.Draw(page)
    for row, members in enumerate(rows):
        middle = layout.corner(row, 0)[1] + layout.cell_height / 2
        draw.text((layout.left - GAP - 4, middle), names[row], font=_font(), fill=scheme.ink, anchor="rm")
        for column, index in enumerate(members):
            page.paste(cells[index], layout.corner(row, column))
    return page


def _check_lengths(images: Tensor, labels: Tensor, ranks: Tensor | None) -> None:
    if labels.shape != (len(images),) or (ranks is not None and ranks.shape != labels.shape):
        raise ValueError(f"labels, ranks: expected one value for each of {len(images)} images")


def _rows(labels: Tensor, class_names: Sequence[str], ranks: Tensor | None) -> list[list[int]]:
    """Positions of the images of each class, by rank."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
        raise ValueError(f"labels: expected values in [0, {len(class_names)})")
    order = torch.arange(len(labels)) if ranks is None else torch.argsort(ranks.cpu(), stable=True)
    rows: list[list[int]] = [[] for _ in class_names]
    for index in order.tolist():
        rows[int(labels[index])].append(index)
    return rows


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans as Matplotlib ships it: Pillow's own default has no letters beyond ASCII."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), FONT_PIXELS)


def _fit_names(names: Sequence[str]) -> list[str]:
    font, fitted = _font(), []
    for name in names:
        short = " ".join(name.split())
        while font.getlength(short) > LABEL_PIXELS:
            short = short.removesuffix("…")[:-1].rstrip() + "…"
        fitted.append(short)
    return fitted


def _label_width(names: Sequence[str]) -> int:
    """Width of the name column, margins included."""
    return 2 * GAP + 8 + max((int(_font().getlength(name)) for name in names), default=0)
