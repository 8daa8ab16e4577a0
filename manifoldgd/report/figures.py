"""Plots of runs and studies: plain numbers in, :class:`Plot` out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, NullLocator
from sklearn.isotonic import isotonic_regression

from manifoldgd.estimates import Estimate, Verdict
from manifoldgd.report.canvas import Plot, headline, literal, new_figure, shorten
from manifoldgd.report.numbers import ACCURACY, MISSING, finite, number_text
from manifoldgd.report.palette import COLOURS, LINE_COLOURS

LOG_FROM = 20.0  # a log axis pays for itself once values spread over more than this factor
NAME = 30  # characters beside a row
COLUMN_NAME = 20  # characters above a column
MARKERS = "osD^vP"
# Neighbouring series are set apart by this share of the axis, so that their whiskers do not hide each other.
DODGE = 0.006
LABEL_INCHES = 0.14  # from one label to the next
NUMBERED_CELLS = 400  # beyond this many, numbers in a heat map are too small to read

Points = Sequence[tuple[float, Estimate | None]]
Ends = dict[str, tuple[float, float, str]]  # of lines, by name: x and y, and the colour


def guidance_plot(records: Sequence[Mapping[str, Any]]) -> Plot:
    """How strong guidance was at each step, and how much of the mode vector survived the projection.

    Upper panel: ``||guidance|| / ||noise||``; lower panel: share of the mode vector's energy that the tangent projector
    keeps (absent if no record has one). Lines are means over images, bands one standard deviation either side. Time
    runs from left (noise) to right (image); steps without guidance or without noise are shaded.

    Args:
        records: one mapping a guided step: ``index`` (respaced step, the highest is the noisiest, 0 the last),
            ``ratio_mean``, ``ratio_std``, and ``kept_mean``, ``kept_std`` in [0, 1] or ``None``. A record without
            ``ratio_mean`` counts as a step without guidance or noise.

    Raises:
        ValueError: no record has a ratio.
    """
    steps = sorted((r for r in records if finite(r.get("ratio_mean"))), key=lambda r: -r["index"])
    if not steps:
        raise ValueError("records: expected at least one guided step")
    drawn = [("ratio", "guidance norm / noise norm", COLOURS.accent)]
    if any(finite(step.get("kept_mean")) for step in steps):
        drawn.append(("kept", "share of the guidance vector kept", COLOURS.second))
    figure, axes = new_figure(rows=len(drawn), height=1.2 + 1.8 * len(drawn), sharex=True)
    index, first = _column(steps, "index"), int(max(record["index"] for record in records))
    for panel, (name, title, colour) in zip(axes[:, 0], drawn, strict=True):
        mean, spread = _column(steps, f"{name}_mean"), np.nan_to_num(_column(steps, f"{name}_std"))
        low, high = mean - spread, mean + spread
        positive = mean[mean > 0]
        if name == "kept":
            panel.set_ylim(0, 1)
        elif positive.size == mean.size and positive.max() > LOG_FROM * positive.min():
            panel.set_yscale("log")
            # A band that reaches zero has no lower edge on a log axis: it ends below the smallest mean instead.
            low = np.maximum(low, positive.min() / 3)
        for run in _stretches(index):  # where nothing was measured the line breaks
            marker = "o" if len(run) < 30 else None
            panel.fill_between(index[run], low[run], high[run], color=colour, alpha=0.25, linewidth=0)
            panel.plot(index[run], mean[run], color=colour, linewidth=1.6, marker=marker, markersize=3)
        if name == "ratio" and panel.get_yscale() == "linear":
            panel.set_ylim(bottom=0)
        idle = np.setdiff1d(np.arange(first + 1), index)
        for run in _stretches(idle) if idle.size else ():
            left, right = idle[run[0]] - 0.5, idle[run[-1]] + 0.5
            panel.axvspan(left, right, color=COLOURS.faint, alpha=0.55, linewidth=0)
            if len(run) - 1 >= 0.15 * first:
                place, words = ((left + right) / 2, 0.5), {"ha": "center", "va": "center", "fontsize": 8}
                panel.annotate("no guidance", place, xycoords=("data", "axes fraction"), color=COLOURS.muted, **words)
        headline(panel, title)
    panel.set_xlim(first + 0.5, -0.5)
    panel.set_xlabel("denoising step (left: noise, right: image)")
    return Plot(figure)


def bars(names: Sequence[str], values: Sequence[Sequence[float]], *, title: str) -> Plot:
    """Percentages: a bar from zero to the mean of a row's values, a dot each of them, the mean at the right.

    Args:
        names: one a row.
        values: of each row, in percent; a row without any is empty but for a dash.
        title: what is measured, with its unit.

    Raises:
        ValueError: no rows, or ``names`` and ``values`` differ in length.
    """
    means = [fmean(each) if each else None for each in values]
    figure, panel = _rows(names, [number_text(mean, ACCURACY) for mean in means], title)
    panel.barh(range(len(names)), [mean or 0.0 for mean in means], color=COLOURS.accent, height=0.66)
    for row, each in enumerate(values):
        if len(each) > 1:
            panel.plot(each, [row] * len(each), "o", color=COLOURS.ink, markeredgecolor=COLOURS.paper, markersize=5)
    panel.set_xlim(0, 100)
    panel.grid(False, axis="y")
    return Plot(figure)


def dots(
    names: Sequence[str],
    estimates: Sequence[Estimate | None],
    *,
    title: str,
    verdicts: Sequence[Verdict | None],
    reference: Estimate | None,
) -> Plot:
    """One dot a name, first on top, with its interval, on an axis that spans the values.

    A dot on such an axis is read by its place; a bar, read by its length, would have to begin at zero.

    Args:
        names: one a row.
        estimates: one a row, in the unit of ``title``; a missing one leaves its row empty but for a dash.
        title: what is measured, with its unit.
        verdicts: one a row: what is better stands out in one colour, what is worse in another, the rest is faded.
        reference: what they are compared with: a dotted line, its interval a band.

    Raises:
        ValueError: no rows, or lengths that differ.
    """
    figure, panel = _rows(names, ["" if each else MISSING for each in estimates], title)
    tones = {"better": COLOURS.accent, "worse": COLOURS.second, None: COLOURS.muted}
    for row, (each, verdict) in enumerate(zip(estimates, verdicts, strict=True)):
        if each is not None:
            panel.errorbar(each.mean, row, xerr=each.half, ecolor=COLOURS.ink, elinewidth=1.2, capsize=3)
            panel.plot(each.mean, row, "o", color=tones[verdict], markersize=6)
    if reference is not None:
        half = reference.half or 0.0
        panel.axvline(reference.mean, color=COLOURS.ink, linewidth=1.0, linestyle=":")
        panel.axvspan(reference.mean - half, reference.mean + half, color=COLOURS.muted, alpha=0.15, linewidth=0)
    return Plot(figure)


def line_plot(
    series: Mapping[str, Points],
    *,
    title: str,
    x_title: str,
    log_x: bool = False,
    faded: Collection[str] = (),
    references: Mapping[str, Estimate] = MappingProxyType({}),
    named: bool = True,
) -> Plot:
    """Means with whiskers of half an interval against a number, one line a series, its name at its end.

    Args:
        series: for each name its ``(x, value)`` pairs, values in the unit of ``title``; missing ones are left out.
        title: what is measured, with its unit.
        x_title: what the horizontal axis holds.
        log_x: a logarithmic axis; all ``x`` positive.
        faded: names whose lines stand back in grey.
        references: levels to compare with, by name: dotted lines with their intervals as bands.
        named: whether lines carry their names; references always do.

    Raises:
        ValueError: no series has a point.
    """
    known = {name: [(x, y) for x, y in points if y is not None] for name, points in series.items()}
    drawn = {name: sorted(points, key=lambda point: point[0]) for name, points in known.items() if points}
    if not drawn:
        raise ValueError("series: expected at least one point")
    figure, axes = new_figure(height=max(3.0, 1.2 + LABEL_INCHES * (len(drawn) + 1)))
    panel, ends = axes[0, 0], Ends()
    ticks = sorted({x for points in drawn.values() for x, _ in points})
    if log_x:
        panel.set_xscale("log")
    bright = [name for name in series if name not in faded]  # a name keeps its colour where others are left out
    dodge = DODGE if any(y.half for points in drawn.values() for _, y in points) else 0.0
    for position, (name, points) in enumerate(drawn.items()):
        number = bright.index(name) if name in bright else 0
        colour = LINE_COLOURS[number % len(LINE_COLOURS)] if name in bright else COLOURS.muted
        places, shift = np.array([x for x, _ in points]), dodge * (position - (len(drawn) - 1) / 2)
        xs = places * (ticks[-1] / ticks[0]) ** shift if log_x else places + shift * (ticks[-1] - ticks[0])
        panel.errorbar(
            xs,
            [y.mean for _, y in points],
            yerr=[y.half or 0.0 for _, y in points],
            color=colour,
            alpha=1.0 if name in bright else 0.45,
            # Several values at one place are no curve.
            linestyle="-" if len(set(places)) == len(points) else "none",
            marker=MARKERS[number % len(MARKERS)] if name in bright else ".",
            markersize=5,
            linewidth=1.8 if name in bright else 1.0,
            elinewidth=1.0,
            capsize=2,
            zorder=3 if name in bright else 2,
        )
        if named:
            ends[name] = float(xs[-1]), points[-1][1].mean, colour
    left, right = panel.get_xlim()
    for name, level in references.items():
        half = level.half or 0.0
        panel.axhline(level.mean, color=COLOURS.ink, linewidth=1.0, linestyle=":")
        panel.axhspan(level.mean - half, level.mean + half, color=COLOURS.muted, alpha=0.15, linewidth=0)
        ends[name] = right, level.mean, COLOURS.ink
    panel.set_xlim(left, right)
    if len(ticks) <= 8:
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xlabel(x_title)
    headline(panel, title)
    _label_ends(panel, ends)
    return Plot(figure)


def heat_map(
    values: Sequence[Sequence[float | None]],
    against: Sequence[float | None],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
) -> Plot:
    """Numbers in cells, coloured by how far each lies from its row's value in ``against``.

    Cells take the second colour below, the accent above, the stronger the farther: both hues stay apart under the
    common colour-vision deficiencies.

    Args:
        values: ``[rows][columns]`` in the unit of ``title``; ``None`` leaves a cell empty.
        against: one value a row.
        rows: names at the left.
        columns: names on top.
        title: what is measured, with its unit.

    Raises:
        ValueError: no cells, or lengths that do not fit.
    """
    table = np.array(values, dtype=float)
    if table.size == 0 or table.shape != (len(rows), len(columns)) or len(against) != len(rows):
        raise ValueError(f"values: expected {len(rows)} x {len(columns)} numbers, got {table.shape}")
    gaps = table - np.array(against, dtype=float)[:, None]
    figure, axes = new_figure(height=1.3 + 0.24 * len(rows))
    panel = axes[0, 0]
    limit = float(np.nanmax(np.abs(gaps), initial=0.0)) or 1.0
    for (row, column), value in np.ndenumerate(table):
        gap = gaps[row, column]
        if math.isfinite(gap) and gap:
            colour = COLOURS.accent if gap > 0 else COLOURS.second
            place = (column - 0.5, row - 0.5)
            panel.add_patch(Rectangle(place, 1, 1, facecolor=colour, alpha=0.6 * abs(gap) / limit, linewidth=0))
        if table.size <= NUMBERED_CELLS and math.isfinite(value):
            panel.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=COLOURS.ink)
    panel.set_xlim(-0.5, len(columns) - 0.5)
    _name_rows(panel, rows, COLUMN_NAME)
    names = [literal(shorten(name, COLUMN_NAME)) for name in columns]
    panel.set_xticks(range(len(columns)), names, rotation=35, color=COLOURS.ink, ha="left", rotation_mode="anchor")
    panel.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    panel.grid(False)
    panel.set_xlabel(f"{title}, at most {limit:.0f}")
    return Plot(figure)


def _rows(names: Sequence[str], texts: Sequence[str], title: str) -> tuple[Any, Axes]:
    """A figure with a row a name, first on top, and a text at the right of each."""
    if not names or len(names) != len(texts):
        raise ValueError(f"names, numbers: expected one of each a row, got {len(names)} and {len(texts)}")
    figure, axes = new_figure(height=0.7 + 0.26 * len(names))
    panel = axes[0, 0]
    for row, text in enumerate(texts):
        panel.text(1.02, row, text, transform=panel.get_yaxis_transform(), va="center", fontsize=9, color=COLOURS.ink)
    _name_rows(panel, names, NAME)
    headline(panel, title)
    return figure, panel


def _name_rows(panel: Axes, names: Sequence[str], limit: int) -> None:
    panel.set_yticks(range(len(names)), [literal(shorten(name, limit)) for name in names], color=COLOURS.ink)
    panel.set_ylim(len(names) - 0.5, -0.5)


def _label_ends(panel: Any, ends: Ends) -> None:
    """The name of each line at the right of the panel, none over another."""
    low, high = panel.get_ylim()
    room = LABEL_INCHES / (panel.figure.get_size_inches()[1] - 0.9)
    places = _spread([(y - low) / (high - low) for _, y, _ in ends.values()], room)
    for (name, (x, y, colour)), place in zip(ends.items(), places, strict=True):
        panel.annotate(
            literal(shorten(name, NAME)),
            (x, y),
            xytext=(1.05, place),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=COLOURS.muted if colour == COLOURS.muted else COLOURS.ink,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkB": 4, "relpos": (0, 0.5)},
            annotation_clip=False,
        )
    panel.set_ylim(low, high)


def _spread(places: Sequence[float], room: float) -> list[float]:
    """The places moved apart to at least ``room`` from one another, in their order and inside [0, 1] where they fit.

    As little as possible, in squares: what is left of them when each is lowered by the room below it has to rise.

    >>> [round(place, 2) for place in _spread([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    order, below = np.argsort(places, kind="stable"), room * np.arange(len(places))
    moved = np.empty(len(places))
    if len(places):
        moved[order] = isotonic_regression(np.array(places)[order] - below, y_min=0, y_max=1 - below[-1]) + below
    return moved.tolist()


def _stretches(values: np.ndarray) -> list[np.ndarray]:
    """Positions of each stretch of consecutive whole numbers in sorted ``values``.

    >>> [run.tolist() for run in _stretches(np.array([0, 1, 2, 5, 7, 8]))]
    [[0, 1, 2], [3], [4, 5]]
    """
    return np.split(np.arange(len(values)), np.flatnonzero(np.abs(np.diff(values)) > 1.5) + 1)


def _column(records: Sequence[Mapping[str, float | None]], key: str) -> np.ndarray:
    return np.array([_nan(record.get(key)) for record in records])


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
