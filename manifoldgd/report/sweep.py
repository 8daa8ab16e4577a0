"""The table over a sweep: jobs that may be compared side by side, the others in tables of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manifoldgd.files import atomic_write_text
from manifoldgd.report.figures import bars
from manifoldgd.report.measures import (
    COUNTS,
    accuracy,
    check_format,
    measure_end,
    measure_title,
    student_count,
)
from manifoldgd.report.numbers import Spread, finite, percent, spread_of
from manifoldgd.report.page import Figure, Section, write_page
from manifoldgd.report.palette import DARK, LIGHT
from manifoldgd.report.tables import Cell, Column, Failure, Table

Overrides = Mapping[str, Any]
Job = tuple[Overrides, Mapping[str, Any]]

# Accuracies under different values of these are different quantities and never share a column.
COMPARABLE = ("dataset", "label_protocol", "student")
SHOWN_BARS = 30


@dataclass(frozen=True)
class SweepReport:
    """What a sweep leaves behind."""

    text: str  # the tables for the terminal
    files: tuple[Path, ...]


def sweep_tables(
    jobs: Sequence[Job], failed: Sequence[tuple[Overrides, str]] = (), *, seed_key: str | None = "seed"
) -> list[Table]:
    """Tables ranked by last-epoch accuracy, highest first; jobs without one come last.

    One table for each combination of dataset, label protocol and student. Where jobs differ in ``seed_key``, jobs that
    are equal otherwise become one row: mean and standard deviation are then over the sets, each by the mean of its
    students; of a row of one set they are over its students. Failures stand below the last table.

    Args:
        jobs: for each finished job its overrides (only those that vary within the sweep count) and its record,
            ``metrics.json`` format 1.
        failed: for each failed job its overrides and a one-line reason.
        seed_key: override that names the distillation seed; ``None`` keeps every job a row of its own.

    Raises:
        UserError: a record has another format.
    """
    for _, result in jobs:
        check_format(result)
    failures = [Failure(job_name(overrides), reason) for overrides, reason in failed]
    groups = _grouped(jobs, lambda job: tuple(str(job[1].get(key)) for key in COMPARABLE))
    tables = [_table(group, " · ".join(names), seed_key) for names, group in groups.items()]
    if not tables:
        return [Table([Column("job", "job", "setting")], [], "no job finished", failures)]
    return [*tables[:-1], replace(tables[-1], failed=failures)]


def write_sweep_report(
    folder: str | os.PathLike[str],
    *,
    jobs: Sequence[Job],
    failed: Sequence[tuple[Overrides, str]] = (),
    title: str,
    config_text: str = "",
    seed_key: str | None = "seed",
) -> SweepReport:
    """Write ``sweep.html``, ``sweep.md`` and ``sweep.csv`` (the rows of all tables) into ``folder``.

    ``failed.csv`` holds the failed jobs; it is written whether or not there are any, so that an old one never lingers.

    Args:
        folder: where to write; made if missing.
        jobs: finished jobs, as :func:`sweep_tables` takes them.
        failed: failed jobs with one-line reasons.
        title: heading of the page.
        config_text: what the jobs share; may be empty.
        seed_key: override that names the distillation seed.

    Returns:
        The text for the terminal and the files written.

    Raises:
        UserError: a record has another format.
    """
    tables = sweep_tables(jobs, failed, seed_key=seed_key)
    contents = {"sweep.csv": _merged(tables).to_csv()}
    tables = [table.without(COMPARABLE) for table in tables]  # people find these in the headings
    contents["sweep.md"] = "\n".join([*(table.to_markdown() for table in tables), f"{_NOTE}\n"])
    reasons = [[job_name(overrides), reason] for overrides, reason in failed]
    failure_columns = [Column("job", "job", "setting"), Column("reason", "reason", "setting")]
    contents["failed.csv"] = Table(failure_columns, reasons).to_csv()
    base = Path(folder)
    for name, text in contents.items():
        atomic_write_text(base / name, text)
    count = f"{len(jobs)} finished, {len(failed)} failed"
    sections = [Section(table.caption or "Results", [*_plots(table), replace(table, caption="")]) for table in tables]
    write_page(
        base / "sweep.html",
        title=title,
        subtitle=f"{count}. {_NOTE}",
        key_figures=[],
        sections=sections,
        config=config_text,
    )
    text = "\n".join([*(_narrow(table).to_text() for table in tables), *([_NOTE] if jobs else [])])
    return SweepReport(text, tuple(base / name for name in [*contents, "sweep.html"]))


_NOTE = (
    "Ranked by last-epoch accuracy; best-epoch accuracy was chosen on the images that judge and ranks nothing. What "
    "stands behind ± is a standard deviation: over the sets of a row, or over the students of its one set."
)


def _merged(tables: Sequence[Table]) -> Table:
    """The rows of all tables in one, for programs: every row names its dataset, label protocol and student."""
    columns = {column.key: column for table in tables for column in table.columns}
    rows = []
    for table in tables:
        keys = [column.key for column in table.columns]
        cells = (dict(zip(keys, row, strict=True)) for row in table.rows)
        rows += [[row.get(key) for key in columns] for row in cells]
    return Table(list(columns.values()), rows)


def _narrow(table: Table) -> Table:
    """Of the measures of the set the Fréchet distance alone, so that a row fits a terminal."""
    keys = {column.key for column in table.columns if column.key.startswith("set_")}
    return table.without(keys - {"set_frechet_distance"})


def job_name(overrides: Overrides) -> str:
    """``key=value`` for each override, as one would type them."""
    return " ".join(f"{key}={value}" for key, value in overrides.items())


def _table(jobs: Sequence[Job], caption: str, seed_key: str | None) -> Table:
    varying = _varying([overrides for overrides, _ in jobs])
    settings = [key for key in varying if key not in (seed_key, "method", *COMPARABLE)]
    rows = _grouped(jobs, lambda job: tuple(str(job[0].get(key)) for key in settings))
    if seed_key not in varying:
        rows = {position: [job] for position, job in enumerate(jobs)}
    measures = list(dict.fromkeys(key for _, result in jobs for key in result.get("set_metrics") or {}))
    measures = [key for key in measures if key not in COUNTS]
    ranked = sorted(rows.values(), key=_rank)
    columns = [
        *(Column(key, key.replace("_", " "), "setting") for key in COMPARABLE),
        Column("method", "method", "setting"),
        *(Column(key, key, "setting") for key in settings),
        Column("last_top1", "last epoch, %", better="high", percent=True),
        Column("best_top1", "best epoch, %", percent=True),
        Column("distillation_seeds", "sets"),
        Column("students", "students"),
        *(Column(f"set_{key}", measure_title(key), better=measure_end(key)) for key in measures),
        Column("seconds", "seconds"),
    ]
    return Table(columns, [_row(group, settings, measures) for group in ranked], caption)


def _row(jobs: Sequence[Job], settings: Sequence[str], measures: Sequence[str]) -> list[Cell]:
    """The cells of jobs that differ in nothing but their distillation seed."""
    overrides, results = jobs[0][0], _different([result for _, result in jobs])
    seconds = [sum(v for v in (result.get("seconds") or {}).values() if finite(v)) for result in results]
    return [
        *(str(results[0].get(key)) for key in COMPARABLE),
        str(results[0]["method"]),
        *(_plain(overrides.get(key)) for key in settings),
        *(_over([accuracy(result, epoch) for result in results]) for epoch in ("last", "best")),
        len({result["distillation_seed"] for result in results}),
        sum(student_count(result) for result in results),
        *(_over([Spread((result.get("set_metrics") or {}).get(key)) for result in results]) for key in measures),
        sum(seconds),
    ]


def _different(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without the sets whose images another seed gave before."""
    found: dict[Any, Mapping[str, Any]] = {}
    for result in results:
        found.setdefault(result.get("fingerprint") or id(result), result)
    return list(found.values())


