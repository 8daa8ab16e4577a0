"""Plots of one run or one sweep: plain numbers in, PNG (or SVG) bytes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from manifoldgd.report.canvas import Format, encode, headline, literal, new_figure, shorten
from manifoldgd.report.numbers import MISSING, Spread, finite, number_format, spread_text
from manifoldgd.report.palette import LIGHT, Scheme

# A log axis pays for itself once values spread over more than this factor.
LOG_FROM = 20.0


def guidance_plot(
    records: Sequence[Mapping[str, float | None]], *, scheme: Scheme = LIGHT, file_format: Format = "png"
) -> bytes:
    """How strong guidance was at each step, and how much of the mode vector survived the projection.

    Upper panel: ``||guidance|| / ||noise||``; lower panel: share of the mode vector's energy that the tangent projector
    keeps (absent if no record has one). Lines are means over images, bands one standard deviation either side. Time
    runs from left (noise) to right (image); steps without guidance or without noise are shaded.

    Args:
        records: one mapping a guided step: ``index`` (respaced step, the highest is the noisiest, 0 the last),
            ``ratio_mean``, ``ratio_std``, and ``kept_mean``, ``kept_std`` in [0, 1] or ``None``. A record without
            ``ratio_mean`` counts as a step without guidance or noise.
        scheme: colours.
        file_format: ``"png"`` or ``"svg"``.

    Raises:
        ValueError: no record has a ratio.
    """
    steps = sorted((r for r in records if finite(r.get("ratio_mean"))), key=lambda r: -r["index"])
    if not steps:
        raise ValueError("records: expected at least one guided step")
    first = max(record["index"] for record in records)
    with_kept = any(finite(step.get("kept_mean")) for step in steps)
    rows = 2 if with_kept else 1
    figure, axes = new_figure(scheme, rows=rows, height=1.2 + 1.9 * rows, sharex=True)
    panels = list(axes[:, 0])
    index = _column(steps, "index")
    _band(panels[0], index, _column(steps, "ratio_mean"), _column(steps, "ratio_std"), scheme.accent)
    headline(panels[0], "guidance norm / noise norm", scheme)
    if with_kept:
        kept, spread = _column(steps, "kept_mean"), _column(steps, "kept_std")
        _band(panels[1], index, kept, spread, scheme.second, log_allowed=False)
        panels[1].set_ylim(0, 1)
        headline(panels[1], "share of the guidance vector kept", scheme)
    for panel in panels:
        _shade_unguided(panel, index, int(first), scheme)
    panels[0].set_xlim(first + 0.5, -0.5)
    panels[-1].set_xlabel("denoising step (left: noise, right: image)")
    return encode(figure, file_format)


def accuracy_curve(
    curves: Sequence[Sequence[tuple[int, float]]],
    *,
    names: Sequence[str] = (),
    scheme: Scheme = LIGHT,
    file_format: Format = "png",
) -> bytes:
    """Test accuracy of each student over its epochs; the last epoch, the headline, carries a dot.

    Args:
        curves: for each student ``(epoch, top-1)`` pairs, accuracy in [0, 1].
        names: legend, one a curve; no legend if empty.
        scheme: colours.
        file_format: ``"png"`` or ``"svg"``.

    Raises:
        ValueError: no curve has a point.
    """
    if not any(curves):
        raise ValueError("curves: expected at least one point")
    figure, axes = new_figure(scheme, height=2.9)
    panel = axes[0, 0]
    for position, curve in enumerate(curves):
        if not curve:
            continue
        colour = (scheme.accent, scheme.second)[position % 2]
        style = ("-", "--", "-.", ":")[(position // 2) % 4]
        epochs, values = np.array([point[0] for point in curve]), 100 * np.array([_nan(point[1]) for point in curve])
        label = literal(names[position]) if names else None
        panel.plot(epochs, values, style, color=colour, linewidth=1.5, label=label)
        panel.plot(epochs[-1:], values[-1:], "o", color=colour, markersize=5)
    panel.set_xlabel("epoch")
    headline(panel, "accuracy, %", scheme)
    if names:
        panel.legend(
            loc="lower right", fontsize=8, facecolor=scheme.paper, edgecolor=scheme.faint, labelcolor=scheme.ink
        )
    return encode(figure, file_format)


def bars(
    names: Sequence[str],
    spreads: Sequence[Spread],
    *,
    title: str,
    from_zero: bool = True,
    reference: float | None = None,
    scheme: Scheme = LIGHT,
    file_format: Format = "png",
) -> bytes:
    """One row a name, first on top: value with whiskers of ``std`` either side, printed at the right.

    Args:
        names: one a row.
        spreads: one a row, in the unit of ``title``; a missing mean leaves its row empty but for a dash.
        title: what is measured, with its unit.
        from_zero: bars from zero; otherwise dots on an axis that spans the values, for differences that are small
            against them (a bar must start at zero, since its length is what one reads).
        reference: bars from this value, which a line marks, on an axis that spans the values: their length is the
            difference from it. Overrules ``from_zero``. Values against a reference of zero are printed with their sign.
        scheme: colours.
        file_format: ``"png"`` or ``"svg"``.

    Raises:
        ValueError: no rows, or ``names`` and ``spreads`` differ in length.
    """
    if not names or len(names) != len(spreads):
        raise ValueError(f"names, spreads: expected one of each a row, got {len(names)} and {len(spreads)}")
    figure, axes = new_figure(scheme, height=0.7 + 0.28 * len(names))
    panel, rows = axes[0, 0], range(len(names))
    spec = ("+" if reference == 0 else "") + number_format(spreads)  # bars from zero are differences
    means = np.array([_nan(spread.mean) for spread in spreads])
    deviations = np.array([_nan(spread.std) for spread in spreads])
    if reference is not None:
        panel.barh(rows, np.nan_to_num(means - reference), left=reference, color=scheme.accent, alpha=0.5, height=0.62)
        panel.axvline(reference, color=scheme.ink, linewidth=1.0, linestyle=":")
    elif from_zero:
        panel.barh(rows, np.nan_to_num(means), color=scheme.accent, height=0.68)
        panel.set_xlim(left=0)
    else:
        panel.plot(means, rows, "o", color=scheme.accent, markersize=6)
    panel.errorbar(means, rows, xerr=deviations, fmt="none", ecolor=scheme.ink, elinewidth=1.2, capsize=3)
    beside = panel.get_yaxis_transform()
    for row, spread in enumerate(spreads):
        text = spread_text(spread, spec) if finite(spread.mean) else MISSING
        panel.text(1.02, row, text, transform=beside, va="center", fontsize=9, color=scheme.ink)
    panel.set_yticks(rows, [literal(shorten(name, 34)) for name in names], color=scheme.ink)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(reference is None and not from_zero, axis="y")
    headline(panel, title, scheme)
    return encode(figure, file_format)


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


def _shade_unguided(panel: Axes, index: np.ndarray, first: int, scheme: Scheme) -> None:
    """Grey out the steps at which guidance did not act."""
    guided = {int(value) for value in index}
    idle = [step for step in range(first + 1) if step not in guided]
    for low, high in _runs(idle):
        panel.axvspan(low - 0.5, high + 0.5, color=scheme.faint, alpha=0.55, linewidth=0)
        if high - low >= 0.15 * first:
            panel.text(
                (low + high) / 2,
                0.5,
                "no guidance",
                transform=panel.get_xaxis_transform(),
                ha="center",
                va="center",
                fontsize=8,
                color=scheme.muted,
            )


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
