"""What the page of a study says, whether the study is a table or a sweep: its content, once, for every format.

Accuracy comes first, in one block for each dataset and number of images a class: accuracies of different numbers of
images are different quantities and never ranked together.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

import pandas as pd
from PIL import Image

from manifoldgd.data.imagenet import readable
from manifoldgd.report.content import Cell, Column, Figure, Link, Marked, Notes, Page, Section, Table
from manifoldgd.report.figures import Points, dots, heat_map, line_plot
from manifoldgd.report.measures import measure
from manifoldgd.report.numbers import finite, percent, seconds_text
from manifoldgd.study import results
from manifoldgd.study.published import Published
from manifoldgd.study.scored import SCORES
from manifoldgd.study.summary import CellSummary, Summary
from manifoldgd.study.timing import computing_seconds

MARKS = {"better": "▲", "worse": "▼", None: ""}
FOREIGN = "†‡§"  # one sign a foreign number family; beyond three families the last is shared
FAMILY_WARNING = "absolute values of different families do not compare"
NUMBERS = 3  # different numbers from which on a line says more than the table
SHOWN_ROWS = 40  # of a block that are drawn
SHOWN_CLASSES = 30
GRID_PIXELS = 360  # width of an embedded grid; shown at half of it, so sharp on fine screens
WHISKERS = "Whiskers: 95 % interval over sets."


def study_page(
    summary: Summary, folder: Path, *, scores: bool = False, failures: Sequence[tuple[str, str]] = ()
) -> Page:
    """The content of a study's page.

    Args:
        summary: the study, finished or not.
        folder: where the page will lie; links and pictures are relative to it.
        scores: whether DD-Ranking's scores, where sets have them among their measures, get columns.
        failures: what could not be made or judged besides the failed sets of the result, and why.
    """
    result = summary.result
    failed = [(f"{one.method}, {one.column}, seed {one.seed}", one.reason) for one in result.failed]
    failed = [f"{name}: {reason}" for name, reason in (*failed, *failures)]
    elsewhere = elsewhere_table(summary)
    found = [
        Section(f"Failed ({len(failed)})", [Notes(failed)]) if failed else None,
        *(block_section(summary, columns, folder) for columns in blocks(summary).values()),
        ipc_section(summary),
        *number_sections(summary),
        Section("Published, not run here", [elsewhere]) if elsewhere is not None else None,
        class_section(summary),
        details_section(summary, scores),
        Section("How to read the numbers", [Notes([*explanations(summary), *notes(summary, scores)])], folded=True)
        if result.columns
        else None,
        Section("How it was measured", [Notes(facts(summary))], folded=True) if result.sets else None,
        Section("Runs", [runs_table(summary, folder)], folded=True, links=True) if result.sets else None,
    ]
    return Page(
        title=result.title + (" (validation split)" if result.split == "validation" else ""),
        subtitle=result.question,
        notices=notices(summary),
        sections=[section for section in found if section is not None],
    )


# Blocks


def blocks(summary: Summary) -> dict[str, list[results.Column]]:
    """The columns in which methods may be compared at a glance, by the heading they share."""
    held = summary.result.columns
    found: dict[str, list[results.Column]] = {}
    for column in held:
        dataset = f"{column.dataset}, " if len({each.dataset for each in held}) > 1 else ""
        labels = f", {column.labels} labels" if len(summary.labels) > 1 else ""
        images = "1 image a class" if column.ipc == 1 else f"{column.ipc} images a class"
        found.setdefault(f"{dataset}{images}{labels}", []).append(column)
    return found


def block_section(summary: Summary, columns: Sequence[results.Column], folder: Path) -> Section:
    """One block: the accuracies, their plots and the images behind them."""
    heading = next(heading for heading, held in blocks(summary).items() if held == columns)
    first = columns[0] == summary.result.columns[0]
    figures = [figure for column in columns for figure in accuracy_figures(summary, column, explained=first)]
    return Section(heading, [accuracy_table(summary, columns, folder), *figures, *pictures(summary, columns, folder)])


def accuracy_table(summary: Summary, columns: Sequence[results.Column], folder: Path) -> Table:
    """Methods by columns of one block: accuracy, difference to the baseline, and what was published."""
    methods = _shown(summary, columns)
    alone = len(columns) == 1
    held: list[tuple[Column, list[Cell]]] = [
        (Column("method", "method", "setting"), [_method(summary, method, columns, folder) for method in methods])
    ]
    for column in columns:
        group = [summary.cells[method, column.key] for method in methods]
        name = "" if alone else f"{_own_title(column, columns)}: "
        accuracy = Column(column.key, f"{name}accuracy, %", better="high", percent=True)
        held.append((accuracy, [headline(cell) for cell in group]))
        base = f"{name}to {summary.result.baseline}, points"
        difference = Column(f"{column.key} difference", base, percent=True, signed=True)
        held.append((difference, [difference_cell(cell) for cell in group]))
        published = Column(f"{column.key} published", f"{name}published, %", "setting")
        held.append((published, [published_text(summary, cell.published) or None for cell in group]))
        shape = Column(f"{column.key} shape", f"{name}sets × students", "setting")
        held.append((shape, [cell.shape for cell in group]))
    return Table.of(held, f"{_place(columns)}: {noun(summary)}{label_note(columns[0])}")


def accuracy_figures(summary: Summary, column: results.Column, *, explained: bool) -> list[Figure]:
    """The accuracies of a column as dots, the baseline's as a line; nothing where there are fewer than two."""
    group = [summary.cells[method, column.key] for method in _shown(summary, [column])][:SHOWN_ROWS]
    if sum(cell.last is not None for cell in group) < 2:
        return []
    base = summary.result.baseline
    reference = summary.cells.get((base, column.key))
    plot = partial(
        dots,
        [cell.method for cell in group],
        [_accuracy(cell) for cell in group],
        title=f"{noun(summary)}, %",
        verdicts=[cell.difference and cell.difference.verdict for cell in group],
        reference=_accuracy(reference) if reference else None,
    )
    caption = f"{column.title}."
    if explained:
        against = f" Dotted: {base}. Blue: better than it on the same seeds, orange: worse, grey: not separated."
        caption += f" {WHISKERS}{against if base else ''}"
    if len(group) == SHOWN_ROWS:
        caption += f" The first {SHOWN_ROWS} rows."
    alt = f"{noun(summary)} of {len(group)} methods with 95 % intervals, {column.title}"
    return [Figure(plot, caption, alt, name=figure_name("accuracy", column.key))]


