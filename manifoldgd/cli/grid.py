"""A grid of ``--multirun`` as a study: every combination of the values given is a cell, in a process of its own.

A grid is the product of its keys, and so a table: keys that decide what a set is judged on make the columns, the seed
makes the sets, all others make the methods.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from manifoldgd.cli.arguments import parse
from manifoldgd.cli.compose import Config
from manifoldgd.cli.launcher import Launching
from manifoldgd.cli.plan import Plan, plan_cells
from manifoldgd.cli.sweep import record_job
from manifoldgd.errors import UserError
from manifoldgd.pipeline.evaluation import JUDGED_ON, LEARNED_FROM, summary
from manifoldgd.stopping import Stopped
from manifoldgd.store.keys import read_json
from manifoldgd.study.board import Board, check_folder
from manifoldgd.study.cells import Cell, Place
from manifoldgd.study.definition import ColumnDefinition, Overrides, TableDefinition, merged, override, spelled
from manifoldgd.study.results import TableResult
from manifoldgd.study.run import alone_in, run_left

COLUMN_KEYS = ("dataset", "ipc", "student", "student_seeds", "machine")  # and what lies in them
Refused = dict[Place, str]  # jobs that cannot work, and why
NOT_OF_CELLS = ("launcher", "sweeper", "sweep")  # of Hydra's own keys: what is about all jobs


@dataclass(frozen=True, kw_only=True)
class GridColumn(ColumnDefinition):
    """A column of a grid: what the command line leaves open is as the configuration has it."""

    @property
    def choices(self) -> Overrides:
        return self.overrides


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
        UserError: another process works on the sweep.
        OSError: the disk filled up; finished jobs are kept.
    """
    launching.check()
    grid = grid_of(overrides, first)
    refused: Refused = {}

    def refuse(method: str, column: str, error: UserError) -> None:
        if isinstance(error.__cause__, HydraException | OmegaConfBaseException):
            raise error  # a key or a choice that there is not: the command is wrong, not one of its jobs
        print(f"{column}/{method}: {error}", flush=True)
        refused.update({(method, column, seed): str(error) for seed in grid.seeds})

    plan = plan_cells(grid, {}, refuse)
    for row in plan.rows:
        for problem in row.problems(here=launching.here)[:1]:
            refuse(row.method, row.column.key, UserError(problem))
    plan = replace(plan, rows=tuple(row for row in plan.rows if row.cells[0].place not in refused))
    with alone_in(folder):
        board = Board(folder, _blank(folder.name, grid, plan), _cells(plan, grid, refused))
        try:
            tried = run_left(board, launching.runner(board, on_cpu=plan.on_cpu))
        except Stopped as stop:
            raise Stopped(stop.number, board.state) from None
        finally:
            _record(board, grid, refused)
    if not tried:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def grid_of(overrides: Sequence[Override], first: Config) -> TableDefinition:
    """A grid as a table."""
    fixed: dict[str, Any] = {}
    methods: dict[str, list[Any]] = {}
    columns: dict[str, list[Any]] = {}
    seeds, values = [first.values.seed], first.values
    for each in overrides:
        key, named = each.get_key_element(), each.key_or_group.replace("/", ".")
        top, _, below = named.partition(".")
        if top == "hydra" and below.partition(".")[0] in NOT_OF_CELLS:
            continue
        found = _values(each)
        if named == "seed":
            seeds = list(dict.fromkeys(found))
        elif len(found) == 1:
            fixed[key] = found[0]
        else:
            (columns if top in COLUMN_KEYS else methods)[key] = found
    dataset, student = first.choice("dataset"), first.choice("student")
    name = f"{dataset}-ipc{values.ipc}-{student}"
    return TableDefinition(
        title="",
        question="",
        methods=_product(methods) or {first.choice("guidance"): {}},
        columns=tuple(
            GridColumn(
                key=key,
                dataset=dataset,
                ipc=values.ipc,
                student=student,
                overrides={each: value for each, value in own.items() if each != "student_seeds"},
                student_seeds=own.get("student_seeds"),
            )
            for key, own in (_product(columns) or {name: {}}).items()
        ),
        seeds=tuple(seeds),
        student_seeds=tuple(values.student_seeds),
        baseline="",
        number_family="",
        overrides=fixed,
    )


