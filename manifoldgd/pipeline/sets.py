"""Make a set: synthesise it with the prior, or choose real images as a baseline."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifoldgd.artifacts import DistilledSet, PrototypeSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.protocol import judges_in
from manifoldgd.distill.classes import prior_labels
from manifoldgd.distill.items import work_items
from manifoldgd.distill.module import DistillModule, Synthesised, Targets
from manifoldgd.distill.synthesis import fixed_batches, synthesise
from manifoldgd.errors import under
from manifoldgd.guidance import NoGuidance
from manifoldgd.machine import Machine
from manifoldgd.priors.prior import Prior
from manifoldgd.progress import progress_bar
from manifoldgd.prototypes.coresets import select_classes
from manifoldgd.report.card import set_card
from manifoldgd.report.run import runaway_sentence
from manifoldgd.store.sets import SetWriter, load_set


def match_classes(dataset: ImageDataset, prior: Prior) -> list[int]:
    """The prior's label for each class of the dataset; raises :class:`UserError` where there is none."""
    with under("dataset"):
        return prior_labels(dataset.class_names, dataset.prior_labels, prior.name, prior.class_names)


def sample_set(
    folder: Path,
    dataset: ImageDataset,
    module: DistillModule,
    *,
    ipc: int,
    machine: Machine,
    facts: dict[str, Any],
    replica: int = 0,
) -> DistilledSet:
    """``ipc`` images a class from a module into ``folder``, continuing what an earlier process began there.

    Args:
        folder: of the set.
        dataset: classes and image size.
        module: what samples.
        ipc: images a class.
        machine: where to run.
        facts: go into the manifest beside what is known here.
        replica: which of the images of each prototype; each replica has noise of its own.
    """
    writer = SetWriter(folder, dataset.class_names)
    if writer.complete:
        return load_set(folder)
    module.prior.hold(machine.precision)
    labels = match_classes(dataset, module.prior)
    items = work_items(dataset.class_names, labels, ipc, replica=replica)
    judges = judges_in(module.guidance)
    batches = [
        batch
        for batch in fixed_batches(items, machine.batch_size, together=judges[0].together if judges else None)
        if any((item.label, item.rank) not in writer.rows for item in batch)
    ]
    guided = not isinstance(module.guidance, NoGuidance)
    started = time.perf_counter()
    title = f"sample {sum(map(len, batches))} images"
    steps = module.sampler.steps
    taken = module.start.remaining(steps)
    gradients = sum(judge.evaluations(steps, taken) for judge in judges)  # each about as long as a step
    with progress_bar(title, len(batches) * (taken + gradients), enabled=machine.progress) as advance:
        module.on_step = lambda record: advance()
        module.on_evaluation = advance
        # Inference mode would forbid the gradients that energies are followed by.
        trainer = machine.trainer(enable_progress_bar=False, inference_mode=module.energy_of is None)

        def save(batch: Synthesised) -> None:
            nonlocal started
            _save(writer, batch, module.targets, guided)
            before, started = started, time.perf_counter()
            writer.spend(started - before)

        synthesise(module, batches, save, trainer=trainer)
    facts = {**facts, "prior_labels": dict(zip(dataset.class_names, labels, strict=True)), "seed": module.seed}
    facts["seconds"] = {**facts.get("seconds", {}), "distill": round(writer.seconds, 2)}
    if runaway := sum(bool(row.get("guidance", {}).get("runaway")) for row in writer.rows.values()):
        print(f"manifoldgd: warning: {runaway_sentence(runaway, len(items))}", file=sys.stderr)
    writer.finish(ipc=ipc, facts=facts, card=set_card(dataset.name, dataset.class_names, ipc, facts))
    return load_set(folder)


def _save(writer: SetWriter, batch: Synthesised, targets: Targets | None, guided: bool) -> None:
    for row, item in enumerate(batch.items):
        facts: dict[str, Any] = {"prior_label": item.prior_label}
        if targets is not None:
            facts["prototype"] = _prototype_facts(targets.prototypes, item.label, item.rank)
        if targets is not None and guided:
            curves = {"ratio": _numbers(batch.ratios[row]), "kept": _numbers(batch.kept[row])}
            facts["guidance"] = {**curves, "runaway": int(batch.runaway[row])}
        writer.save(batch.images[row], item.label, item.rank, **facts)


def _prototype_facts(prototypes: PrototypeSet, label: int, rank: int) -> dict[str, int]:
    position = label * prototypes.ipc + rank
    return {
        "nearest_train_image": int(prototypes.nearest[position]),
        "depth": int(prototypes.depths[position]),
        "size": int(prototypes.sizes[position]),
    }


def _numbers(values: Tensor) -> list[float | None]:
    """Six significant digits; NaN, for which JSON has no form, becomes null."""
    return [None if math.isnan(value) else float(f"{value:.6g}") for value in values.tolist()]


def choose_real(
    folder: Path,
    dataset: ImageDataset,
    features: Tensor,
    *,
    method: str,
    ipc: int,
    seed: int,
    reconstruct_with: Prior | None,
    facts: dict[str, Any],
) -> DistilledSet:
    """Choose ``ipc`` real training images a class, no two of them copies.

    Args:
        folder: of the set.
        dataset: the images.
        features: ``[N, E]`` what the selection compares.
        method: ``random``, ``herding``, ``k_center`` or ``kmeans_nearest``.
        ipc: images a class.
        seed: distillation seed.
        reconstruct_with: pass the chosen images through this prior's autoencoder and back; ``None`` keeps them.
        facts: go into the manifest beside what is known here.
    """
    writer = SetWriter(folder, dataset.class_names)
    if writer.complete:
        return load_set(folder)
    train = dataset.train
    rows = select_classes(
        features, train.labels, dataset.class_names, method=method, ipc=ipc, seed=seed, distinct=train.distinct
    )
    images = train.load(rows)
    if reconstruct_with is not None:
        images = reconstruct(reconstruct_with, images)
    for position, (row, image) in enumerate(zip(rows.tolist(), images, strict=True)):
        writer.save(image, position // ipc, position % ipc, train_image=row)
    facts = {**facts, "seed": seed}
    writer.finish(ipc=ipc, facts=facts, card=set_card(dataset.name, dataset.class_names, ipc, facts))
    return load_set(folder)


def reconstruct(prior: Prior, images: Tensor, chunk: int = 64) -> Tensor:
    """``[n, C, h, w]`` uint8 images after a round trip through the latents."""
    return decode_latents(prior, encode_images(prior, images, chunk), (images.shape[-2], images.shape[-1]), chunk)


def decode_latents(prior: Prior, latents: Tensor, size: tuple[int, int], chunk: int = 64) -> Tensor:
    """``[n, C, H, W]`` scaled latents -> ``[n, C, *size]`` uint8 images."""
    device = prior.autoencoder.device
    return torch.cat([prior.decode(part.to(device), size).cpu() for part in latents.split(chunk)])


def encode_images(prior: Prior, images: Tensor, chunk: int = 64) -> Tensor:
    """``[n, C, h, w]`` uint8 images -> ``[n, C, H, W]`` scaled latents."""
    device = prior.autoencoder.device
    return torch.cat([prior.encode(part.to(device)).cpu() for part in images.split(chunk)])