def pictures(summary: Summary, columns: Sequence[results.Column], folder: Path) -> list[Figure]:
    """The first set of each method, small, leading to its run; pictures that cannot be read are named."""
    found: list[Figure] = []
    absent: list[str] = []
    for method in _shown(summary, columns):
        cells = [summary.cells[method, column.key] for column in columns]
        row = next((row for cell in cells for _, row in cell.sets.iterrows() if row["grid"]), None)
        image = _thumbnail(folder / row["grid"]) if row is not None else None
        if image is None:
            absent.append(method)
        else:
            link = run_link(row, folder)
            alt = f"Images of {method}, one row a class, {_place(columns)}"
            found.append(
                Figure(image, method, alt, pixels_per_point=2.0, shape="narrow", url=link.url if link else None)
            )
    if found and absent:
        found[-1] = replace(found[-1], caption=f"{found[-1].caption}; no picture of {', '.join(absent)}")
    return found


def headline(cell: CellSummary) -> Marked | None:
    """Mean and interval of the last epoch, with the verdict and what is missing as its mark."""
    limits = []
    if not cell.is_whole:
        limits.append(f"{len(cell.sets)} of {cell.asked} sets")
    if cell.repeats:
        limits.append("one set" if len(cell.distinct) == 1 else f"{len(cell.distinct)} different sets")
    if cell.last and cell.lacking:
        limits.append(f"{cell.last.students} of {len(cell.distinct) * cell.students_asked} students")
    verdict = MARKS[cell.difference.verdict] if cell.difference else ""
    mark = " ".join(filter(None, [verdict, f"({', '.join(limits)})" if limits else ""]))
    return Marked(cell.last.interval if cell.last else None, mark)