def _values(one: Override) -> list[Any]:
    if one.is_delete() or not one.is_sweep_override():
        return [one.value()]
    texts = (f"{one.get_key_element()}={text}" for text in one.sweep_string_iterator())
    return [each.value() for each in parse(list(texts))]


def _product(keys: Mapping[str, Sequence[Any]]) -> dict[str, Overrides]:
    """Every combination of the values, by name."""
    combinations = (dict(zip(keys, each, strict=True)) for each in itertools.product(*keys.values()))
    return {" ".join(override(*one) for one in each.items()): each for each in combinations if each}


def _cells(plan: Plan, grid: TableDefinition, refused: Refused) -> list[GridCell]:
    """The cells of a plan with the folders of their results; those whose folder holds another result are refused."""
    setups = {(row.method, row.column.key): row.setup for row in plan.rows}
    numbers = {place: number for number, place in enumerate(_jobs(grid))}
    found = []
    for cell in plan.cells:
        setup = setups[cell.method, cell.column]
        with setup.seeded(cell.seed):
            folder = setup.folder(cell.set_config, cell.judge_config)
        data = {JUDGED_ON: setup.dataset.test_fingerprint}
        if cell.measures or setup.student.teacher_recipe is not None:
            data[LEARNED_FROM] = setup.dataset.train_fingerprint
        placed = GridCell(**{**vars(cell), "data": data}, number=numbers[cell.place], result=folder)
        try:
            check_folder(folder, placed)
            found.append(placed)
        except UserError as error:
            refused[placed.place] = str(error)
    return found


def _blank(name: str, grid: TableDefinition, plan: Plan) -> TableResult:
    students = grid.students
    judged = {row.config.dataset.get("validation") is None for row in plan.rows}
    return TableResult(
        name=name,
        title=f"Sweep {name}",
        columns=tuple(replace(row.described(), student_seeds=students[key]) for key, row in plan.columns.items()),
        methods=tuple(grid.methods),
        seeds=grid.seeds,
        split="test" if True in judged else "validation",
    )


def _jobs(grid: TableDefinition) -> dict[Place, dict[str, str]]:
    """What each job is given beside the configuration, seed by seed."""
    jobs = {}
    for seed, column, method in itertools.product(grid.seeds, grid.columns, grid.methods):
        given = merged(grid.overrides, column.overrides, grid.methods[method], {"seed": seed})
        given |= {"student_seeds": column.student_seeds} if column.student_seeds else {}
        jobs[method, column.key, seed] = {key: spelled(value) for key, value in given.items()}
    return jobs


def _record(board: Board, grid: TableDefinition, refused: Refused) -> None:
    """Leave a record of each job that has ended, finished, failed or refused."""
    folders = {cell.place: cell.folder(board.output) for cell in board.asked}
    reasons = refused | {place: failed.reason for place, failed in board.failed.items()}
    for number, (place, overrides) in enumerate(_jobs(grid).items()):
        if place in reasons:
            record_job(board.output, number, overrides, None, reasons[place])
        elif place in board.sets:
            result = _of_students(read_json(folders[place] / "metrics.json"), board.sets[place].student_seeds)
            record_job(board.output, number, overrides, {**result, "folder": str(folders[place])}, None)


def _of_students(metrics: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """What a run left, of these of its students."""
    if metrics["student_seeds"] == list(seeds):
        return metrics
    students = [one for one in metrics["students"] if one["seed"] in seeds]
    accuracy = {epoch: summary([one[f"{epoch}_top1"] for one in students]) for epoch in ("last", "best")}
    return {**metrics, "student_seeds": list(seeds), "students": students, "accuracy": accuracy}
