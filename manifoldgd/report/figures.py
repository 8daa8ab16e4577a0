"""Plots of runs and studies: plain numbers in, :class:`Plot` out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, NullLocator

from manifoldgd.estimates import Estimate, Verdict
from manifoldgd.report.canvas import Plot, headline, literal, new_figure, shorten
from manifoldgd.report.numbers import MISSING, Number, finite, half_of, mean_of, number_text
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


def guidance_plot(records: Sequence[Mapping[str, float | None]]) -> Plot:
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
    first = max(record["index"] for record in records)
    with_kept = any(finite(step.get("kept_mean")) for step in steps)
    rows = 2 if with_kept else 1
    figure, axes = new_figure(rows=rows, height=1.2 + 1.8 * rows, sharex=True)
    panels = list(axes[:, 0])
    index = _column(steps, "index")
    _band(panels[0], index, _column(steps, "ratio_mean"), _column(steps, "ratio_std"), COLOURS.accent)
    headline(panels[0], "guidance norm / noise norm")
    if with_kept:
        kept, spread = _column(steps, "kept_mean"), _column(steps, "kept_std")
        _band(panels[1], index, kept, spread, COLOURS.second, log_allowed=False)
        panels[1].set_ylim(0, 1)
        headline(panels[1], "share of the guidance vector kept")
    for panel in panels:
        _shade_unguided(panel, index, int(first))
    panels[0].set_xlim(first + 0.5, -0.5)
    panels[-1].set_xlabel("denoising step (left: noise, right: image)")
    return Plot(figure)


def accuracy_curve(
    curves: Sequence[Sequence[tuple[int, float]]],
    *,
    names: Sequence[str],
    references: Mapping[str, float],
) -> Plot:
    """Accuracy of each student over its epochs; the last epoch, the headline, carries a dot.

    Args:
        curves: for each student ``(epoch, top-1)`` pairs, accuracy in [0, 1].
        names: one a curve, at its end; none if empty.
        references: levels to compare with, by name, accuracies in [0, 1]: dotted lines.

    Raises:
        ValueError: no curve has a point.
    """
    if not any(curves):
        raise ValueError("curves: expected at least one point")
    figure, axes = new_figure(height=3.0)
    panel = axes[0, 0]
    ends: dict[str, tuple[float, float, str]] = {}
    for position, curve in enumerate(curves):
        if not curve:
            continue
        colour = LINE_COLOURS[position % len(LINE_COLOURS)]
        epochs, values = np.array([point[0] for point in curve]), 100 * np.array([_nan(point[1]) for point in curve])
        panel.plot(epochs, values, color=colour, linewidth=1.5)
        panel.plot(epochs[-1:], values[-1:], "o", color=colour, markersize=5)
        if names and math.isfinite(values[-1]):
            ends[names[position]] = (float(epochs[-1]), float(values[-1]), colour)
    ends |= _reference_lines(panel, {name: 100 * level for name, level in references.items()})
    _label_ends(panel, ends)
    panel.set_xlabel("epoch")
    headline(panel, "accuracy, %")
    return Plot(figure)


def bars(names: Sequence[str], numbers: Sequence[Number], *, title: str) -> Plot:
    """Percentages as bars from zero, one a name, first on top, with their intervals, the number at the right.

    Args:
        names: one a row.
        numbers: one a row, in percent; a missing one leaves its row empty but for a dash.
        title: what is measured, with its unit.

    Raises:
        ValueError: no rows, or ``names`` and ``numbers`` differ in length.
    """
    figure, panel = _rows(names, numbers, title, [number_text(each, ".1f") for each in numbers])
    lengths = [mean if finite(mean) else 0.0 for mean in map(mean_of, numbers)]
    panel.barh(range(len(names)), lengths, color=COLOURS.accent, height=0.66)
    panel.set_xlim(0, 100)  # an interval of few students may reach beyond
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
    figure, panel = _rows(names, estimates, title, ["" if each else MISSING for each in estimates])
    tones = {"better": COLOURS.accent, "worse": COLOURS.second, None: COLOURS.muted}
    for row, (each, verdict) in enumerate(zip(estimates, verdicts, strict=True)):
        if each is not None:
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
    reference: tuple[str, Estimate] | None = None,
) -> Plot:
    """Means with whiskers of half an interval against a number, one line a series, its name at its end.

    Args:
        series: for each name its ``(x, value)`` pairs, values in the unit of ``title``; missing ones are left out.
        title: what is measured, with its unit.
        x_title: what the horizontal axis holds.
        log_x: a logarithmic axis; all ``x`` positive.
        faded: names whose lines stand back in grey.
        reference: a named level to compare with, as a dotted line with its interval as a band.

    Raises:
        ValueError: no series has a point.
    """
    known = {name: [point for point in points if point[1] is not None] for name, points in series.items()}
    drawn = {name: sorted(points, key=lambda point: point[0]) for name, points in known.items() if points}
    if not drawn:
        raise ValueError("series: expected at least one point")
    figure, axes = new_figure(height=max(3.0, 1.2 + LABEL_INCHES * (len(drawn) + 1)))
    panel = axes[0, 0]
    ticks = sorted({x for points in drawn.values() for x, _ in points})
    if log_x:
        panel.set_xscale("log")
    bright = [name for name in series if name not in faded]  # a name keeps its colour where others are left out
    ends: dict[str, tuple[float, float, str]] = {}
    for position, (name, points) in enumerate(drawn.items()):
        number = bright.index(name) if name in bright else 0
        colour = LINE_COLOURS[number % len(LINE_COLOURS)] if name in bright else COLOURS.muted
        xs = _set_apart([x for x, _ in points], position - (len(drawn) - 1) / 2, ticks, log_x)
        panel.errorbar(
            xs,
            [y.mean for _, y in points],
            yerr=[y.half or 0.0 for _, y in points],
            color=colour,
            alpha=1.0 if name in bright else 0.45,
            # Several values at one place are no curve.
            linestyle="-" if len({x for x, _ in points}) == len(points) else "none",
            marker=MARKERS[number % len(MARKERS)] if name in bright else ".",
            markersize=5,
            linewidth=1.8 if name in bright else 1.0,
            elinewidth=1.0,
            capsize=2,
            zorder=3 if name in bright else 2,
        )
        ends[name] = (float(xs[-1]), points[-1][1].mean, colour)
    if reference is not None:
        name, level = reference
        half = level.half or 0.0
        ends |= _reference_lines(panel, {name: level.mean})
        panel.axhspan(level.mean - half, level.mean + half, color=COLOURS.muted, alpha=0.15, linewidth=0)
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
    table = np.array([[_nan(value) for value in row] for row in values], dtype=float)
    if table.size == 0 or table.shape != (len(rows), len(columns)) or len(against) != len(rows):
        raise ValueError(f"values: expected {len(rows)} x {len(columns)} numbers, got {table.shape}")
    gaps = table - np.array([_nan(value) for value in against], dtype=float)[:, None]
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
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_yticks(range(len(rows)), [literal(shorten(name, COLUMN_NAME)) for name in rows], color=COLOURS.ink)
    names = [literal(shorten(name, COLUMN_NAME)) for name in columns]
    panel.set_xticks(range(len(columns)), names, rotation=35, color=COLOURS.ink)
    panel.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    for label in panel.get_xticklabels():
        label.set(ha="left", rotation_mode="anchor")
    panel.grid(False)
    panel.set_xlabel(f"{title}, at most {limit:.0f}")
    return Plot(figure)


def _rows(names: Sequence[str], numbers: Sequence[Number], title: str, texts: Sequence[str]) -> tuple[Figure, Axes]:
    """A row a name, first on top, with its whiskers, and its text at the right."""
    if not names or len(names) != len(numbers):
        raise ValueError(f"names, numbers: expected one of each a row, got {len(names)} and {len(numbers)}")
    figure, axes = new_figure(height=0.7 + 0.26 * len(names))
    panel, rows = axes[0, 0], range(len(names))
    means, halves = ([_nan(part(number)) for number in numbers] for part in (mean_of, half_of))
    panel.errorbar(means, rows, xerr=halves, fmt="none", ecolor=COLOURS.ink, elinewidth=1.2, capsize=3)
    for row, text in enumerate(texts):
        panel.text(1.02, row, text, transform=panel.get_yaxis_transform(), va="center", fontsize=9, color=COLOURS.ink)
    panel.set_yticks(rows, [literal(shorten(name, NAME)) for name in names], color=COLOURS.ink)
    panel.set_ylim(len(names) - 0.5, -0.5)
    headline(panel, title)
    return figure, panel


def _reference_lines(panel: Axes, levels: Mapping[str, float]) -> dict[str, tuple[float, float, str]]:
    """Dotted horizontal lines; their ends, as :func:`_label_ends` takes them."""
    left, right = panel.get_xlim()
    for level in levels.values():
        panel.axhline(level, color=COLOURS.ink, linewidth=1.0, linestyle=":")
    panel.set_xlim(left, right)
    return {name: (right, level, COLOURS.ink) for name, level in levels.items()}


def _label_ends(panel: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """The name of each line at the right, ``(x, y, colour)`` of its end by name; none over another."""
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

    >>> _spread([0.5, 0.5, 0.9], 0.1)
    [0.45, 0.55, 0.9]
    """
    groups: list[tuple[list[int], float]] = []  # of neighbours: who, and their middle

    def within(middle: float, members: Sequence[int]) -> float:
        reach = room * (len(members) - 1) / 2
        return max(min(middle, 1 - reach), reach)

    for index in sorted(range(len(places)), key=lambda index: places[index]):
        members, middle = [index], within(places[index], [index])
        while groups and middle - groups[-1][1] < room * (len(members) + len(groups[-1][0])) / 2:
            before, other = groups.pop()
            middle = (other * len(before) + middle * len(members)) / (len(before) + len(members))
            members = before + members
            middle = within(middle, members)
        groups.append((members, middle))
    moved = [0.0] * len(places)
    for members, middle in groups:
        for rank, index in enumerate(members):
            moved[index] = middle + room * (rank - (len(members) - 1) / 2)
    return moved


