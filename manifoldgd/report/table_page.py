"""The sections of a table's page that are pictures: plain numbers and files in, sections out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from PIL import Image

from manifoldgd.report.figures import bars
from manifoldgd.report.numbers import Spread, finite
from manifoldgd.report.page import Block, Figure, Section
from manifoldgd.report.palette import DARK, LIGHT, Scheme
from manifoldgd.report.table_figures import Points, heat_map, line_plot

SHOWN_CLASSES = 30
GRID_WIDTH = 520  # pixels of an embedded grid; shown at half of it, so sharp on fine screens
GRID_COLOURS = 128  # a palette keeps a page of two dozen grids within a few megabytes


@dataclass(frozen=True)
class Panel:
    """Methods side by side in one column of the table; values in percent, ``std`` half the 95 % interval."""

    key: str  # of the column, part of file names
    title: str
    names: Sequence[str]
    spreads: Sequence[Spread]  # one a name; a missing mean leaves its row empty
    note: str  # what the caption says of bars and whiskers
    reference: float | None = None  # where bars begin; dots without


@dataclass(frozen=True)
class Lines:
    """Methods against a number; ``std`` is half the 95 % interval."""

    key: str
    title: str
    unit: str  # what is measured, with its unit
    series: Mapping[str, Points]
    reference: Spread | None = None


@dataclass(frozen=True)
class Classes:
    """Accuracy of each class under each method, in percent."""

    key: str
    title: str
    methods: Sequence[str]
    class_names: Sequence[str]
    values: Sequence[Sequence[float | None]]  # [methods][classes]
    baseline: str  # colours show the distance from it, or from the mean where it is not among the methods


def bars_section(heading: str, name: str, panels: Sequence[Panel], *, unit: str, empty: str) -> Section:
    """One plot a column, bars from the reference, whiskers the 95 % interval.

    Args:
        heading: of the section.
        name: first part of the file names.
        panels: one a column; those without a mean are left out.
        unit: what is measured, with its unit.
        empty: what stands there if nothing can be drawn.
    """
    drawn = [panel for panel in panels if any(finite(spread.mean) for spread in panel.spreads)]

    def picture(panel: Panel) -> Figure:
        def draw(scheme: Scheme) -> bytes:
            reference = panel.reference
            names, spreads = panel.names, panel.spreads
            return bars(names, spreads, title=unit, from_zero=False, reference=reference, scheme=scheme)

        alt = f"{unit} of {len(panel.names)} methods with 95 % intervals, {panel.title}"
        return _plot(draw, f"{panel.title}. {panel.note}", alt, figure_name(name, panel.key))

    return Section(heading, [picture(panel) for panel in drawn] or [empty])


def lines_section(heading: str, name: str, groups: Sequence[Lines], *, x_title: str, note: str, log_x: bool) -> Section:
    """Lines against ``x_title``, one plot a group; arguments as in :func:`bars_section`."""

    def picture(group: Lines) -> Figure:
        def draw(scheme: Scheme) -> bytes:
            return line_plot(
                group.series, title=group.unit, x_title=x_title, log_x=log_x, reference=group.reference, scheme=scheme
            )

        alt = f"{group.unit} against {x_title}, {group.title}"
        return _plot(draw, f"{group.title}. {note}", alt, figure_name(name, group.key))

    return Section(heading, [picture(group) for group in groups])


def classes_section(groups: Sequence[Classes]) -> Section:
    """A heat map a column: classes by methods; of many classes those in which the methods differ most."""
    heading = "Accuracy by class"
    return Section(heading, [_heat(group) for group in groups] or ["No accuracies by class were recorded."])


def grids_section(groups: Sequence[tuple[str, Sequence[tuple[str, Path | None]]]]) -> Section:
    """The images of each method side by side.

    Args:
        groups: for each heading ``(method, picture)`` pairs. Pictures that are missing or unreadable are named.
    """
    blocks: list[Block] = []
    for title, pictures in groups:
        found = [(method, _thumbnail(file)) for method, file in pictures]
        shown = [(method, image) for method, image in found if image is not None]
        absent = [method for method, image in found if image is None]
        if shown:
            blocks.append(f"{title}:")
        for method, image in shown:
            alt = f"Images of {method}, one row a class, {title}"
            blocks.append(Figure(image, method, alt, pixels_per_point=2.0, narrow=True))
        if absent and shown:
            blocks.append(f"No picture of {', '.join(absent)}.")
    return Section("The images", blocks or ["No pictures of the sets were found beside the table."])


def _heat(group: Classes) -> Figure:
    by_class = list(zip(*group.values, strict=True))
    known = [[value for value in values if finite(value)] or [0.0] for values in by_class]
    kept = sorted(range(len(by_class)), key=lambda label: min(known[label]) - max(known[label]))
    kept = sorted(kept[:SHOWN_CLASSES])
    base = group.methods.index(group.baseline) if group.baseline in group.methods else None
    against = [fmean(known[k]) if base is None else by_class[k][base] for k in kept]
    other = "their mean" if base is None else group.baseline

    def draw(scheme: Scheme) -> bytes:
        return heat_map(
            [by_class[k] for k in kept],
            against,
            rows=[group.class_names[k] for k in kept],
            columns=group.methods,
            title=f"points against {other}",
            scheme=scheme,
        )

    left_out = f" The {len(kept)} of {len(by_class)} classes that differ most." if len(kept) < len(by_class) else ""
    caption = f"{group.title}. Last-epoch accuracy in percent; colour: points above or below {other}.{left_out}"
    alt = f"Accuracy of {len(kept)} classes under {len(group.methods)} methods, {group.title}"
    figure = _plot(draw, caption, alt, figure_name("per_class", group.key))
    return figure


def _plot(draw: Callable[[Scheme], bytes], caption: str, alt: str, name: str) -> Figure:
    return Figure(draw(LIGHT), caption, alt, dark=draw(DARK), pixels_per_point=2.0, name=name)


def _thumbnail(file: Path | None) -> Image.Image | None:
    """A picture made small, or ``None`` if there is none that can be read."""
    if file is None:
        return None
    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    if small.width > GRID_WIDTH:
        height = max(1, round(small.height * GRID_WIDTH / small.width))
        small = small.resize((GRID_WIDTH, height), Image.Resampling.LANCZOS)
    return small.quantize(GRID_COLOURS)


def figure_name(kind: str, key: str) -> str:
    """Name of a figure's file without suffix: what it shows, and of which column or place."""
    safe = re.sub(r"[^\w.-]+", "_", key)
    return f"{kind}_{safe}"
