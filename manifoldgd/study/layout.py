"""What a table prints: the main table, differences, details of each column, published numbers, runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from manifoldgd.report.measures import measure_end, measure_title
from manifoldgd.report.numbers import Spread, number_format, percent
from manifoldgd.report.tables import Cell, Column, Failure, Link, Table
from manifoldgd.study import results
from manifoldgd.study.published import Published
from manifoldgd.study.summary import CellSummary, Summary
from manifoldgd.study.wording import SCORES, foreign_signs, label_note, noun

MARKS = {"better": "▲", "worse": "▼", None: ""}
FRECHET = "frechet_distance"


def main_table(summary: Summary) -> Table:
    """Methods by columns: mean ± half the 95 % interval, verdict, and the published number beside it."""
    shared, titles = summary.titles
    columns, cells = [Column("method", "method", "setting")], [[method] for method in summary.result.methods]
    for column in summary.result.columns:
        columns.append(Column(column.key, f"{titles[column.key]}, %", better="high", percent=True))
        group = summary.column(column)
        for row, cell in zip(cells, group, strict=True):
            row.append(headline(cell))
        if any(cell.published for cell in group):
            columns.append(Column(f"{column.key} published", "published, %", "setting"))
            for row, cell in zip(cells, group, strict=True):
                row.append(published_text(summary, cell.published))
    caption = f"{shared}: {noun(summary)}, mean ± half the 95 % interval" if shared else noun(summary)
    return Table(columns, cells, caption + label_note(summary), failures(summary))


def difference_table(summary: Summary) -> Table:
    """Methods by columns: paired difference to the baseline, in points of accuracy."""
    shared, titles = summary.titles
    kept = [method for method in summary.result.methods if method != summary.result.baseline]
    columns = [Column("method", "method", "setting")]
    columns += [
        Column(column.key, f"{titles[column.key]}, points", percent=True, signed=True)
        for column in summary.result.columns
    ]
    cells = [
        [
            method,
            *(difference_cell(summary.cells[method, column.key], with_count=True) for column in summary.result.columns),
        ]
        for method in kept
    ]
    caption = f"difference to {summary.result.baseline} on the same seeds, ± half the 95 % interval (n sets)"
    return Table(columns, cells, f"{shared}: {caption}" if shared else caption)


def detail_table(summary: Summary, column: results.Column, *, scores: bool = False) -> Table:
    """Everything about one column, one row a method; what no method has is left out."""
    group = summary.column(column)
    drawn: list[tuple[Column, list[Cell]]] = [
        (Column("method", "method", "setting"), [cell.method for cell in group]),
        (Column("last_top1", "last epoch, %", better="high", percent=True), [headline(cell) for cell in group]),
        (Column("shape", "sets × students", "setting"), [cell.shape for cell in group]),
    ]
    optional = [*_scatter(group), *_comparisons(summary, group), *_measures(group, scores)]
    drawn += [(face, cells) for face, cells in optional if any(cell is not None for cell in cells)]
    rows = [list(row) for row in zip(*(cells for _, cells in drawn), strict=True)]
    return Table([face for face, _ in drawn], rows, column.title + label_note(summary))


def elsewhere_table(summary: Summary) -> Table | None:
    """Published numbers of methods that this table does not run, by column; ``None`` without any."""
    shared, titles = summary.titles
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for column, row in summary.not_run:
        rows.setdefault((row.method, row.kind, row.source), {})[column.key] = _published(row)
    if not rows:
        return None
    columns = [Column("method", "method", "setting"), Column("kind", "kind", "setting")]
    columns += [Column(column.key, f"{titles[column.key]}, %", "setting") for column in summary.result.columns]
    columns.append(Column("source", "source", "setting"))
    cells: list[Sequence[Cell]] = [
        [method, kind, *(held.get(column.key) for column in summary.result.columns), source]
        for (method, kind, source), held in rows.items()
    ]
    caption = f"published, not run here, number family “{summary.result.number_family}”"
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
            one.seed,
            sum(one.last) / len(one.last),
            run_link(one, folder),
            one.code_version,
        ]
        for cell in summary.cells.values()
        for one in cell.sets
    ]
    return Table(columns, rows)


def headline(cell: CellSummary) -> Spread:
    """Mean and half interval of the last epoch, with the verdict and what is missing as its mark."""
    limits = []
    if not cell.is_whole:
        limits.append(f"{len(cell.sets)} of {cell.asked} sets")
    if cell.repeats:
        limits.append("one set" if len(cell.distinct) == 1 else f"{len(cell.distinct)} different sets")
    if cell.last and cell.lacking:
        limits.append(f"{cell.last.students} of {len(cell.distinct) * cell.students_asked} students")
    verdict = MARKS[cell.difference.verdict] if cell.difference else ""
    mark = " ".join(filter(None, [verdict, f"({', '.join(limits)})" if limits else ""]))
    return Spread(cell.last.interval.mean, cell.last.interval.half, mark) if cell.last else Spread(None, mark=mark)


def difference_cell(cell: CellSummary, *, with_count: bool = False) -> Spread | None:
    """Paired difference and half its interval; without an interval nothing is claimed."""
    found = cell.difference
    if found is None:
        return None
    marks = [MARKS[found.verdict], f"(n {found.count})" if with_count else ""]
    return Spread(found.mean, found.half, " ".join(filter(None, marks)))


def published_text(summary: Summary, rows: Sequence[Published]) -> str:
    """The published number; of other families, each with the sign of its footnote."""
    signs = foreign_signs(summary)
    return ", ".join(" ".join(filter(None, (_published(row), signs.get(row.number_family, "")))) for row in rows)


def run_link(one: results.SetResult, folder: str | os.PathLike[str]) -> Link | None:
    """Where a reader finds the run: its tracked page, or else its report or folder beside the table."""
    if one.run and urlsplit(one.run).scheme in ("http", "https"):
        return Link("run", one.run)
    if one.grid is None or Path(one.grid).is_absolute():
        return None
    home = Path(one.grid).parent
    report = (Path(folder) / home / "report.html").is_file()
    return Link("report" if report else "folder", quote((home / "report.html" if report else home).as_posix()))


def failures(summary: Summary) -> list[Failure]:
    """Sets that could not be made or judged."""
    return [Failure(f"{one.method}, {one.column}, seed {one.seed}", one.reason) for one in summary.result.failed]


def _intervals(group: Sequence[CellSummary]) -> list[str | None]:
    """``low to high`` in percent, with the digits of the means."""
    spec = number_format([percent(headline(cell)) for cell in group])
    found = [cell.last.interval if cell.last and cell.last.interval.half is not None else None for cell in group]
    return [f"{100 * each.low:{spec}} to {100 * each.high:{spec}}" if each else None for each in found]


def _published(row: Published) -> str:
    return f"{100 * row.top1:.1f}" + (f" ± {100 * row.std:.1f}" if row.std is not None else "")


def _scatter(group: Sequence[CellSummary]) -> list[tuple[Column, list[Cell]]]:
    """How sure the mean is, and how far sets and students lie apart."""
    between, within = "std between sets", "std within a set"
    return [
        (Column("interval", "95 % interval", "setting"), _intervals(group)),
        (Column("between", between, percent=True, digits=2), [cell.last and cell.last.between for cell in group]),
        (Column("within", within, percent=True, digits=2), [cell.last and cell.last.within for cell in group]),
    ]


def _comparisons(summary: Summary, group: Sequence[CellSummary]) -> list[tuple[Column, list[Cell]]]:
    """What stands beside the mean: the baseline's, the published one, the best epoch's."""
    base = f"to {summary.result.baseline}, points"
    published = [published_text(summary, cell.published) or None for cell in group]
    best = [cell.best and cell.best.interval.mean for cell in group]
    return [
        (Column("difference", base, percent=True, signed=True), [difference_cell(cell) for cell in group]),
        (Column("pairs", "paired sets"), [cell.difference and cell.difference.count for cell in group]),
        (Column("published", "published, %", "setting"), published),
        (Column("best_top1", "best epoch, % (not the result)", percent=True), best),
    ]


def _measures(group: Sequence[CellSummary], scores: bool) -> list[tuple[Column, list[Cell]]]:
    """Means over sets of what was measured besides accuracy."""
    found = [(Column(FRECHET, measure_title(FRECHET), better=measure_end(FRECHET)), FRECHET)]
    found += [(Column(key, key.upper(), better=end), key) for key, end in SCORES.items() if scores]
    return [
        *((face, [cell.average("measures", key) for cell in group]) for face, key in found),
        (Column("ratio", "guidance / noise"), [cell.average("guidance", "ratio") for cell in group]),
        (Column("kept", "energy kept, %", percent=True), [cell.average("guidance", "kept") for cell in group]),
        (Column("seconds", "seconds a set"), [cell.seconds for cell in group]),
    ]
