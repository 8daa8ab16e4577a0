"""``manifoldgd table --dry-run``: what a table would do, what is missing for it, and how long it would take.

For large images that is hours of a GPU, from counted operations and assumed speeds. Left out, as they are minutes a
table: encoding the real images, clustering, test passes, start-up. Left out although they are not: the gradient steps
of matching and regression guidance, each of which goes through the decoder and back.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from manifoldgd.cli.components import TARGET
from manifoldgd.cli.plan import Plan, Row
from manifoldgd.cli.setup import DIFFUSION
from manifoldgd.errors import UserError
from manifoldgd.progress import duration
from manifoldgd.store.keys import key_of
from manifoldgd.study.board import seconds_for
from manifoldgd.study.cells import Cell, runs
from manifoldgd.study.results import SetResult

LARGE_IMAGES = 128  # pixels a side from which on a table is work for a GPU
# Counted with torch.utils.flop_counter for one image; a multiplication and an addition are two operations. The paper of
# DiT (arXiv 2212.09748, Table 1) counts them as one: its 118.6 G are these 237.3.
DIT_XL_2_256_FLOPS = 237.3e9  # one forward pass of the denoiser at 256 pixels
DECODE_FLOPS = 622.2e9  # its autoencoder, latents to 256 pixels
CFG_PASSES = 2  # conditional and unconditional
TRAINING_PASSES = 3  # forward, and about twice that backward
# One NVIDIA A100. Its data sheet has 312 TFLOP/s in bfloat16 and 19.5 in single precision; a third of the first and
# half of the second are what large matrix products and convolutions usually sustain. Assumed, not measured.
SAMPLING_FLOPS_PER_SECOND = 100e12
TRAINING_FLOPS_PER_SECOND = 10e12
# Classes of the subsets by name, for an estimate where the data is not there yet.
CLASSES = {"imagenette": 10, "imagewoof": 10, "imagenet100": 100}

ASSUMPTIONS = (
    f"one A100: DiT-XL/2 at {SAMPLING_FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s in bfloat16, students at "
    f"{TRAINING_FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s in single precision; {DIT_XL_2_256_FLOPS / 1e9:.0f} GFLOP a "
    "denoiser pass, two passes a step, backward twice forward; without encoding, clustering, test passes and the "
    "gradient steps of set guidance"
)


def describe(plan: Plan, left: list[Cell]) -> str:
    """Cells by column, and how many of them are left."""
    lines = []
    for key, row in plan.columns.items():
        column = row.described()
        methods = [each.method for each in plan.rows if each.column == key]
        lines.append(f"  {key}: {column.title}, {column.label_protocol}: {', '.join(methods)}")
    lines += _measured_in(plan)
    cells = len(runs(plan.cells))
    students = " or ".join(map(str, sorted({len(row.config.student_seeds) for row in plan.columns.values()})))
    once = "" if cells == len(plan.cells) else " (one cell for all of them where nothing is drawn)"
    lines.append(
        f"{cells} cells: {len(plan.rows) // len(plan.columns)} methods x {len(plan.columns)} columns x "
        f"{len(plan.seeds)} seeds{once}, each judged by {students} student{'' if students == '1' else 's'}; "
        f"{cells - len(left)} finished, {len(left)} left"
    )
    return "\n".join(lines)


def _measured_in(plan: Plan) -> list[str]:
    """Where rows have several embeddings, which of them sets are measured in, and what to do for the others."""
    found: dict[str, None] = {}
    for row in plan.rows:
        node = row.config.embedding
        if row.config.measures and TARGET not in node:
            absent = row.setup.missing_embeddings
            there = ", ".join(str(name) for name in node if name not in absent)
            found |= {f"measured in: {there or 'nothing, accuracies alone'}": None}
            found |= {f"  not in {name}: {reason}": None for name, reason in absent.items()}
    return list(found)


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
        needed = gpu_seconds(row) if cells else (0.0, 0.0)
        if needed is None:
            return ["GPU time: unknown: the number of classes is not known before the data is there"]
        making, judging = needed
        for cell in cells:
            key = key_of(cell.set_config)
            counts[row.column] += judging + (0.0 if key in made else making)
            made.add(key)
    lines = [f"  {key}: {seconds / 3600:.1f} h" for key, seconds in counts.items() if seconds]
    return [f"GPU time: {sum(counts.values()) / 3600:.1f} h ({ASSUMPTIONS})", *lines]


def gpu_seconds(row: Row) -> tuple[float, float] | None:
    """What the set and the students of one cell take; ``None`` if the number of classes is unknown."""
    config, student = row.config, row.setup.student
    shape, classes = _images(row)
    if classes is None:
        return None
    images = config.ipc * classes
    making = 0.0
    if config.source == DIFFUSION:
        steps = row.setup.start.remaining(config.sampler.steps)
        sampled = images * config.overgeneration.replicas
        making = sampled * (steps * CFG_PASSES * DIT_XL_2_256_FLOPS + DECODE_FLOPS) / SAMPLING_FLOPS_PER_SECOND
    network = student.network(shape, classes, seed=0).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *student.input_shape(shape), device="meta"))
    shown = len(config.student_seeds) * student.protocol.epochs_for(config.ipc, classes) * images
    return making, shown * TRAINING_PASSES * counter.get_total_flops() / TRAINING_FLOPS_PER_SECOND


def _images(row: Row) -> tuple[tuple[int, int, int], int | None]:
    """Shape and number of classes: of the data, else as the configuration or the name of the dataset says."""
    try:
        dataset = row.setup.dataset
        return dataset.image_shape, len(dataset.class_names)
    except UserError:
        listed = OmegaConf.select(row.config, "dataset.classes")
        side = _side(row)
        shape = (OmegaConf.select(row.config, "dataset.channels", default=3), side, side)
        return shape, len(listed) if listed else CLASSES.get(row.composed.choice("dataset"))


def _side(row: Row) -> int:
    side = OmegaConf.select(row.config, "dataset.image_size")
    if side is not None:
        return side
    try:
        return row.setup.dataset.image_shape[-1]
    except UserError:
        return 0
