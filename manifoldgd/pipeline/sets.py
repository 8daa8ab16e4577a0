"""Make a set: synthesise it with the prior, or choose real images as a baseline."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manifoldgd import ranks
from manifoldgd.artifacts import DistilledSet, PrototypeSet
from manifoldgd.data.imagenet import names_by_wnid
from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.loop import RUNAWAY
from manifoldgd.diffusion.protocol import judges_in
from manifoldgd.distill.classes import prior_labels
from manifoldgd.distill.items import work_items
from manifoldgd.distill.overgeneration import Overgeneration
from manifoldgd.errors import under
from manifoldgd.guidance import NoGuidance
from manifoldgd.machine import Machine
from manifoldgd.memory import AtOnce
from manifoldgd.priors.prior import Prior
from manifoldgd.progress import progress_bar
from manifoldgd.report.card import set_card
from manifoldgd.store.sets import CONTENT, SetWriter, load_set

if TYPE_CHECKING:
    from manifoldgd.distill.module import DistillModule, Synthesised, Targets

Embed = Callable[[Tensor], Tensor]  # uint8 [n, C, H, W] -> [n, E] float32
# Of a candidate's manifest: what the candidates have in common; of a row: what the writer of the kept set says itself.
SHARED = ("method", "config", "inputs", "prior_revision", "prior_autoencoder_revision", "prior_labels", "seed")
PLACE = ("file", "label", "rank", CONTENT)


def match_classes(dataset: ImageDataset, prior: Prior) -> list[int]:
    """The prior's label for each class of the dataset; raises :class:`UserError` where there is none.

    For a prior that is told words that is each class's first prompt; all are embedded here, once.
    """
    if prior.text is not None:
        with under("prior"):
            known = names_by_wnid()
            words = [known.get(name, name).replace("_", " ") for name in dataset.class_names]
            return prior.text.bind(dataset.class_names, words)
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
    from manifoldgd.distill.synthesis import Saving, fixed_batches, synthesise  # here, because it imports Lightning

    writer = SetWriter(folder, dataset.class_names, ranks.rank())
    complete = writer.complete
    ranks.barrier()  # all have seen the same images, and one may add to them
    if complete:
        return load_set(folder)
    module.prior.hold(machine.precision)
    if machine.compile:
        module.prior.network.compile()  # in place: its weights stay where they are, under their names
    labels = match_classes(dataset, module.prior)
    text = module.prior.text
    prompts = None if text is None else [len(text.texts[name]) for name in dataset.class_names]
    items = work_items(dataset.class_names, labels, ipc, replica=replica, prompts=prompts)
    judges = judges_in(module.guidance)
    batches = [
        batch
        for batch in fixed_batches(items, machine.batch_size, together=judges[0].together if judges else None)
        if any((item.label, item.rank) not in writer.rows for item in batch)
    ]
    guided = not isinstance(module.guidance, NoGuidance)
    started = time.perf_counter()
    own = ranks.share(batches)
    others = f" of {sum(map(len, batches))}" if ranks.count() > 1 else ""
    title = f"sample {sum(map(len, own))}{others} images"
    steps = module.sampler.steps
    taken = module.start.remaining(steps)
    gradients = sum(judge.evaluations(steps, taken) for judge in judges)  # each about as long as a step
    with (
        progress_bar(title, len(own) * (taken + gradients), enabled=machine.progress) as advance,
        Saving() as saving,
    ):
        module.on_step = lambda record: advance()
        module.on_evaluation = advance
        # Inference mode would forbid the gradients that energies are followed by.
        trainer = machine.trainer(shared=True, enable_progress_bar=False, inference_mode=module.energy_of is None)

        def save(batch: Synthesised) -> None:
            nonlocal started
            for image, place, facts in _described(batch, module.targets, guided):
                saving(writer.save, image, **place, **facts)
            before, started = started, time.perf_counter()
            saving(writer.spend, started - before)

        synthesise(module, batches, save, trainer=trainer)
    ranks.barrier()
    if ranks.rank() == 0:
        writer.look()
        _finish(writer, dataset, module, labels, facts, ipc)
    ranks.barrier()
    return load_set(folder)


def _finish(
    writer: SetWriter,
    dataset: ImageDataset,
    module: DistillModule,
    labels: list[int],
    facts: dict[str, Any],
    ipc: int,
) -> None:
    """Say what the set is, now that all its images are there."""
    text = module.prior.text
    facts = {
        **facts,
        "dataset": dataset.name,
        "prior_labels": dict(zip(dataset.class_names, labels, strict=True)),
        "seed": module.seed,
    }
    if text is not None:
        facts["prompts"] = {name: list(text.texts[name]) for name in dataset.class_names}
    facts["seconds"] = {**facts.get("seconds", {}), "distill": round(writer.seconds, 2)}
    runaway, at_once = ran_away(row.get("guidance", {}) for row in writer.rows.values())
    if runaway:
        from manifoldgd.report.run import runaway_sentence  # here, because it imports matplotlib

        print(f"manifoldgd: warning: {runaway_sentence(runaway, at_once, len(writer.rows))}", file=sys.stderr)
    writer.finish(ipc=ipc, facts=facts, card=set_card(dataset.name, dataset.class_names, ipc, facts))


def ran_away(curves: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """How many images ran away, and how many of them at the first pull, where none before can have been too strong.

    Args:
        curves: ``guidance`` of each image, as a manifest holds it; older ones do not say.
    """
    away = [curve for curve in curves if curve.get("runaway")]
    first = [next((each for each in curve["ratio"] if each is not None), 0.0) for curve in away]
    return len(away), sum(each > RUNAWAY for each in first)


def _described(
    batch: Synthesised, targets: Targets | None, guided: bool
) -> Iterator[tuple[Tensor, dict[str, int], dict[str, Any]]]:
    """Each image of a batch, its place in the set and what the manifest says of it."""
    for row, item in enumerate(batch.items):
        facts: dict[str, Any] = {"prior_label": item.prior_label}
        if targets is not None:
            facts["prototype"] = _prototype_facts(targets.prototypes, item.label, item.rank)
        if targets is not None and guided:
            curves = {"ratio": _numbers(batch.ratios[row]), "kept": _numbers(batch.kept[row])}
            facts["guidance"] = {**curves, "runaway": int(batch.runaway[row])}
        yield batch.images[row], {"label": item.label, "rank": item.rank}, facts


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


def keep_one_a_prototype(
    folder: Path,
    candidates: Sequence[DistilledSet],
    dataset: ImageDataset,
    embed: Embed,
    overgeneration: Overgeneration,
) -> DistilledSet:
    """Keep one of the images that were sampled for each prototype, as a set in ``folder``; a finished one is read.

    The candidates are whole sets, one a replica, each sampled like a set that has no others: replica 0 is, to the last
    bit, the set of a run without over-generation, and guidances that judge sets judge each replica by itself. What is
    kept is decided by real training images and the candidates alone; no student is trained and no test image is read.

    Args:
        folder: of the set.
        candidates: a set of every replica, in order, all with the same images a class.
        dataset: its training split gives the real class means.
        embed: the space of the rule.
        overgeneration: the rule.

    Returns:
        The set; each image's row in the manifest is its candidate's and says which ``replica`` it was.
    """
    writer = SetWriter(folder, dataset.class_names)
    if writer.complete:
        return load_set(folder)
    started = time.perf_counter()
    features = torch.stack([embed(one.images) for one in candidates])  # [R, classes * ipc, E]
    means = class_means(dataset, embed)
    for label in range(len(dataset.class_names)):
        rows = torch.nonzero(candidates[0].labels == label).flatten()
        kept = overgeneration.choose(features[:, rows], means[label])
        for row, replica in zip(rows.tolist(), kept.tolist(), strict=True):
            held = candidates[replica].manifest["images"][row]
            facts = {key: value for key, value in held.items() if key not in PLACE} | {"replica": replica}
            writer.save(candidates[replica].images[row], held["label"], held["rank"], **facts)
    first = candidates[0].manifest
    facts = {key: first[key] for key in SHARED if key in first}
    seconds = sum(one.manifest["seconds"]["distill"] for one in candidates) + time.perf_counter() - started
    facts["seconds"] = {**first["seconds"], "distill": round(seconds, 2)}
    ipc = first["ipc"]
    writer.finish(ipc=ipc, facts=facts, card=set_card(dataset.name, dataset.class_names, ipc, facts))
    return load_set(folder)


def class_means(dataset: ImageDataset, embed: Embed, chunk: int = 1024) -> Tensor:
    """Mean embedding ``[classes, E]`` float64 of each class's real training images, ``chunk`` at a time."""
    labels, sums = dataset.train.labels, None
    for rows in torch.arange(len(labels)).split(chunk):
        features = embed(dataset.train.load(rows)).double()
        if sums is None:
            sums = features.new_zeros(len(dataset.class_names), features.shape[1])
        sums.index_add_(0, labels[rows], features)
    if sums is None:
        raise ValueError(f"dataset {dataset.name}: expected training images, got none")
    return sums / labels.bincount(minlength=len(sums))[:, None]


def reconstruct(prior: Prior, images: Tensor, chunk: int = 64) -> Tensor:
    """``[n, C, h, w]`` uint8 images after a round trip through the latents."""
    return decode_latents(prior, encode_images(prior, images, chunk), (images.shape[-2], images.shape[-1]), chunk)


def decode_latents(prior: Prior, latents: Tensor, size: tuple[int, int], chunk: int = 64) -> Tensor:
    """``[n, C, H, W]`` scaled latents -> ``[n, C, *size]`` uint8 images."""
    device = prior.autoencoder.device
    return AtOnce(chunk, "decoding")(lambda part: prior.decode(part.to(device), size).cpu(), latents)


def encode_images(prior: Prior, images: Tensor, chunk: int = 64) -> Tensor:
    """``[n, C, h, w]`` uint8 images -> ``[n, C, H, W]`` scaled latents."""
    device = prior.autoencoder.device
    return AtOnce(chunk, "encoding")(lambda part: prior.encode(part.to(device)).cpu(), images)
