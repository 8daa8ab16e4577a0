"""What the page of a study says, whether the study is a table or a sweep: its content, once, for every format.

Accuracy comes first, in one block for each dataset and number of images a class: accuracies of different numbers of
images are different quantities and never ranked together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pandas as pd
from PIL import Image

from manifoldgd.data.imagenet import readable
from manifoldgd.estimates import Estimate
from manifoldgd.report.content import Cell, Column, Figure, Link, Marked, Notes, Page, Section, Table
from manifoldgd.report.figures import Points, dots, heat_map, line_plot
from manifoldgd.report.measures import measure
from manifoldgd.report.numbers import finite, percent, seconds_text
from manifoldgd.study import results
from manifoldgd.study.published import Published
from manifoldgd.study.scores import SCORES
from manifoldgd.study.statistics import GROUPS, Summary, computing_seconds

MARKS = {"better": "▲", "worse": "▼", None: ""}
FOREIGN = "†‡§"  # one sign a foreign number family; beyond three families the last is shared
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
    failed = [f"{one.method}, {one.column}, seed {one.seed}: {one.reason}" for one in result.failed]
    failed += [f"{name}: {reason}" for name, reason in failures]
    details = [detail_table(summary, column, scores=scores) for column in result.columns]
    read = [*explanations(summary), *notes(summary, scores)] if result.columns else []
    sections = [
        Section(f"Failed ({len(failed)})", [Notes(failed)] if failed else []),
        *(block_section(summary, heading, columns, folder) for heading, columns in blocks(summary).items()),
        Section("Accuracy against images a class", list(ipc_figures(summary))),
        *number_sections(summary),
        Section("Published, not run here", [elsewhere_table(summary)] if summary.not_run else []),
        Section("Accuracy by class", list(class_figures(summary)), folded=True),
        Section("More numbers", details, folded=True),
        Section("How to read the numbers", [Notes(read)] if read else [], folded=True),
        Section("How it was measured", [Notes(facts(summary))] if result.sets else [], folded=True),
        Section("Runs", [runs_table(summary, folder)] if result.sets else [], folded=True, links=True),
    ]
    return Page(
        title=result.title + (" (validation split)" if result.split == "validation" else ""),
        subtitle=result.question,
        notices=notices(summary),
        sections=[section for section in sections if section.blocks],
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


def block_section(summary: Summary, heading: str, columns: Sequence[results.Column], folder: Path) -> Section:
    """One block: the accuracies, their plots and the images behind them."""
    first = columns[0] == summary.result.columns[0]
    figures = [figure for column in columns for figure in accuracy_figures(summary, column, explained=first)]
    return Section(heading, [accuracy_table(summary, columns, folder), *figures, *pictures(summary, columns, folder)])


def accuracy_table(summary: Summary, columns: Sequence[results.Column], folder: Path) -> Table:
    """Methods by columns of one block: accuracy, difference to the baseline, and what was published."""
    methods, signs = _shown(summary, columns), foreign_signs(summary)
    first = {method: next(filter(None, (run_link(one, folder) for one in sets)), None)
             for method, sets in _sets_of(summary, columns).items()}  # fmt: skip
    names = [Link(method, link.url) if (link := first.get(method)) else method for method in methods]
    held: list[tuple[Column, Sequence[Cell]]] = [(Column("method", "method", "setting"), names)]
    for column in columns:
        key, group = column.key, summary.of(column, methods)
        name = "" if len(columns) == 1 else f"{_own_title(column, columns)}: "
        base = f"{name}to {summary.result.baseline}, points"
        held += [
            (Column(key, f"{name}accuracy, %", better="high", percent=True), _each(headline, group)),
            (Column(f"{key} difference", base, percent=True, signed=True), _each(difference_cell, group)),
            (
                Column(f"{key} published", f"{name}published, %", "setting"),
                [published_text(rows, signs) for rows in group["published"]],
            ),
            (Column(f"{key} shape", f"{name}sets × students", "setting"), list(group["shape"])),
        ]
    return Table.of(held, f"{_place(columns)}: {noun(summary)}{label_note(columns[0])}")


def accuracy_figures(summary: Summary, column: results.Column, *, explained: bool) -> list[Figure]:
    """The accuracies of a column as dots, the baseline's as a line; nothing where there are fewer than two."""
    group, base = summary.of(column, _shown(summary, [column])[:SHOWN_ROWS]), summary.result.baseline
    if group["last_top1"].notna().sum() < 2:
        return []
    plot = partial(
        dots,
        list(group.index),
        [percent(each) for each in group["last_top1"]],
        title=f"{noun(summary)}, %",
        verdicts=list(group["verdict"]),
        reference=percent(_value(summary, base, column, "last_top1")),
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
    sets = _sets_of(summary, columns)
    for method in _shown(summary, columns):
        one = next((one for one in sets.get(method, ()) if one["grid"]), None)
        image = _thumbnail(folder / one["grid"]) if one else None
        if one is None or image is None:
            absent.append(method)
        else:
            link = run_link(one, folder)
            alt, url = f"Images of {method}, one row a class, {_place(columns)}", link.url if link else None
            found.append(Figure(image, method, alt, pixels_per_point=2.0, shape="narrow", url=url))
    if found and absent:
        found[-1] = replace(found[-1], caption=f"{found[-1].caption}; no picture of {', '.join(absent)}")
    return found


def headline(cell: pd.Series) -> Marked:
    """Mean and interval of the last epoch, with the verdict and what is missing as its mark."""
    limits, distinct = [], cell["sets_distinct"]
    if cell["sets"] < cell["sets_asked"]:
        limits.append(f"{cell['sets']} of {cell['sets_asked']} sets")
    if distinct < cell["sets"]:
        limits.append("one set" if distinct == 1 else f"{distinct} different sets")
    if cell["lacking"]:
        limits.append(f"{cell['students']} of {distinct * cell['students_asked']} students")
    mark = " ".join(filter(None, [MARKS[cell["verdict"]], f"({', '.join(limits)})" if limits else ""]))
    return Marked(cell["last_top1"], mark)


def difference_cell(cell: pd.Series) -> Marked | None:
    """Paired difference and its interval, with the number of paired sets; without an interval nothing is claimed."""
    if cell["difference"] is None:
        return None
    return Marked(cell["difference"], f"{MARKS[cell['verdict']]} (n {cell['difference_pairs']})".strip())


def published_text(rows: Sequence[Published], signs: Mapping[str, str]) -> str | None:
    """The published numbers; of other families, each with the sign of its footnote."""
    return ", ".join(f"{_published(row)} {signs.get(row.number_family, '')}".rstrip() for row in rows) or None


def foreign_signs(summary: Summary) -> dict[str, str]:
    """The sign of each number family that is shown and is not the study's own."""
    shown = {row.number_family for rows in summary.cells["published"] for row in rows}
    foreign = sorted(shown - {summary.result.number_family})
    return {family: FOREIGN[min(position, len(FOREIGN) - 1)] for position, family in enumerate(foreign)}


def run_link(one: Mapping[str, Any], folder: str | os.PathLike[str]) -> Link | None:
    """Where a reader finds the run of a set: its tracked page, or else its report or folder beside the table."""
    run, grid = one["run"], one["grid"]
    if isinstance(run, str) and urlsplit(run).scheme in ("http", "https"):
        return Link("run", run)
    if not isinstance(grid, str) or Path(grid).is_absolute():
        return None
    home = Path(grid).parent
    report = (Path(folder) / home / "report.html").is_file()
    return Link("report" if report else "folder", quote((home / "report.html" if report else home).as_posix()))


def _shown(summary: Summary, columns: Sequence[results.Column]) -> list[str]:
    """The rows of a block: all of a table, in its order; those of a sweep that have an accuracy, best first."""
    if summary.result.baseline:
        return list(summary.result.methods)
    best: dict[str, float] = {}
    for column in columns:
        for method, found in summary.of(column)["last_top1"].items():
            if found:
                best[method] = max(found.mean, best.get(method, found.mean))
    return sorted((method for method in summary.result.methods if method in best), key=lambda name: -best[name])


def _sets_of(summary: Summary, columns: Sequence[results.Column]) -> dict[str, list[dict[str, Any]]]:
    """The sets of a block by method, those of the first column first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for column in columns:
        for one in summary.sets[summary.sets["column"] == column.key].to_dict("records"):
            found.setdefault(one["method"], []).append(one)
    return found


def _each(make: Any, group: pd.DataFrame) -> list[Any]:
    return [make(cell) for _, cell in group.iterrows()]


def _value(summary: Summary, method: str, column: results.Column, name: str) -> Estimate | None:
    """Of one cell; ``None`` where the study has no such row."""
    return summary.cells.at[(method, column.key), name] if method in summary.result.methods else None


# Accuracy against a number


def ipc_figures(summary: Summary) -> Iterator[Figure]:
    """Accuracy, and difference to the baseline, against images a class, where there are several numbers of them."""
    places: dict[tuple[str, str, str], list[results.Column]] = {}
    for column in summary.result.columns:
        places.setdefault((column.dataset, column.student, column.label_protocol), []).append(column)
    against = f"difference to {summary.result.baseline}, points"
    for (dataset, student, _), columns in places.items():
        if len({column.ipc for column in columns}) < 2:
            continue
        faded = _behind(summary, columns)
        for kind, name, unit in (
            ("ipc_accuracy", "last_top1", f"{noun(summary)}, %"),
            ("ipc_difference", "difference", against),
        ):
            series = {
                method: [(column.ipc, percent(_value(summary, method, column, name))) for column in columns]
                for method in summary.result.methods
            }
            key, where = f"{dataset}_{student}", f"{dataset}, {student}"
            yield from _lines(kind, key, where, unit, "images a class", series, faded=faded, log_x=True)


def number_sections(summary: Summary) -> Iterator[Section]:
    """Accuracy against each number that was varied, a line for each guidance or what else was varied beside it."""
    base, unit = summary.result.baseline, f"{noun(summary)}, %"
    for name, lines in swept_numbers(summary.result).items():
        figures: list[Figure] = []
        for column in summary.result.columns:
            series: dict[str, list[tuple[float, Any]]] = {}
            for method, (line, number) in lines.items():
                series.setdefault(line, []).append((number, percent(_value(summary, method, column, "last_top1"))))
            level = percent(_value(summary, base, column, "last_top1"))
            levels = {base: level} if level else {}
            key = column.key if name == "guidance scale" else f"{column.key}_{name}"
            figures += _lines("scale", key, column.title, unit, name, series, references=levels)
        yield Section(f"Accuracy against {name}", figures)


def swept_numbers(result: results.TableResult) -> dict[str, dict[str, tuple[str, float]]]:
    """By the name of a number: for each method that has it the line it lies on, and the number itself.

    Of a table it is the guidance scale, and lines are methods' names without the number at their end; of a sweep each
    key with numbers, and lines are what else was varied. Fewer than three numbers make no line.
    """
    found: dict[str, dict[str, tuple[str, float]]] = {}
    for method, held in result.settings.items():
        for key, value in held.items():
            if is_number(value):
                rest = {other: each for other, each in held.items() if other != key}
                found.setdefault(key, {})[method] = settings_text(rest) or "accuracy", float(value)
    if not result.settings:
        scales = {name: scale for name, scale in result.parameters.items() if name in result.methods}
        lines = _families(list(scales))
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


def is_number(value: str) -> bool:
    """Whether a setting can stand on an axis."""
    try:
        return finite(float(value))
    except ValueError:
        return False


def _families(methods: Sequence[str]) -> dict[str, str]:
    """The line on which each method lies: its name without the number at its end, if that joins any two.

    >>> _families(["mode 0.1", "mode 0.2", "manifold-0.1"])
    {'mode 0.1': 'mode', 'mode 0.2': 'mode', 'manifold-0.1': 'manifold'}
    >>> _families(["weak", "strong"])
    {'weak': 'guided', 'strong': 'guided'}
    """
    names = {name: re.sub(r"[\s_=@,:-]*[\d.]+$", "", name) or name for name in methods}
    return names if len(set(names.values())) < len(names) else dict.fromkeys(names, "guided")


def _lines(
    kind: str, key: str, where: str, unit: str, against: str, series: Mapping[str, Points], **how: Any
) -> Iterator[Figure]:
    """One plot, where there is something to draw."""
    if any(value is not None for points in series.values() for _, value in points):
        plot = partial(line_plot, series, title=unit, x_title=against, **how)
        beside = "".join(f" Dotted: {name}." for name in how.get("references", ()))
        caption = f"{where}. {WHISKERS}{beside}"
        yield Figure(plot, caption, f"{unit} against {against}, {where}", name=figure_name(kind, key))


def _behind(summary: Summary, columns: Sequence[results.Column]) -> set[str]:
    """The methods that are neither the baseline nor among the two highest at any number of images a class."""
    kept = {summary.result.baseline}
    for column in columns:
        means = {method: found.mean for method, found in summary.of(column)["last_top1"].items() if found}
        kept |= set(sorted(means, key=lambda name: -means[name])[:2])
    return set(summary.result.methods) - kept


# Classes, details, runs


def class_figures(summary: Summary) -> Iterator[Figure]:
    """Classes by methods, a heat map a column; of many classes those in which the methods differ most."""
    for column in summary.result.columns:
        by_class = 100 * summary.per_class(column)
        if by_class.empty:
            continue
        count, names = len(by_class), readable(summary.result.class_names)
        if len(names) != count:
            names = tuple(f"class {label}" for label in range(count))
        gaps = (by_class.max(axis=1) - by_class.min(axis=1)).fillna(0.0)
        shown = by_class.loc[sorted(gaps.sort_values(ascending=False, kind="stable").index[:SHOWN_CLASSES])]
        base = summary.result.baseline if summary.result.baseline in by_class else None
        plot = partial(
            heat_map,
            shown.to_numpy().tolist(),
            (shown[base] if base else shown.mean(axis=1)).tolist(),
            rows=[names[label] for label in shown.index],
            columns=list(shown),
            title=f"colour: points above (blue) or below (orange) {base or 'their mean'}",
        )
        left_out = f" The {len(shown)} of {count} classes that differ most." if len(shown) < count else ""
        caption = f"{column.title}. Last-epoch accuracy in percent.{left_out}"
        alt = f"Accuracy of {len(shown)} classes under {len(by_class.columns)} methods, {column.title}"
        yield Figure(plot, caption, alt, name=figure_name("per_class", column.key))


def detail_table(summary: Summary, column: results.Column, *, scores: bool = False) -> Table:
    """How far sets and students scatter, the best epoch, measures and time; what no method has is left out."""
    columns = [
        Column("method", "method", "setting"),
        Column("last_top1_between_sets", "std between sets, points", percent=True),
        Column("last_top1_within_set", "std within a set, points", percent=True),
        Column("best_top1", "best epoch, % (not the result)", percent=True),
        *(
            Column(name, measure(key).title, better=measure(key).better)
            for name in sorted(summary.sets)
            if (key := name.removeprefix(GROUPS["measures"])) != name and key.endswith("frechet_distance")
        ),
        *(Column(f"measure_{key}", key.upper(), better=end) for key, end in SCORES.items() if scores),
        Column("guidance_ratio", "guidance / noise"),
        Column("guidance_kept", "energy kept, %", percent=True),
        Column("seconds", "seconds a set"),
    ]
    group = summary.of(column, _shown(summary, [column]))
    held = [(each, list(group[each.key])) for each in columns if each.key in group]
    return Table.of(held, column.title + label_note(column))


def elsewhere_table(summary: Summary) -> Table:
    """Published numbers of methods that this study does not run, by column."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for column, row in summary.not_run:
        rows.setdefault((row.method, row.kind, row.source), {})[column.key] = _published(row)
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
    titles, sets = summary.titles[1], summary.sets
    columns = [
        Column("method", "method", "setting"),
        Column("column", "column", "setting"),
        Column("seed", "seed", "setting"),
        Column("mean_top1", "mean of its students, %", percent=True),
        Column("run", "run", "setting"),
        Column("code_version", "code", "setting"),
    ]
    links = [run_link(one, folder) for one in sets.to_dict("records")]
    shown = sets.assign(column=sets["column"].map(titles), run=pd.Series(links, sets.index, dtype=object))
    return Table(columns, shown[[column.key for column in columns]].to_numpy(dtype=object).tolist())


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
    found, result = [], summary.result
    if result.split == "validation":
        found.append(
            "VALIDATION accuracies, not test results: judged on images held out of the training split, "
            "for choosing settings. The test split was not read, and published (test) accuracies are left out."
        )
    if result.baseline:
        total, lacking = summary.cells["sets_asked"].sum(), summary.cells["lacking"].sum()
        held = {(one.method, one.column, one.seed) for one in result.sets}
        failed = sum((one.method, one.column, one.seed) not in held for one in result.failed)
        parts = [f"{summary.missing} of {total} sets are missing"] if summary.missing else []
        parts += [f"{failed} of them failed"] if failed else []
        parts += [f"fewer students than asked for in {lacking} of {total} sets"] if lacking else []
        found += [f"Unfinished: {', '.join(parts)}."] if summary.missing or lacking else []
    return found


def explanations(summary: Summary) -> list[str]:
    """How to read the numbers: one sentence or two each."""
    result, cells = summary.result, summary.cells
    found = [
        "Means are over distilled sets, each the mean of its students; the sets are the independent unit, since "
        "students of one set are not independent. A cell with one set has no interval.",
    ]
    if repeating := dict.fromkeys(cells.loc[cells["sets_distinct"] < cells["sets"], "method"]):
        paired = "; differences pair all seeds" if result.baseline else ""
        found.append(f"Seeds that gave the same images count as one set ({', '.join(repeating)}){paired}.")
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
    if any(cells["published"]):
        found.append(
            f"Published numbers are of the family “{result.number_family}”, ± as their source gives it: most give a "
            "standard deviation, no interval."
        )
    for family, sign in foreign_signs(summary).items():
        found.append(
            f"{sign} published in another number family (“{family}”): absolute values of different families do not "
            "compare."
        )
    return found


def notes(summary: Summary, scores: bool) -> list[str]:
    """The table's own notes, and what must be known of scores where they were asked for."""
    found = [f"Note: {note}" for note in summary.result.notes]
    if scores and any(key in one.measures for one in summary.result.sets for key in SCORES):
        found.append(
            "HLR, IOR, LRS: DD-Ranking's scores of accuracies as fractions. Its published code puts percentages "
            "into the exponential, so its numbers and these do not compare."
        )
    elif scores:
        found.append("DD-Ranking's scores were asked for, and no set holds one.")
    return found


def facts(summary: Summary) -> list[str]:
    """Seeds, protocol, hardware, time and code: one line each."""
    result, sets = summary.result, summary.sets
    protocols, students = (
        ", ".join(sorted({getattr(column, name) for column in result.columns}))
        for name in ("label_protocol", "student")
    )
    baseline = f"Baseline: {result.baseline}. " if result.baseline else ""
    found = [
        f"{baseline}Distillation seeds: {', '.join(map(str, result.seeds))}. "
        f"Student seeds: {result.student_seeds_text}. Judged on the {result.split} split.",
        f"Label protocol: {protocols}. Students: {students}.",
    ]
    stages = computing_seconds(sets)
    if len(stages):
        parts = ", ".join(f"{stage} {seconds_text(value)}" for stage, value in stages.items())
        found.append(f"Time: {seconds_text(stages.sum())} of computing in all ({parts}).")
    if hardware := sorted(set(filter(None, sets["hardware"]))):
        found.append(f"Hardware: {'; '.join(hardware)}.")
    versions = sets.loc[sets["code_version"] != "", "code_version"].value_counts()
    if len(versions):
        counted = (f"{version} ({count} set{'s' if count > 1 else ''})" for version, count in versions.items())
        found.append(f"Code version: {', '.join(counted)}.")
    return found


def figure_name(kind: str, key: str) -> str:
    """Name of a figure's file without suffix: what it shows, and of which column or place."""
    safe = re.sub(r"[^\w.-]+", "_", key)
    return f"{kind}_{safe}"


def _published(row: Published) -> str:
    return f"{100 * row.top1:.1f}" + (f" ± {100 * row.std:.1f}" if row.std is not None else "")


def _place(columns: Sequence[results.Column]) -> str:
    """What the columns of a block share besides its number of images."""
    values = [{getattr(column, name) for column in columns} for name in ("dataset", "student", "label_protocol")]
    return ", ".join(each.pop() for each in values if len(each) == 1)


def _own_title(column: results.Column, columns: Sequence[results.Column]) -> str:
    """What tells a column from the others of its block."""
    differ = [name for name in ("student", "label_protocol") if len({getattr(each, name) for each in columns}) > 1]
    titles = [", ".join(getattr(each, name) for name in differ) for each in columns]
    return titles[columns.index(column)] if len(set(titles)) == len(titles) else column.key


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