def difference_cell(cell: CellSummary) -> Marked | None:
    """Paired difference and its interval, with the number of paired sets; without an interval nothing is claimed."""
    found = cell.difference
    if found is None:
        return None
    return Marked(found, " ".join(filter(None, [MARKS[found.verdict], f"(n {found.count})"])))


def published_text(summary: Summary, rows: Sequence[Published]) -> str:
    """The published number; of other families, each with the sign of its footnote."""
    signs = foreign_signs(summary)
    return ", ".join(" ".join(filter(None, (_published(row), signs.get(row.number_family, "")))) for row in rows)


def _shown(summary: Summary, columns: Sequence[results.Column]) -> list[str]:
    """The rows of a block: all of a table, in its order; those of a sweep that have an accuracy, best first."""
    result = summary.result
    if result.baseline:
        return list(result.methods)
    means = {
        method: [cell.last.interval.mean for cell in (summary.cells[method, each.key] for each in columns) if cell.last]
        for method in result.methods
    }
    return sorted((method for method in means if means[method]), key=lambda method: -max(means[method]))


def _method(summary: Summary, method: str, columns: Sequence[results.Column], folder: Path) -> Cell:
    """The name of a method, leading to its first run in the block where a reader can go there."""
    rows = (row for each in columns for _, row in summary.cells[method, each.key].sets.iterrows())
    link = next(filter(None, (run_link(row, folder) for row in rows)), None)
    return method if link is None else Link(method, link.url)


def run_link(row: Mapping[str, object], folder: str | os.PathLike[str]) -> Link | None:
    """Where a reader finds the run of a set: its tracked page, or else its report or folder beside the table."""
    run, grid = row["run"], row["grid"]
    if isinstance(run, str) and urlsplit(run).scheme in ("http", "https"):
        return Link("run", run)
    if not isinstance(grid, str) or Path(grid).is_absolute():
        return None
    home = Path(grid).parent
    report = (Path(folder) / home / "report.html").is_file()
    return Link("report" if report else "folder", quote((home / "report.html" if report else home).as_posix()))


# Accuracy against a number


def ipc_section(summary: Summary) -> Section | None:
    """Accuracy, and difference to the baseline, against images a class; ``None`` where there is one number of them."""
    places: dict[tuple[str, str, str], list[results.Column]] = {}
    for column in summary.result.columns:
        places.setdefault((column.dataset, column.student, column.label_protocol), []).append(column)
    figures = []
    for (dataset, student, _), columns in places.items():
        if len({column.ipc for column in columns}) < 2:
            continue
        accuracies = {
            method: [(column.ipc, _accuracy(summary.cells[method, column.key])) for column in columns]
            for method in summary.result.methods
        }
        differences = {
            method: [(column.ipc, _difference(summary.cells[method, column.key])) for column in columns]
            for method in summary.result.methods
        }
        where, key = f"{dataset}, {student}", f"{dataset}_{student}"
        faded = _behind(summary, accuracies)
        against = f"difference to {summary.result.baseline}, points"
        drawn = (("accuracy", f"{noun(summary)}, %", accuracies), ("difference", against, differences))
        for kind, unit, series in drawn:
            figures += _lines(f"ipc_{kind}", key, where, unit, "images a class", series, faded=faded, log_x=True)
    return Section("Accuracy against images a class", figures) if figures else None


def number_sections(summary: Summary) -> Iterator[Section]:
    """Accuracy against each number that was varied, a line for each guidance or what else was varied beside it."""
    for name, lines in swept_numbers(summary.result).items():
        figures = []
        for column in summary.result.columns:
            series: dict[str, list[tuple[float, object]]] = {}
            for method, (line, number) in lines.items():
                series.setdefault(line, []).append((number, _accuracy(summary.cells[method, column.key])))
            base = summary.cells.get((summary.result.baseline, column.key))
            level = (summary.result.baseline, _accuracy(base)) if base and base.last else None
            key = column.key if name == "guidance scale" else f"{column.key}_{name}"
            unit = f"{noun(summary)}, %"
            figures += _lines("scale", key, column.title, unit, name, series, reference=level)
        if figures:
            yield Section(f"Accuracy against {name}", figures)