def _set_apart(xs: Sequence[float], steps: float, ticks: Sequence[float], log_x: bool) -> np.ndarray:
    """The places of one line, shifted a little sideways."""
    shift = DODGE * steps
    return np.array(xs) * (ticks[-1] / ticks[0]) ** shift if log_x else np.array(xs) + shift * (ticks[-1] - ticks[0])


def _band(
    panel: Axes, index: np.ndarray, mean: np.ndarray, spread: np.ndarray, colour: str, *, log_allowed: bool = True
) -> None:
    """Mean line and band. A gap in ``index`` breaks the line: nothing was measured there."""
    breaks = np.flatnonzero(np.abs(np.diff(index)) > 1.5) + 1
    positive = mean[np.isfinite(mean) & (mean > 0)]
    logarithmic = log_allowed and bool(positive.size == mean.size and positive.max() > LOG_FROM * positive.min())
    low, high = mean - np.nan_to_num(spread), mean + np.nan_to_num(spread)
    if logarithmic:
        panel.set_yscale("log")
        # A band that reaches zero has no lower edge on a log axis: it ends below the smallest mean instead.
        low = np.maximum(low, positive.min() / 3)
    for run in np.split(np.arange(len(index)), breaks):
        marker = "o" if len(run) < 30 else None
        panel.fill_between(index[run], low[run], high[run], color=colour, alpha=0.25, linewidth=0)
        panel.plot(index[run], mean[run], color=colour, linewidth=1.6, marker=marker, markersize=3)
    if not logarithmic:
        panel.set_ylim(bottom=0)


def _shade_unguided(panel: Axes, index: np.ndarray, first: int) -> None:
    """Grey out the steps at which guidance did not act."""
    guided = {int(value) for value in index}
    idle = [step for step in range(first + 1) if step not in guided]
    for low, high in _runs(idle):
        panel.axvspan(low - 0.5, high + 0.5, color=COLOURS.faint, alpha=0.55, linewidth=0)
        if high - low >= 0.15 * first:
            middle, across = (low + high) / 2, panel.get_xaxis_transform()
            words = {"ha": "center", "va": "center", "fontsize": 8, "color": COLOURS.muted}
            panel.text(middle, 0.5, "no guidance", transform=across, **words)


def _runs(values: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of consecutive whole numbers in ascending ``values``."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    return runs


def _column(records: Sequence[Mapping[str, float | None]], key: str) -> np.ndarray:
    return np.array([_nan(record.get(key)) for record in records])


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