def _over(spreads: Sequence[Spread]) -> Spread:
    """The one spread there is, or mean and deviation of several means."""
    return spreads[0] if len(spreads) == 1 else spread_of([s.mean for s in spreads if finite(s.mean)])


def _rank(jobs: Sequence[Job]) -> tuple[bool, float]:
    mean = _over([accuracy(result, "last") for result in _different([result for _, result in jobs])]).mean
    return (False, -mean) if finite(mean) else (True, 0.0)


def _plain(value: Any) -> Cell:
    return value if value is None or isinstance(value, str) else str(value)


def _varying(overrides: Sequence[Overrides]) -> list[str]:
    """Keys whose value is not the same in every job, in the order they first appear."""
    keys = dict.fromkeys(key for job in overrides for key in job)
    return [key for key in keys if len({str(job.get(key)) for job in overrides}) > 1]


def _grouped(jobs: Sequence[Job], key: Any) -> dict[Any, list[Job]]:
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        groups.setdefault(key(job), []).append(job)
    return groups


def _plots(table: Table) -> list[Figure]:
    """The accuracies of the table's rows as bars, in its order."""
    position = next((i for i, column in enumerate(table.columns) if column.key == "last_top1"), None)
    if position is None or len(table.rows) < 2:
        return []
    # The settings tell the rows apart; the method's name, the first cell, is needed only where no setting varies.
    first = min(1, position - 1)
    names = [
        ", ".join(str(cell) for cell in row[first:position] if cell is not None) for row in table.rows[:SHOWN_BARS]
    ]
    spreads = [percent(row[position]) for row in table.rows[:SHOWN_BARS]]
    pictures = [
        bars(names, spreads, title="accuracy at the last epoch, %", from_zero=False, scheme=scheme)
        for scheme in (LIGHT, DARK)
    ]
    caption = "Mean and one standard deviation either side; the axis does not start at zero." + (
        f" The first {SHOWN_BARS} of {len(table.rows)} rows." if len(table.rows) > SHOWN_BARS else ""
    )
    alt = "Last-epoch accuracy with whiskers, one a row of the table"
    return [Figure(pictures[0], caption, alt, dark=pictures[1], pixels_per_point=2.0)]