def swept_numbers(result: results.TableResult) -> dict[str, dict[str, tuple[str, float]]]:
    """By the name of a number: for each method that has it the line it lies on, and the number itself.

    Of a table it is the guidance scale, and lines are methods' names without the number at their end; of a sweep each
    key with numbers, and lines are what else was varied. Fewer than three numbers make no line.
    """
    if result.settings:
        keys = dict.fromkeys(key for held in result.settings.values() for key in held)
        found = {
            key: {
                method: (settings_text({each: value for each, value in held.items() if each != key}) or "accuracy",
                         float(held[key]))
                for method, held in result.settings.items()
                if is_number(held.get(key))
            }
            for key in keys
        }  # fmt: skip
    else:
        scales = {name: scale for name, scale in result.parameters.items() if name in result.methods}
        lines = _families(scales)
        found = {"guidance scale": {method: (lines[method], scale) for method, scale in scales.items()}}
    return {name: held for name, held in found.items() if len({number for _, number in held.values()}) >= NUMBERS}


def settings_text(settings: Mapping[str, str]) -> str:
    """Settings for people, choices without their group.

    >>> settings_text({"guidance": "mode", "guidance.scale": "0.1", "ipc": "10"})
    'mode guidance.scale=0.1 ipc=10'
    """
    return " ".join(
        f"{key}={value}" if "." in key or is_number(value) else str(value) for key, value in settings.items()
    )


def is_number(value: str | None) -> bool:
    """Whether a setting can stand on an axis."""
    try:
        return value is not None and finite(float(value))
    except ValueError:
        return False


def _families(scales: Mapping[str, float]) -> dict[str, str]:
    """The line on which each method lies: its name without the number at its end, if that joins any two.

    >>> _families({"mode 0.1": 0.1, "mode 0.2": 0.2, "manifold-0.1": 0.1})
    {'mode 0.1': 'mode', 'mode 0.2': 'mode', 'manifold-0.1': 'manifold'}
    >>> _families({"weak": 0.1, "strong": 0.2})
    {'weak': 'guided', 'strong': 'guided'}
    """
    names = {name: re.sub(r"[\s_=@,:-]*[\d.]+$", "", name) or name for name in scales}
    return names if len(set(names.values())) < len(names) else dict.fromkeys(names, "guided")


def _lines(
    kind: str, key: str, where: str, unit: str, against: str, series: Mapping[str, Points], **how: object
) -> list[Figure]:
    """One plot, where there is something to draw."""
    if not any(value is not None for points in series.values() for _, value in points):
        return []
    plot = partial(line_plot, series, title=unit, x_title=against, **how)
    beside = f" Dotted: {how['reference'][0]}." if how.get("reference") else ""
    caption = f"{where}. {WHISKERS}{beside}"
    return [Figure(plot, caption, f"{unit} against {against}, {where}", name=figure_name(kind, key))]


def _behind(summary: Summary, series: Mapping[str, Points]) -> set[str]:
    """The methods that are neither the baseline nor highest at any number of images a class, nor close to it."""
    kept = {summary.result.baseline}
    for ipc in {x for points in series.values() for x, _ in points}:
        here = {name: value.mean for name, points in series.items() for x, value in points if x == ipc and value}
        kept |= set(sorted(here, key=lambda name: -here[name])[:2])
    return set(series) - kept


def _accuracy(cell: CellSummary) -> object:
    return percent(cell.last.interval) if cell.last else None


def _difference(cell: CellSummary) -> object:
    return percent(cell.difference)


# Classes, details, runs


