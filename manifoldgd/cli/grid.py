"""A grid of ``--multirun`` as a study: every combination of the values given is a cell, in a process of its own.

For the study's result, keys that decide what a set is judged on make the columns, and all others but the seed make the
methods.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from manifoldgd.cli.arguments import parse
from manifoldgd.cli.compose import Config, composing
from manifoldgd.cli.dry_run import time_needed
from manifoldgd.cli.launcher import Launching
from manifoldgd.cli.plan import Built, Plan, Row, plan_row
from manifoldgd.cli.sweep import record_job
from manifoldgd.errors import UserError
from manifoldgd.pipeline.evaluation import JUDGED_ON, LEARNED_FROM, summary
from manifoldgd.stopping import Stopped
from manifoldgd.store.keys import read_json
from manifoldgd.study.board import Board, check_folder
from manifoldgd.study.cells import Cell
from manifoldgd.study.definition import override, spelled
from manifoldgd.study.results import TableResult
from manifoldgd.study.run import alone_in, run_left

COLUMN_KEYS = ("dataset", "ipc", "student", "student_seeds", "machine")  # and what lies in them
NOT_OF_CELLS = ("launcher", "sweeper", "sweep")  # of Hydra's own keys: what is about all jobs


@dataclass(frozen=True)
class GridJob:
    """One combination of the values."""

    overrides: Mapping[str, Any]
    method: str
    column: str

    @property
    def texts(self) -> dict[str, str]:
        """The overrides as a command line has them."""
        return {key: spelled(value) for key, value in self.overrides.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class GridCell(Cell):
    """A cell whose result lies where a single run would put it."""

    number: int
    result: Path

    def folder(self, output: Path) -> Path:
        return self.result

    def log(self, output: Path) -> Path:
        return output / "logs" / f"{self.number:04d}.log"

    def arguments(self, output: Path) -> list[str]:
        return ["run", *self.overrides]


def run_grid(folder: Path, overrides: Sequence[Override], first: Config, launching: Launching) -> None:
    """Run a grid and leave a record of each job; finished ones are read.

    Args:
        folder: of the sweep.
        overrides: of all jobs, swept ones among them.
        first: the first job.
        launching: how the jobs are to be run.

    Raises:
        UserError: a key or a choice that there is not, or another process works on the sweep.
        OSError: the disk filled up; finished jobs are kept.
    """
    launching.check()
    jobs = list(grid_jobs(overrides, first))
    rows, cells, failed = _planned(jobs, launching)
    plan = Plan(rows=tuple(rows), seeds=())
    with alone_in(folder):
        board = Board(folder, _blank(folder.name, plan, cells), cells)
        try:
            tried = run_left(board, launching.runner(board, on_cpu=plan.on_cpu))
        except Stopped as stop:
            raise Stopped(stop.number, board.state) from None
        finally:
            failed |= {cell.number: board.failed[cell.place].reason for cell in cells if cell.place in board.failed}
            for number, reason in failed.items():
                record_job(folder, number, jobs[number].texts, None, reason)
            for cell in cells:
                found = None if cell.number in failed else board.sets.get(cell.place)
                if found:
                    result = _of_students(read_json(cell.result / "metrics.json"), found.student_seeds)
                    result |= {"folder": str(cell.result)}
                    record_job(folder, cell.number, jobs[cell.number].texts, result, None)
    if not tried:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def preview_grid(overrides: Sequence[Override], first: Config, launching: Launching) -> int:
    """Say how many jobs of a grid are finished, which cannot run and why, and how long the others take.

    Returns:
        The exit code: 1 if some cannot run.
    """
    launching.check()
    jobs = list(grid_jobs(overrides, first))
    rows, cells, refused = _planned(jobs, launching)
    plan = Plan(rows=tuple(rows), seeds=())
    board = Board(Path(), _blank("", plan, cells), cells)
    print(f"{len(jobs)} jobs: {board.finished} finished, {len(board.left)} left, {len(refused)} cannot run")
    if board.left:
        print(time_needed(plan, board.left, board.sets.values(), launching.at_once(on_cpu=plan.on_cpu)))
    return 1 if refused else 0


def grid_jobs(overrides: Sequence[Override], first: Config) -> Iterator[GridJob]:
    """Every combination of the values, seed by seed and column by column."""
    keys: dict[str, list[Any]] = {}
    kinds: dict[str, str] = {}
    for each in overrides:
        key, (top, *below) = each.get_key_element(), each.key_or_group.replace("/", ".").split(".")
        if not (top == "hydra" and below[0] in NOT_OF_CELLS):
            keys[key] = _values(each)
            kinds[key] = "seed" if key == "seed" else "column" if top in COLUMN_KEYS else "method"

    def name(values: Mapping[str, Any], kind: str) -> str:
        swept = [key for key in keys if kinds[key] == kind and len(keys[key]) > 1]
        return " ".join(override(key, values[key]) for key in swept)

    alone = f"{first.choice('dataset')}-ipc{first.values.ipc}-{first.choice('student')}"
    order = [key for kind in ("seed", "column", "method") for key in keys if kinds[key] == kind]
    for values in itertools.product(*(keys[key] for key in order)):
        chosen = dict(zip(order, values, strict=True))
        own = {key: chosen[key] for key in keys}  # as they were given: a later one wins
        own.setdefault("seed", first.values.seed)
        yield GridJob(own, name(own, "method") or first.choice("guidance"), name(own, "column") or alone)


def _values(one: Override) -> list[Any]:
    if one.is_delete() or not one.is_sweep_override():
        return [one.value()]
    texts = dict.fromkeys(f"{one.get_key_element()}={text}" for text in one.sweep_string_iterator())
    return [each.value() for each in parse(list(texts))]


def _planned(jobs: Sequence[GridJob], launching: Launching) -> tuple[list[Row], list[GridCell], dict[int, str]]:
    """What can be run, and by number why the other jobs cannot."""
    rows, cells, refused = [], [], {}
    built: Built = {}
    said = set()
    with composing() as compose:
        for number, job in enumerate(jobs):
            own = {key: value for key, value in job.overrides.items() if key != "seed"}
            try:
                row = plan_row(job.method, job.column, own, [job.overrides["seed"]], built, compose)
                if problems := row.problems(here=launching.here):
                    raise UserError(problems[0])
                cells.append(_cell(number, row))
                rows.append(row)
            except UserError as error:
                if isinstance(error.__cause__, HydraException | OmegaConfBaseException):
                    raise  # a key or a choice that there is not: the command is wrong, not one of its jobs
                refused[number], line = str(error), f"{job.column}/{job.method}: {error}"
                if line not in said:  # by another seed
                    print(line, flush=True)
                said.add(line)
    return rows, cells, refused


def _cell(number: int, row: Row) -> GridCell:
    """The cell of a job, whose folder must not hold another result."""
    (cell,), setup = row.cells, row.setup
    data = {JUDGED_ON: setup.dataset.test_fingerprint}
    if cell.measures or setup.student.teacher_recipe is not None:
        data[LEARNED_FROM] = setup.dataset.train_fingerprint
    result = setup.folder(cell.set_config, cell.judge_config)
    placed = GridCell(**{**vars(cell), "data": data}, number=number, result=result)
    check_folder(result, placed)
    return placed


def _blank(name: str, plan: Plan, cells: Sequence[Cell]) -> TableResult:
    held_out = all(row.config.dataset.get("validation") for row in plan.rows)
    return TableResult(
        name=name,
        title=f"Sweep {name}",
        columns=tuple(
            replace(row.described(), student_seeds=tuple(row.config.student_seeds)) for row in plan.columns.values()
        ),
        methods=tuple(dict.fromkeys(row.method for row in plan.rows)),
        seeds=tuple(sorted({cell.seed for cell in cells})),
        split="validation" if held_out else "test",
    )


def _of_students(metrics: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """What a run left, of these of its students."""
    if metrics["student_seeds"] == list(seeds):
        return dict(metrics)
    students = [one for one in metrics["students"] if one["seed"] in seeds]
    accuracy = {epoch: summary([one[f"{epoch}_top1"] for one in students]) for epoch in ("last", "best")}
    return {**metrics, "student_seeds": list(seeds), "students": students, "accuracy": accuracy}
