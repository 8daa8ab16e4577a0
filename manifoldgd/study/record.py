"""The recorded result beside ``table.yaml``: written, extended, never shortened unasked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from manifoldgd.errors import require
from manifoldgd.provenance import release
from manifoldgd.study.board import RECORD
from manifoldgd.study.cells import Cell, Place
from manifoldgd.study.results import SetResult, TableResult
from manifoldgd.study.scores import without_scores

SHOWN = 5  # cells named in an error


def read_record(file: Path) -> TableResult:
    """A recorded result. Its pictures lie in its folder: a record may come from elsewhere.

    Raises:
        UserError: the file is no record, or names a picture outside of its folder.
    """
    record = TableResult.load(file)
    home = file.parent.resolve()
    for one in record.sets:
        require(
            one.grid is None or (home / one.grid).resolve().is_relative_to(home),
            f"{file}: the picture of {one.column}/{one.method} lies outside of its folder, at {one.grid}; correct it",
        )
    return record


def recorded_sets(record: TableResult, cells: Iterable[Cell], students: Mapping[str, Sequence[int]]) -> list[SetResult]:
    """The sets of a record that may stand for cells: those of the same key, with the students wanted that they have.

    A set that lacks some of them is shown as it is; :class:`manifoldgd.study.board.Board` has it measured again.

    Args:
        record: what was recorded.
        cells: of the table as it is now.
        students: the student seeds wanted, by column; others are left out.
    """
    wanted = {cell.place: cell for cell in cells}
    found = []
    for one in record.sets:
        cell, seeds = wanted.get(_place(one)), students.get(one.column, ())
        kept = [student for student in one.students if student["student_seed"] in seeds]
        kept.sort(key=lambda student: seeds.index(student["student_seed"]))
        if kept and cell is not None and cell.key == one.key and (one.measures or not cell.measures):
            share = len(kept) / len(one.students)  # students of a set take as long as one another
            seconds = {stage: time * (share if stage == "students" else 1) for stage, time in one.seconds.items()}
            found.append(replace(one, students=tuple(kept), seconds=seconds, grid=None))
    return found


def check_nothing_lost(
    file: Path, record: TableResult, places: Iterable[Place], students: Mapping[str, Sequence[int]], *, extending: bool
) -> None:
    """Raise :class:`UserError` if a new record would lack sets, or students, of the old one.

    Args:
        file: of the record.
        record: the old one.
        places: what the new one will hold.
        students: and the student seeds of each column there.
        extending: whether the new one takes over what it can of the old one.
    """
    held = set(places)
    lost = [
        one for one in record.sets if _place(one) not in held or not set(one.student_seeds) <= set(students[one.column])
    ]
    cells = ", ".join(sorted({f"{one.column}/{one.method}" for one in lost})[:SHOWN])
    advice = (
        "they were measured with other settings or fewer students: ask for these cells too, which measures them again, "
        "or remove it first"
        if extending
        else "add extend=true, ask for all its seeds, or remove it first"
    )
    require(
        not lost,
        f"record: {file} holds {len(lost)} sets, or students of them, that the new record would lack ({cells}); "
        f"{advice}",
    )


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


def write_record(home: Path, result: TableResult, *, scores: bool = False) -> None:
    """Write the numbers of a result beside ``table.yaml``, as JSON and as texts.

    Its page with all figures is made of them by ``manifoldgd table table=NAME pages=true``, and is not kept; nor are
    the pictures of its sets, which take a thousand times the room.
    """
    from manifoldgd.study.rendering import write_texts  # here, because it imports matplotlib and pandas

    recorded = replace(result, sets=tuple(replace(one, grid=None) for one in result.sets))
    replace(recorded, sets=tuple(map(without_scores, recorded.sets))).save(home / RECORD)
    write_texts(home, recorded, scores=scores)


def _place(one: SetResult) -> Place:
    return one.method, one.column, one.seed