def class_section(summary: Summary) -> Section | None:
    """Accuracies by class of every method that has them, one heat map a column; ``None`` where nobody has."""
    figures = []
    for column in summary.result.columns:
        held = {cell.method: cell.per_class for cell in summary.column(column)}
        found = {method: values for method, values in held.items() if values}
        if found:
            figures.append(_heat(summary, column, found))
    return Section("Accuracy by class", figures, folded=True) if figures else None


def _heat(summary: Summary, column: results.Column, found: Mapping[str, list[float | None]]) -> Figure:
    """Classes by methods; of many classes those in which the methods differ most."""
    count = min(map(len, found.values()))
    names = readable(summary.result.class_names)
    if len(names) != count:
        names = tuple(f"class {label}" for label in range(count))
    by_class = pd.DataFrame({method: values[:count] for method, values in found.items()}, dtype=float) * 100
    gaps = (by_class.max(axis=1) - by_class.min(axis=1)).fillna(0.0)
    kept = sorted(gaps.sort_values(ascending=False, kind="stable").index[:SHOWN_CLASSES])
    base = summary.result.baseline if summary.result.baseline in found else None
    other = base or "their mean"
    shown = by_class.loc[kept]
    plot = partial(
        heat_map,
        shown.to_numpy().tolist(),
        (shown[base] if base else shown.mean(axis=1)).tolist(),
        rows=[names[label] for label in kept],
        columns=list(found),
        title=f"colour: points above (blue) or below (orange) {other}",
    )
    left_out = f" The {len(kept)} of {count} classes that differ most." if len(kept) < count else ""
    alt = f"Accuracy of {len(kept)} classes under {len(found)} methods, {column.title}"
    caption = f"{column.title}. Last-epoch accuracy in percent.{left_out}"
    return Figure(plot, caption, alt, name=figure_name("per_class", column.key))


def details_section(summary: Summary, scores: bool) -> Section | None:
    """What was measured besides accuracy, one table a column."""
    tables = [detail_table(summary, column, scores=scores) for column in summary.result.columns]
    return Section("More numbers", tables, folded=True) if tables else None


def detail_table(summary: Summary, column: results.Column, *, scores: bool = False) -> Table:
    """How far sets and students scatter, the best epoch, measures and time; what no method has is left out."""
    group = [summary.cells[method, column.key] for method in _shown(summary, [column])]
    frechet = measure("frechet_distance")
    keys = [("frechet_distance", frechet.title, frechet.better)]
    keys += [(key, key.upper(), end) for key, end in SCORES.items() if scores]
    drawn: list[tuple[Column, list[Cell]]] = [
        (Column("method", "method", "setting"), [cell.method for cell in group]),
        (
            Column("between", "std between sets, points", percent=True),
            [cell.last and cell.last.between for cell in group],
        ),
        (
            Column("within", "std within a set, points", percent=True),
            [cell.last and cell.last.within for cell in group],
        ),
        (
            Column("best_top1", "best epoch, % (not the result)", percent=True),
            [cell.best and cell.best.interval.mean for cell in group],
        ),
        *(
            (Column(key, title, better=end), [cell.average(f"measure_{key}") for cell in group])
            for key, title, end in keys
        ),
        (Column("ratio", "guidance / noise"), [cell.average("guidance_ratio") for cell in group]),
        (Column("kept", "energy kept, %", percent=True), [cell.average("guidance_kept") for cell in group]),
        (Column("seconds", "seconds a set"), [cell.seconds for cell in group]),
    ]
    return Table.of(drawn, column.title + label_note(column))


