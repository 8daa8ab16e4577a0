"""Plots of a comparison: accuracy against a number, and accuracies by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.ticker import NullFormatter, NullLocator

from manifoldgd.report.canvas import Format, encode, headline, literal, new_figure, shorten
from manifoldgd.report.numbers import Spread, finite
from manifoldgd.report.palette import LIGHT, Scheme, class_colour

MARKERS = "osD^vP*Xph"
NAME = 20  # characters beside a heat map
# Neighbouring series are set apart by this share of the axis, so that their whiskers do not hide each other.
DODGE = 0.006
NUMBERED_CELLS = 400  # beyond this many, numbers in a heat map are too small to read

Points = Sequence[tuple[float, Spread]]


def line_plot(
    series: Mapping[str, Points],
    *,
    title: str,
    x_title: str,
    log_x: bool = False,
    reference: Spread | None = None,
    scheme: Scheme = LIGHT,
    file_format: Format = "png",
) -> bytes:
    """Means with whiskers of ``std`` against a number, one line a series.

    Args:
        series: for each name its ``(x, value)`` pairs, values in the unit of ``title``; missing means are left out.
        title: what is measured, with its unit.
        x_title: what the horizontal axis holds.
        log_x: a logarithmic axis with a tick at each ``x``; all ``x`` positive.
        reference: a level to compare with, as a dotted line with a band of ``std`` either side.
        scheme: colours.
        file_format: ``"png"`` or ``"svg"``.

    Raises:
        ValueError: no series has a point with a mean.
    """
    drawn = {name: [(x, y) for x, y in sorted(points, key=_x) if finite(y.mean)] for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        raise ValueError("series: expected at least one point with a mean")
    figure, axes = new_figure(scheme, height=3.2 + 0.1 * len(drawn))
    panel = axes[0, 0]
    ticks = sorted({x for points in drawn.values() for x, _ in points})
    if log_x:
        panel.set_xscale("log")
    for position, name in enumerate(series):  # a name keeps its colour where others are left out
        if name in drawn:
            _draw(panel, position, len(series), name, drawn[name], ticks)
    if reference is not None and finite(reference.mean):
        panel.axhline(reference.mean, color=scheme.ink, linewidth=1.0, linestyle=":")
        half = reference.std or 0.0
        panel.axhspan(reference.mean - half, reference.mean + half, color=scheme.muted, alpha=0.15, linewidth=0)
    if len(ticks) <= 8:
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xlabel(x_title)
    headline(panel, title, scheme)
    if len(drawn) > 1:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False, labelcolor=scheme.ink)
    return encode(figure, file_format)


def heat_map(
    values: Sequence[Sequence[float | None]],
    against: Sequence[float | None],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    scheme: Scheme = LIGHT,
    file_format: Format = "png",
) -> bytes:
    """Numbers in cells, coloured by how far each lies from its row's value in ``against``.

    Colours run from the second colour (below) through the background (equal) to the accent (above), symmetric about
    zero: both hues stay apart under the common colour-vision deficiencies.

    Args:
        values: ``[rows][columns]`` in the unit of ``title``; ``None`` leaves a cell empty.
        against: one value a row.
        rows: names at the left.
        columns: names on top.
        title: what is measured, with its unit.
        scheme: colours.
        file_format: ``"png"`` or ``"svg"``.

    Raises:
        ValueError: no cells, or lengths that do not fit.
    """
    table = np.array([[math.nan if v is None else v for v in row] for row in values], dtype=float)
    if table.size == 0 or table.shape != (len(rows), len(columns)) or len(against) != len(rows):
        raise ValueError(f"values: expected {len(rows)} x {len(columns)} numbers, got {table.shape}")
    gaps = table - np.array([math.nan if v is None else v for v in against], dtype=float)[:, None]
    figure, axes = new_figure(scheme, height=1.9 + 0.26 * len(rows))
    panel = axes[0, 0]
    colours = LinearSegmentedColormap.from_list("gap", [scheme.second, scheme.paper, scheme.accent])
    limit = float(np.nanmax(np.abs(gaps), initial=0.0)) or 1.0
    image = panel.imshow(gaps, cmap=colours, norm=TwoSlopeNorm(0.0, -limit, limit), aspect="auto")
    if table.size <= NUMBERED_CELLS:
        for (row, column), value in np.ndenumerate(table):
            strong = abs(gaps[row, column]) > 0.65 * limit
            colour = scheme.paper if strong else scheme.ink
            if math.isfinite(value):
                panel.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    panel.set_yticks(range(len(rows)), [literal(shorten(name, NAME)) for name in rows], color=scheme.ink)
    panel.set_xticks(
        range(len(columns)), [literal(shorten(name, NAME)) for name in columns], rotation=35, color=scheme.ink
    )
    panel.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    for label in panel.get_xticklabels():
        label.set(ha="left", rotation_mode="anchor")
    panel.grid(False)
    bar = figure.colorbar(image, ax=panel, location="bottom", shrink=0.7, aspect=40)
    bar.ax.tick_params(colors=scheme.muted, labelcolor=scheme.muted, labelsize=8)
    bar.outline.set_visible(False)
    bar.set_label(title, color=scheme.ink, fontsize=9)
    return encode(figure, file_format)


def _draw(panel: Axes, position: int, count: int, name: str, points: Points, ticks: Sequence[float]) -> None:
    """One line, shifted a little sideways."""
    xs = np.array([x for x, _ in points], dtype=float)
    shift = DODGE * (position - (count - 1) / 2)
    logarithmic = panel.get_xscale() == "log"
    xs = xs * (ticks[-1] / ticks[0]) ** shift if logarithmic else xs + shift * (ticks[-1] - ticks[0])
    joined = len({x for x, _ in points}) == len(points)  # several values at one place are no curve
    panel.errorbar(
        xs,
        [y.mean for _, y in points],
        yerr=[y.std or 0.0 for _, y in points],
        label=literal(shorten(name, 2 * NAME)),
        color=class_colour(position),
        linestyle=("-", "--", ":")[position // 10 % 3] if joined else "none",
        marker=MARKERS[position % len(MARKERS)],
        markersize=5,
        linewidth=1.3,
        elinewidth=1.0,
        capsize=2,
    )


def _x(point: tuple[float, Spread]) -> float:
    return point[0]
