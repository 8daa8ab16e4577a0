"""From what finished runs left to the result of the table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from manifoldgd.errors import UserError, require
from manifoldgd.provenance import release
from manifoldgd.report.run import PAGE
from manifoldgd.store.keys import read_json
from manifoldgd.store.results import check_claim
from manifoldgd.study.cells import Cell
from manifoldgd.study.results import SetResult, TableResult

Place = tuple[str, str, int]  # method, column, distillation seed


def place_of(one: Cell | SetResult) -> Place:
    """Where something stands in the table."""
    return one.method, one.column, one.seed


def check_folder(output: Path, cell: Cell) -> None:
    """Raise :class:`UserError` if the folder of a cell holds the result of another configuration."""
    folder = cell.folder(output)
    check_claim(folder, "set", cell.set_config)
    check_claim(folder, "evaluation", cell.judge_config, free=("student_seeds",))


def finished_set(output: Path, cell: Cell, student_seeds: Sequence[int]) -> SetResult | None:
    """What the run of a cell left, or ``None`` where it is not there or lacks students, measures or its page.

    Args:
        output: folder of the table.
        cell: the cell; its folder has passed :func:`check_folder`.
        student_seeds: the students wanted; others are left out.
    """
    file = cell.folder(output) / "metrics.json"
    drawn = (cell.folder(output) / PAGE).is_file()
    metrics = read_json(file) if file.is_file() and drawn else None
    if metrics is None:
        return None
    try:
        whole = set(student_seeds) <= set(metrics["student_seeds"]) and (metrics["set_metrics"] or not cell.measures)
        if not whole:
            return None
        grid = cell.folder(output) / "grid.png"
        return SetResult.of_run(
            metrics,
            method=cell.method,
            column=cell.column,
            seed=cell.seed,
            key=cell.key,
            student_seeds=student_seeds,
            grid=os.path.relpath(grid, output) if grid.is_file() else None,
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file}: is no result of ours ({error}); remove {file.parent} to have it made again"
        ) from error


def check_same_table(file: Path, held: TableResult, wanted: TableResult, version: str) -> None:
    """Refuse a result of another table, protocol or version; the line says what differs.

    Args:
        file: where ``held`` comes from.
        held: a result found on disk.
        wanted: the table about to be measured.
        version: of this code, without a commit.
    """
    pairs = {name: (getattr(held, name), getattr(wanted, name)) for name in ("name", "split")}
    for column in wanted.columns:
        for other in held.columns:
            if other.key == column.key:
                for name in ("dataset", "ipc", "student", "label_protocol"):
                    pairs[f"columns.{column.key}.{name}"] = (getattr(other, name), getattr(column, name))
    versions = sorted({release(one.code_version) for one in held.sets if one.code_version} - {version})
    if versions:
        pairs["version"] = (", ".join(versions), version)
    differing = [f"{name} is {there!r} there, {here!r} here" for name, (there, here) in pairs.items() if there != here]
    require(
        not differing,
        f"{file}: holds another table's result (different: {'; '.join(differing)}); choose another output or remove it",
    )