def elsewhere_table(summary: Summary) -> Table | None:
    """Published numbers of methods that this study does not run, by column; ``None`` without any."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for column, row in summary.not_run:
        rows.setdefault((row.method, row.kind, row.source), {})[column.key] = _published(row)
    if not rows:
        return None
    shared, titles = summary.titles
    columns = [Column("method", "method", "setting"), Column("kind", "kind", "setting")]
    columns += [Column(column.key, f"{titles[column.key]}, %", "setting") for column in summary.result.columns]
    columns.append(Column("source", "source", "setting"))
    cells: list[Sequence[Cell]] = [
        [method, kind, *(held.get(column.key) for column in summary.result.columns), source]
        for (method, kind, source), held in rows.items()
    ]
    spread = "what stands behind ± is as the source gives it, mostly a standard deviation, no interval"
    caption = f"number family “{summary.result.number_family}”; {spread}"
    return Table(columns, cells, f"{shared}: {caption}" if shared else caption)


def runs_table(summary: Summary, folder: str | os.PathLike[str]) -> Table:
    """One row a distilled set, with a link to its run or its folder below ``folder``."""
    titles = summary.titles[1]
    columns = [
        Column("method", "method", "setting"),
        Column("column", "column", "setting"),
        Column("seed", "seed", "setting"),
        Column("last_top1", "mean of its students, %", percent=True),
        Column("run", "run", "setting"),
        Column("code_version", "code", "setting"),
    ]
    rows: list[Sequence[Cell]] = [
        [
            cell.method,
            titles[cell.column.key],
            int(row["seed"]),
            float(cell.students.loc[cell.students["seed"] == row["seed"], "last_top1"].mean()),
            run_link(row, folder),
            row["code_version"],
        ]
        for cell in summary.cells.values()
        for _, row in cell.sets.iterrows()
    ]
    return Table(columns, rows)


# Sentences without which the numbers could be misread


def noun(summary: Summary) -> str:
    """What the numbers are."""
    return f"last-epoch {summary.result.split} accuracy"


def label_note(column: results.Column) -> str:
    """For captions: hard labels are the rule, anything else must be said."""
    if column.labels == "hard":
        return ""
    return f"; {column.labels} labels: students learn a teacher's outputs, never compare with hard-label tables"


def notices(summary: Summary) -> list[str]:
    """What must not be overlooked."""
    found = []
    if summary.result.split == "validation":
        found.append(
            "VALIDATION accuracies, not test results: judged on images held out of the training split, "
            "for choosing settings. The test split was not read, and published (test) accuracies are left out."
        )
    if summary.result.baseline and (summary.missing or summary.lacking):
        found.append(f"Unfinished: {_unfinished(summary)}.")
    return found


def _unfinished(summary: Summary) -> str:
    total = sum(cell.asked for cell in summary.cells.values())
    held = {(one.method, one.column, one.seed) for one in summary.result.sets}
    failed = sum((one.method, one.column, one.seed) not in held for one in summary.result.failed)
    parts = []
    if summary.missing:
        parts.append(f"{summary.missing} of {total} sets are missing")
    if failed:
        parts.append(f"{failed} of them failed")
    if summary.lacking:
        parts.append(f"fewer students than asked for in {summary.lacking} of {total} sets")
    return ", ".join(parts)


def explanations(summary: Summary) -> list[str]:
    """How to read the numbers: one sentence or two each."""
    result = summary.result
    found = [
        "Means are over distilled sets, each the mean of its students; the sets are the independent unit, since "
        "students of one set are not independent. A cell with one set has no interval.",
    ]
    if repeating := dict.fromkeys(cell.method for cell in summary.cells.values() if cell.repeats):
        names = ", ".join(repeating)
        paired = "; differences pair all seeds" if result.baseline else ""
        found.append(f"Seeds that gave the same images count as one set ({names}){paired}.")
    if summary.comparisons:
        found.append(
            f"▲ better, ▼ worse than {result.baseline}: the 95 % interval of the difference on the same distillation "
            "and student seeds (n sets) excludes zero. No sign: not separated. The highest mean of a block is "
            "emphasised."
        )
    elif result.baseline:
        found.append(f"No method shares two distillation seeds with {result.baseline}: none is called better or worse.")
    else:
        found.append("Rows of a block stand by last-epoch accuracy. Differences of a few points need seeds to be told.")
    if summary.comparisons > 1:
        found.append(
            f"{summary.comparisons} comparisons, not corrected for their number: between equals about "
            f"{0.05 * summary.comparisons:.1f} of them would be marked by chance."
        )
    if any(cell.published for cell in summary.cells.values()):
        found.append(
            f"Published numbers are of the family “{result.number_family}”, ± as their source gives it: most give a "
            "standard deviation, no interval."
        )
    for family, sign in foreign_signs(summary).items():
        found.append(f"{sign} published in another number family (“{family}”): {FAMILY_WARNING}.")
    return found


def notes(summary: Summary, scores: bool) -> list[str]:
    """The table's own notes, and what must be known of scores where they were asked for."""
    found = [f"Note: {note}" for note in summary.result.notes]
    if scores and any(key in one.measures for one in summary.result.sets for key in SCORES):
        found.append(
            "HLR, IOR, LRS, ARS: DD-Ranking's scores of accuracies as fractions. Its published code puts percentages "
            "into the exponential, so its numbers and these do not compare."
        )
    elif scores:
        found.append("DD-Ranking's scores were asked for, and no set holds one.")
    return found


