"""``manifoldgd table --dry-run``: what a table would do, what is missing for it, and how long it would take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from manifoldgd.cli.setup import DIFFUSION
from manifoldgd.cli.table_plan import Plan, Row
from manifoldgd.errors import UserError
from manifoldgd.progress import duration
from manifoldgd.store.keys import key_of
from manifoldgd.study.board import seconds_for
from manifoldgd.study.cells import Cell, runs
from manifoldgd.study.cost import ASSUMPTIONS, CLASSES, Work
from manifoldgd.study.results import SetResult

LARGE_IMAGES = 128  # pixels a side from which on a table is work for a GPU


def describe(plan: Plan, left: list[Cell]) -> str:
    """Cells by column, and how many of them are left."""
    lines = []
    for key, row in plan.columns.items():
        column = row.described()
        methods = [each.method for each in plan.rows if each.column.key == key]
        lines.append(f"  {key}: {column.title}, {column.label_protocol}: {', '.join(methods)}")
    cells = len(runs(plan.cells))
    students = " or ".join(map(str, sorted({len(row.config.student_seeds) for row in plan.columns.values()})))
    once = "" if cells == len(plan.cells) else " (one cell for all of them where nothing is drawn)"
    lines.append(
        f"{cells} cells: {len(plan.rows) // len(plan.columns)} methods x {len(plan.columns)} columns x "
        f"{len(plan.seeds)} seeds{once}, each judged by {students} student{'' if students == '1' else 's'}; "
        f"{cells - len(left)} finished, {len(left)} left"
    )
    return "\n".join(lines)


def missing(plan: Plan, *, here: bool) -> list[str]:
    """Everything that stands in the way, one line a cause, with how many cells it stops; see :meth:`Row.problems`."""
    stopped: dict[str, list[Row]] = {}
    for row in plan.rows:
        for problem in row.problems(here=here):
            stopped.setdefault(problem, []).append(row)
    return [
        f"  {problem} ({sum(len(runs(row.cells)) for row in rows)} cells, the first is {rows[0].name})"
        for problem, rows in stopped.items()
    ]


def time_needed(plan: Plan, left: list[Cell], known: Iterable[SetResult], at_once: int) -> str:
    """An estimate for the cells that are left: counted operations for large images, finished sets for small ones."""
    large = {key for key, row in plan.columns.items() if _side(row) >= LARGE_IMAGES}
    lines = []
    if large:
        lines += _gpu_time(plan, [cell for cell in left if cell.column in large])
    if small := [cell for cell in left if cell.column not in large]:
        seconds = seconds_for(small, known, at_once)
        about = f"about {duration(seconds or 0)} with jobs={at_once}, from the seconds of finished cells"
        lines.append(f"time: {'unknown: no cell is finished or recorded' if seconds is None else about}")
    return "\n".join(lines)


def _gpu_time(plan: Plan, left: list[Cell]) -> list[str]:
    counts = {key: 0.0 for key in plan.columns}
    made: set[str] = set()
    for row in plan.rows:
        cells = [cell for cell in row.cells if cell in left]
        work = work_of(row) if cells else None
        if cells and work is None:
            return ["GPU time: unknown: the number of classes is not known before the data is there"]
        for cell in cells:
            key = key_of(cell.set_config)
            counts[row.column.key] += (replace(work, steps=0) if key in made else work).gpu_seconds
            made.add(key)
    lines = [f"  {key}: {seconds / 3600:.1f} h" for key, seconds in counts.items() if seconds]
    return [f"GPU time: {sum(counts.values()) / 3600:.1f} h ({ASSUMPTIONS})", *lines]


def work_of(row: Row) -> Work | None:
    """What a cell computes; ``None`` if the number of classes is unknown."""
    config, student = row.config, row.setup.student
    shape, classes = _images(row)
    if classes is None:
        return None
    ipc = config.ipc
    network = student.network(shape, classes, seed=0).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *student.input_shape(shape), device="meta"))
    return Work(
        images=ipc * classes,
        steps=row.setup.start.remaining(config.sampler.steps) if config.source == DIFFUSION else 0,
        students=len(config.student_seeds),
        epochs=student.protocol.epochs_for(ipc, classes),
        student_flops=float(counter.get_total_flops()),
        replicas=config.overgeneration.replicas,
    )


def _images(row: Row) -> tuple[tuple[int, int, int], int | None]:
    """Shape and number of classes: of the data, else as the configuration or the name of the dataset says."""
    try:
        dataset = row.setup.dataset
        return dataset.image_shape, len(dataset.class_names)
    except UserError:
        listed = OmegaConf.select(row.config, "dataset.classes")
        side = _side(row)
        shape = (OmegaConf.select(row.config, "dataset.channels", default=3), side, side)
        return shape, len(listed) if listed else CLASSES.get(row.column.dataset)


def _side(row: Row) -> int:
    side = OmegaConf.select(row.config, "dataset.image_size")
    if side is not None:
        return side
    try:
        return row.setup.dataset.image_shape[-1]
    except UserError:
        return 0
