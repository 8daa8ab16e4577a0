"""A table as files: CSV for programs, Markdown and LaTeX for papers, figures, and one self-contained page."""

from __future__ import annotations

from pathlib import Path

from manifoldgd.files import atomic_write_bytes, atomic_write_text
from manifoldgd.report.numbers import Spread, number_format, percent, seconds_text, spread_text
from manifoldgd.report.page import Section, write_page
from manifoldgd.report.tables import latex, markdown
from manifoldgd.study.layout import (
    detail_table,
    difference_table,
    elsewhere_table,
    headline,
    main_table,
    runs_table,
)
from manifoldgd.study.pictures import (
    accuracy_section,
    difference_section,
    images_section,
    ipc_section,
    per_class_section,
    scale_section,
)
from manifoldgd.study.results import TableResult
from manifoldgd.study.spreadsheets import cells_csv, students_csv
from manifoldgd.study.stale import CSV, FIGURES, remove_figures
from manifoldgd.study.summary import Summary, summarise
from manifoldgd.study.timing import computing_seconds
from manifoldgd.study.wording import explanations, facts, notes, notices

HEADLINES = 4  # columns whose best method stands at the top of the page


def write_table(folder: Path, result: TableResult, *, scores: bool = False) -> str:
    """Write everything that shows a table, finished or not, each file whole or not at all.

    Files: those of :func:`write_texts`, ``figures/*.png`` and ``report.html``, which needs none of the others. Figures
    of an earlier table there go.

    Args:
        folder: where to write; made if missing. Paths of the sets' pictures are relative to it.
        result: the table.
        scores: whether DD-Ranking's scores, where sets have them among their measures, get columns.

    Returns:
        The text for a terminal.

    Raises:
        UserError: no columns, or hard and soft labels in one table.
        OSError: the folder is not writable.
    """
    summary = summarise(result)
    sections = _sections(summary, folder, scores)
    figures = [figure for section in sections for figure in section.figures()]
    remove_figures(folder, [figure.name for figure in figures])  # by the table.csv of the last rendering
    write_texts(folder, result, scores=scores)
    for figure in figures:
        atomic_write_bytes(folder / FIGURES / f"{figure.name}.png", figure.png())
    write_page(
        folder / "report.html",
        title=_title(summary),
        subtitle=result.question,
        notices=notices(summary),
        key_figures=_key_figures(summary),
        sections=sections,
        config="",
    )
    return terminal_text(summary, scores=scores)


def write_texts(folder: Path, result: TableResult, *, scores: bool = False) -> None:
    """Write the numbers: ``table.csv`` (a row a cell), ``results.csv`` (a row a student), ``table.md``, ``table.tex``.

    Args:
        folder: where to write; made if missing.
        result: the table.
        scores: see :func:`write_table`, also for what is raised.
    """
    summary = summarise(result)
    atomic_write_text(folder / CSV, cells_csv(summary))
    atomic_write_text(folder / "results.csv", students_csv(summary))
    atomic_write_text(folder / "table.md", markdown_text(summary, scores=scores))
    atomic_write_text(folder / "table.tex", latex_text(summary, scores=scores))


def terminal_text(summary: Summary, *, scores: bool = False) -> str:
    """The main table and the differences, with all that must be said about them."""
    parts = [_title(summary), *(f"!! {notice}" for notice in notices(summary)), main_table(summary).to_text()]
    if summary.comparisons:
        parts.append(difference_table(summary).to_text())
    if (elsewhere := elsewhere_table(summary)) is not None:
        parts.append(elsewhere.to_text())
    parts += [*explanations(summary), *notes(summary, scores=scores)]
    return "\n".join(parts) + "\n"


def markdown_text(summary: Summary, *, scores: bool = False) -> str:
    """The whole table as a Markdown document."""
    result = summary.result
    parts = [f"# {markdown(_title(summary))}", markdown(result.question)]
    parts += [f"**{markdown(notice)}**" for notice in notices(summary)]
    parts.append(main_table(summary).to_markdown())
    parts.append("\n".join(f"- {markdown(line)}" for line in [*explanations(summary), *notes(summary, scores=scores)]))
    if summary.comparisons:
        parts += ["## Differences", difference_table(summary).to_markdown()]
    parts.append("## Details")
    parts += [detail_table(summary, column, scores=scores).to_markdown() for column in result.columns]
    if (elsewhere := elsewhere_table(summary)) is not None:
        parts += ["## Published, not run here", elsewhere.to_markdown()]
    parts += ["## How it was measured", "\n".join(f"- {markdown(line)}" for line in facts(summary))]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def latex_text(summary: Summary, *, scores: bool = False) -> str:
    """A floating table; needs the package booktabs and nothing else."""
    table = main_table(summary)
    title = _title(summary)
    title = title if title.endswith((".", "?", "!")) else f"{title}."
    sentences = [
        *notices(summary),
        title,
        f"{table.caption}.",
        *explanations(summary),
        *notes(summary, scores=scores),
    ]
    caption = " ".join(latex(sentence) for sentence in sentences)
    label = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in summary.result.name)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        table.to_latex().rstrip("\n"),
        f"\\caption{{{caption}}}",
        f"\\label{{tab:{label}}}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _sections(summary: Summary, folder: Path, scores: bool) -> list[Section]:
    result = summary.result
    elsewhere = elsewhere_table(summary)
    details = [detail_table(summary, column, scores=scores) for column in result.columns]
    difference = difference_section(summary)
    if summary.comparisons:
        difference = Section(difference.title, [*difference.blocks, difference_table(summary)])
    found = [
        Section("The table", [main_table(summary), *explanations(summary), *notes(summary, scores=scores)]),
        accuracy_section(summary),
        difference,
        ipc_section(summary),
        scale_section(summary),
        images_section(summary, folder) if any(one.grid for one in result.sets) else None,
        per_class_section(summary),
        Section("Details", details),
        Section("Published, not run here", [elsewhere]) if elsewhere is not None else None,
        Section("How it was measured", facts(summary)),
        Section("Runs", [runs_table(summary, folder)], folded=True) if result.sets else None,
    ]
    return [section for section in found if section is not None]


def _key_figures(summary: Summary) -> list[tuple[str, str, str]]:
    """The best method of the first columns, then how much of the table is there."""
    figures, titles = [], summary.titles[1]
    for column in summary.result.columns[:HEADLINES]:
        ranked = [cell for cell in summary.column(column) if cell.last]
        if ranked:
            best = max(ranked, key=lambda cell: cell.last.interval.mean)
            mark, spread = headline(best).mark, percent(Spread(best.last.interval.mean, best.last.interval.half))
            text = f"{spread_text(spread, number_format([spread]))} %".replace(" ", "\u00a0")
            figures.append((f"Highest mean, {titles[column.key]}", text, f"{best.method} {mark}".rstrip()))
    total = sum(cell.asked for cell in summary.cells.values())
    students = " or ".join(map(str, sorted({len(seeds) for seeds in summary.result.students.values()})))
    seeds = f"{len(summary.result.seeds)} sets a cell, {students} student{'' if students == '1' else 's'} a set"
    figures.append(("Sets measured", f"{total - summary.missing} of {total}", seeds))
    if seconds := computing_seconds(one for cell in summary.cells.values() for one in cell.sets):
        figures.append(("Computing time", seconds_text(seconds.total()), "all stages of all sets"))
    return figures


def _title(summary: Summary) -> str:
    return summary.result.title + (" (validation split)" if summary.result.split == "validation" else "")
