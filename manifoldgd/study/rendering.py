"""A study as files: CSV for programs, Markdown and LaTeX for papers, figures, and one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from manifoldgd.files import atomic_write_bytes, atomic_write_text
from manifoldgd.report import text
from manifoldgd.report.content import Page
from manifoldgd.report.html import html
from manifoldgd.study.page import study_page
from manifoldgd.study.results import TableResult
from manifoldgd.study.statistics import Summary, cells_csv, students_csv
from manifoldgd.study.swept import Job, swept_result

FIGURES = "figures"


def write_table(folder: Path, result: TableResult, *, scores: bool = False) -> str:
    """Write everything that shows a table, finished or not, each file whole or not at all.

    Files: those of :func:`write_texts`, ``figures/*.png`` and ``report.html``, which needs none of the others. Figures
    of an earlier rendering there go.

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
    page = write_texts(folder, result, scores=scores)
    figures = {figure.name: figure for figure in page.figures()}
    for file in (folder / FIGURES).glob("*.png"):
        if file.stem not in figures and _is_ours(file):
            file.unlink()
    for name, figure in figures.items():
        atomic_write_bytes(folder / FIGURES / f"{name}.png", figure.png())
    atomic_write_text(folder / "report.html", html(page))
    return text.terminal(page)


def write_texts(folder: Path, result: TableResult, *, scores: bool = False) -> Page:
    """Write the numbers: ``table.csv`` (a row a cell), ``results.csv`` (a row a student), ``table.md``, ``table.tex``.

    Args:
        folder: where to write; made if missing.
        result: the table.
        scores: see :func:`write_table`, also for what is raised.

    Returns:
        The page that the documents are of.
    """
    summary = Summary(result)
    page = study_page(summary, folder, scores=scores)
    atomic_write_text(folder / "table.csv", cells_csv(summary))
    atomic_write_text(folder / "results.csv", students_csv(summary))
    atomic_write_text(folder / "table.md", text.markdown(page))
    atomic_write_text(folder / "table.tex", text.latex(page, result.name))
    return page


def write_sweep(folder: Path, jobs: Sequence[Job], failed: Sequence[tuple[str, str]], *, title: str) -> str:
    """Write ``sweep.html``, ``sweep.md``, ``sweep.csv`` (a row a cell) and ``results.csv`` (a row a student).

    ``failed.csv`` holds the failed jobs; it is written whether or not there are any, so that an old one never lingers.

    Args:
        folder: where to write; made if missing.
        jobs: finished jobs, as :func:`manifoldgd.study.swept.swept_result` takes them.
        failed: failed jobs with one-line reasons.
        title: heading of the page.

    Returns:
        The text for a terminal.

    Raises:
        UserError: a record has another format.
    """
    atomic_write_text(folder / "failed.csv", pd.DataFrame(failed, columns=["job", "reason"]).to_csv(index=False))
    summary = Summary(swept_result(folder, jobs, title=title))
    page = study_page(summary, folder, failures=failed)
    atomic_write_text(folder / "sweep.csv", cells_csv(summary))
    atomic_write_text(folder / "results.csv", students_csv(summary))
    atomic_write_text(folder / "sweep.md", text.markdown(page))
    atomic_write_text(folder / "sweep.html", html(page))
    return text.terminal(page)


def _is_ours(file: Path) -> bool:
    """Whether this package drew a picture, which its pictures say themselves."""
    try:
        with Image.open(file) as image:
            return image.info.get("Software") == "manifoldgd"
    except (OSError, ValueError):
        return False
