"""Image grids: one row a class, one column a rank, every pixel of a small image enlarged to a visible square.

Shape letters: ``n`` images, ``C`` channels (1 or 3), ``H, W`` height and width in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
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
    above: Tensor | None = None,
    scheme: Scheme = LIGHT,
) -> Image.Image:
    """Images by class, names at the left; each with another one directly above it where there is one.

    Args:
        images: ``[n, C, H, W]`` uint8, one or three channels.
        labels: ``[n]`` int64, index into ``class_names``; a class without images keeps its empty row.
        class_names: one a row, in this order.
        scale: enlargement. At 1 and above a whole number, nearest neighbour; below 1 area-averaged.
        ranks: ``[n]`` order within each class; the order of appearance if ``None``.
        above: ``[n, C, H, W]`` uint8, row ``i`` for ``images[i]``, for instance the prototype it was sampled for.
        scheme: background and text colour.

    Raises:
        ValueError: wrong shape, type or scale.
    """
    if labels.shape != (len(images),) or (ranks is not None and ranks.shape != labels.shape):
        raise ValueError(f"labels, ranks: expected one value for each of {len(images)} images")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
        raise ValueError(f"labels: expected values in [0, {len(class_names)})")
    if above is not None and above.shape != images.shape:
        raise ValueError(f"above: expected {tuple(images.shape)}, got {tuple(above.shape)}")
    parts = [_enlarged(each, scale) for each in (above, images) if each is not None]  # from top to bottom
    names = [_fitted(name) for name in class_names]
    order = torch.arange(len(labels)) if ranks is None else torch.argsort(ranks.cpu(), stable=True)
    rows = [[index for index in order.tolist() if labels[index] == label] for label in range(len(names))]

    left = label_width(names)
    width, height = parts[0][0].size if len(images) else (1, 1)
    cell, gap = len(parts) * (height + SEAM) - SEAM, GAP if above is None else PAIR_GAP
    columns = max(map(len, rows), default=0)
    bottom = 2 * GAP + len(rows) * (cell + gap) - gap if rows else GAP
    page = Image.new("RGB", (left + columns * (width + GAP), bottom), scheme.paper)
    draw = ImageDraw.Draw(page)
    for row, (name, members) in enumerate(zip(names, rows, strict=True)):
        top = GAP + row * (cell + gap)
        draw.text((left - GAP - 4, top + cell / 2), name, font=_font(), fill=scheme.ink, anchor="rm")
        for column, index in enumerate(members):
            for place, part in enumerate(parts):
                page.paste(part[index], (left + column * (width + GAP), top + place * (height + SEAM)))
    return page


def picture(file: Path) -> Image.Image:
    """What a file shows, read whole."""
    with Image.open(file) as image:
        return image.copy()


def save_png(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write ``image`` as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def label_width(names: Sequence[str]) -> int:
    """Pixels of the column of names, margins included."""
    return 2 * GAP + 8 + max((int(_font().getlength(_fitted(name))) for name in names), default=0)


def _enlarged(images: Tensor, scale: float) -> list[Image.Image]:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        got = f"{tuple(images.shape)} {images.dtype}"
        raise ValueError(f"images: expected [n, C, H, W] uint8 with C = 1 or 3, got {got}")
    if scale <= 0 or (scale >= 1 and scale != int(scale)):
        raise ValueError(f"scale: expected a whole number or a fraction below 1, got {scale}")
    height, width = images.shape[2:]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    pixels = images.detach().cpu().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    return [Image.fromarray(np.ascontiguousarray(array)).resize(size, how) for array in pixels]


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans as Matplotlib ships it: Pillow's own default has no letters beyond ASCII."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), FONT_PIXELS)


def _fitted(name: str) -> str:
    short = " ".join(name.split())
    while _font().getlength(short) > LABEL_PIXELS:
        short = short.removesuffix("…")[:-1].rstrip() + "…"
    return short
