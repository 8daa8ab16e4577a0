"""What the pictures of a table's page show: numbers of the summary in the shapes that ``report`` draws."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from manifoldgd.report.numbers import Spread, percent
from manifoldgd.report.page import Section
from manifoldgd.report.table_page import (
    Classes,
    Lines,
    Panel,
    bars_section,
    classes_section,
    grids_section,
    lines_section,
)
from manifoldgd.study.layout import difference_cell, headline
from manifoldgd.study.results import Column
from manifoldgd.study.summary import CellSummary, Summary
from manifoldgd.study.wording import noun

INTERVALS = "Whiskers: 95 % interval."
SCALES = 3  # guidance scales from which on a plot says more than the table


def accuracy_section(summary: Summary) -> Section:
    """Bars from the baseline's mean, one plot a column."""
    base = summary.result.baseline
    panels = []
    for column in summary.result.columns:
        group = summary.column(column)
        cell = summary.cells.get((base, column.key))
        reference = 100 * cell.last.interval.mean if cell and cell.last else None
        bar = f"Bars begin at the mean of {base} (dotted line), so their length is the difference from it."
        note = f"{bar} {INTERVALS}" if reference is not None else INTERVALS
        names, spreads = [each.method for each in group], [percent(headline(each)) for each in group]
        panels.append(Panel(column.key, column.title, names, spreads, note, reference))
    return bars_section("Accuracy", "accuracy", panels, unit=f"{noun(summary)}, %", empty="No set is judged yet.")


def difference_section(summary: Summary) -> Section:
    """Paired differences to the baseline with their intervals about zero, one plot a column."""
    base = summary.result.baseline
    panels = []
    for column in summary.result.columns:
        group = [cell for cell in summary.column(column) if cell.method != base]
        spreads = [percent(difference_cell(cell) or Spread(None)) for cell in group]
        note = f"Difference on the same seeds. {INTERVALS} Where it touches zero (dotted line), nothing is separated."
        if group:
            panels.append(Panel(column.key, column.title, [cell.method for cell in group], spreads, note, 0.0))
    return bars_section(
        f"Difference to {base}",
        "difference",
        panels,
        unit=f"difference to {base}, points",
        empty=f"No method shares a seed with {base} yet.",
    )


def ipc_section(summary: Summary) -> Section | None:
    """Accuracy against images a class, one plot for each dataset and student with two or more; ``None`` without."""
    places: dict[tuple[str, str, str], list[Column]] = {}
    for column in summary.result.columns:
        places.setdefault((column.dataset, column.student, column.label_protocol), []).append(column)
    groups = []
    for (dataset, student, _), columns in places.items():
        for name, unit, value in (
            ("accuracy", f"{noun(summary)}, %", _spread),
            ("difference", f"difference to {summary.result.baseline}, points", _difference),
        ):
            series = {
                method: [(column.ipc, value(summary.cells[method, column.key])) for column in columns]
                for method in summary.result.methods
            }
            if len({column.ipc for column in columns}) > 1 and _drawable(series.values()):
                zero = Spread(0.0) if value is _difference else None
                groups.append(Lines(f"{name}_{dataset}_{student}", f"{dataset}, {student}", unit, series, zero))
    note = f"{INTERVALS} Methods are set apart sideways to keep whiskers visible."
    heading = "Accuracy against images a class"
    return lines_section(heading, "ipc", groups, x_title="images a class", note=note, log_x=True) if groups else None


def scale_section(summary: Summary) -> Section | None:
    """Accuracy against the guidance scale, one plot a column; ``None`` below three scales."""
    scales = {name: scale for name, scale in summary.result.parameters.items() if name in summary.result.methods}
    if len(set(scales.values())) < SCALES:
        return None
    groups = []
    for column in summary.result.columns:
        series: dict[str, list[tuple[float, Spread]]] = {}
        for name, scale in scales.items():
            series.setdefault(_families(scales)[name], []).append((scale, _spread(summary.cells[name, column.key])))
        base = summary.cells.get((summary.result.baseline, column.key))
        if _drawable(series.values()):
            unit = f"{noun(summary)}, %"
            groups.append(Lines(column.key, column.title, unit, series, _spread(base) if base else None))
    note = f"{INTERVALS} Dotted line and band: {summary.result.baseline}."
    heading = "Accuracy against guidance scale"
    return lines_section(heading, "scale", groups, x_title="guidance scale", note=note, log_x=False) if groups else None


def images_section(summary: Summary, folder: str | os.PathLike[str]) -> Section:
    """The first set of each method, once for each dataset and number of images a class."""
    places: dict[tuple[str, int], Column] = {}
    for column in summary.result.columns:
        places.setdefault((column.dataset, column.ipc), column)
    groups = []
    for (dataset, ipc), column in places.items():
        pictures = [(cell.method, _first_grid(cell, Path(folder))) for cell in summary.column(column)]
        groups.append((f"{dataset}, ipc {ipc}", pictures))
    return grids_section(groups)


def per_class_section(summary: Summary) -> Section:
    """Accuracies by class of every method that has them, one heat map a column."""
    groups = []
    for column in summary.result.columns:
        held = {cell.method: cell.per_class for cell in summary.column(column)}
        found = {method: values for method, values in held.items() if values}
        if not found:
            continue
        count = min(map(len, found.values()))
        names = summary.result.class_names
        if len(names) != count:
            names = tuple(f"class {label}" for label in range(count))
        values = [[None if value is None else 100 * value for value in each[:count]] for each in found.values()]
        groups.append(Classes(column.key, column.title, list(found), names, values, summary.result.baseline))
    return classes_section(groups)


def _first_grid(cell: CellSummary, folder: Path) -> Path | None:
    return next((folder / one.grid for one in cell.sets if one.grid), None)


def _spread(cell: CellSummary) -> Spread:
    return percent(Spread(cell.last.interval.mean, cell.last.interval.half)) if cell.last else Spread(None)


def _difference(cell: CellSummary) -> Spread:
    return percent(Spread(cell.difference.mean, cell.difference.half)) if cell.difference else Spread(None)


def _drawable(series: Sequence[Sequence[tuple[float, Spread]]]) -> bool:
    return any(point.mean is not None for points in series for _, point in points)


def _families(scales: dict[str, float]) -> dict[str, str]:
    """The line on which each method lies: its name without the number at its end, if that joins any two.

    >>> _families({"mode 0.1": 0.1, "mode 0.2": 0.2, "manifold-0.1": 0.1})
    {'mode 0.1': 'mode', 'mode 0.2': 'mode', 'manifold-0.1': 'manifold'}
    >>> _families({"weak": 0.1, "strong": 0.2})
    {'weak': 'guided', 'strong': 'guided'}
    """
    names = {name: re.sub(r"[\s_=@,:-]*[\d.]+$", "", name) or name for name in scales}
    return names if len(set(names.values())) < len(names) else dict.fromkeys(names, "guided")