def facts(summary: Summary) -> list[str]:
    """Seeds, protocol, hardware, time and code: one line each."""
    result = summary.result
    protocols = sorted({column.label_protocol for column in result.columns})
    baseline = f"Baseline: {result.baseline}. " if result.baseline else ""
    found = [
        f"{baseline}Distillation seeds: {', '.join(map(str, result.seeds))}. "
        f"Student seeds: {result.student_seeds_text}. Judged on the {result.split} split.",
        f"Label protocol: {', '.join(protocols)}. Students: {', '.join(sorted({c.student for c in result.columns}))}.",
    ]
    if stages := computing_seconds(result.sets):
        parts = ", ".join(f"{stage} {seconds_text(value)}" for stage, value in stages.items())
        found.append(f"Time: {seconds_text(stages.total())} of computing in all ({parts}).")
    hardware = sorted({one.hardware for one in result.sets if one.hardware})
    found += [f"Hardware: {'; '.join(hardware)}."] if hardware else []
    versions = Counter(one.code_version for one in result.sets if one.code_version)
    if versions:
        counted = ", ".join(
            f"{version} ({count} set{'s' if count > 1 else ''})" for version, count in versions.most_common()
        )
        found.append(f"Code version: {counted}.")
    return found


def foreign_signs(summary: Summary) -> dict[str, str]:
    """The sign of each number family that is shown and is not the study's own."""
    shown = {row.number_family for cell in summary.cells.values() for row in cell.published}
    foreign = sorted(shown - {summary.result.number_family})
    return {family: FOREIGN[min(position, len(FOREIGN) - 1)] for position, family in enumerate(foreign)}


def figure_name(kind: str, key: str) -> str:
    """Name of a figure's file without suffix: what it shows, and of which column or place."""
    safe = re.sub(r"[^\w.-]+", "_", key)
    return f"{kind}_{safe}"


def _published(row: Published) -> str:
    return f"{100 * row.top1:.1f}" + (f" ± {100 * row.std:.1f}" if row.std is not None else "")


def _place(columns: Sequence[results.Column]) -> str:
    """What the columns of a block share besides its number of images."""
    shared = []
    for name in ("dataset", "student", "label_protocol"):
        values = {getattr(column, name) for column in columns}
        shared += values if len(values) == 1 else []
    return ", ".join(shared)


def _own_title(column: results.Column, columns: Sequence[results.Column]) -> str:
    """What tells a column from the others of its block."""
    parts = [
        getattr(column, name)
        for name in ("student", "label_protocol")
        if len({getattr(each, name) for each in columns}) > 1
    ]
    title = ", ".join(parts)
    titles = [tuple(getattr(each, name) for name in ("student", "label_protocol")) for each in columns]
    return title if len(set(titles)) == len(titles) else column.key


def _thumbnail(file: Path) -> Image.Image | None:
    """A picture made small, or ``None`` if there is none that can be read."""
    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    if small.width > GRID_PIXELS:
        height = max(1, round(small.height * GRID_PIXELS / small.width))
        small = small.resize((GRID_PIXELS, height), Image.Resampling.LANCZOS)
    return small
