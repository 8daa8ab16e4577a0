"""A set from its parts: dataset, prior, prototypes, guidance and sampler as one Lightning module.

:func:`choose` is the other way to a set: real images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from manifoldgd import ranks
from manifoldgd.artifacts import DistilledSet, PrototypeSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.protocol import Guidance, Need, SetSize, judges_in
from manifoldgd.diffusion.samplers import Sampler
from manifoldgd.diffusion.start import PURE_NOISE, Start
from manifoldgd.distill.overgeneration import Overgeneration
from manifoldgd.errors import UserError, require, under
from manifoldgd.guidance import NoGuidance
from manifoldgd.machine import Machine
from manifoldgd.memory import enough
from manifoldgd.pipeline import latents, sets
from manifoldgd.pipeline.classifiers import embedding_network
from manifoldgd.pipeline.embedded import embed
from manifoldgd.pipeline.latents import check_neighbourhood
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.pipeline.sets import keep_one_a_prototype, match_classes, sample_set
from manifoldgd.priors.prior import Prior
from manifoldgd.progress import data_size
from manifoldgd.prototypes.coresets import select_classes
from manifoldgd.report.card import set_card
from manifoldgd.store.results import check_inputs, claim_result
from manifoldgd.store.sets import SetWriter, has_set, load_set
from manifoldgd.system import memory

if TYPE_CHECKING:
    from manifoldgd.distill.module import DistillModule

IN_LATENT_SPACE = ("kmeans_nearest",)  # the other choices of real images compare embeddings of the classifier


def distill_module(
    dataset: ImageDataset,
    prior: Prior,
    prototypes: PrototypeSet | None,
    *,
    guidance: Guidance,
    sampler: Sampler,
    seed: int,
    machine: Machine,
    cache: Path,
    start: Start = PURE_NOISE,
) -> DistillModule:
    """Dataset, prior, prototypes, guidance and sampler as one Lightning module, whose predict step samples images.

    See :func:`synthesise` for the arguments. What guidance needs of the real images is found here or read: the
    neighbourhoods of the prototypes, and for a guidance that judges sets what it compares them with.
    """
    from manifoldgd.distill.module import DistillModule, find_targets  # here, because it imports Lightning

    targets = None
    if prototypes is not None:
        encoded, _ = latents.encode(dataset, prior, machine, cache)
        targets = find_targets(prototypes, encoded, guidance.neighbourhood, backend=machine.neighbours)
    real = RealImages(dataset, machine, cache, prior, seed)
    prepared = enough("guidance: what it learns of real images", "lower its networks, width, centres or real_per_class")
    with under("guidance"), prepared:  # of two that judge sets, both follow the same energies
        energy_of = next((judge.prepare(real) for judge in judges_in(guidance)), None)
    return DistillModule(
        prior,
        sampler,
        guidance,
        targets,
        energy_of,
        image_size=dataset.image_shape[1:],
        seed=seed,
        at_once=machine.batch_size,
        start=start,
    )


def check_parts(dataset: ImageDataset, prior: Prior, *, guidance: Guidance, sampler: Sampler, start: Start) -> None:
    """Raise :class:`UserError` where the parts do not fit together, before any of the work."""
    with under("guidance"):
        check_neighbourhood(dataset, guidance.neighbourhood)
    prior.check_images(dataset.name, dataset.image_shape)
    match_classes(dataset, prior)
    with under("sampler"):
        prior.schedule.respaced(sampler.steps, sampler.spacing)
    with under("start"):
        start.remaining(sampler.steps)


def check_memory(dataset: ImageDataset, prior: Prior, *, guidance: Guidance, ipc: int, machine: Machine) -> None:
    """Raise :class:`UserError` where a guidance of sets takes more memory than there is, before any work.

    What the networks take on the way is left out: it does not grow with the set.
    """
    size = SetSize(
        ipc=ipc,
        real=tuple(dataset.train.labels.bincount(minlength=len(dataset.class_names)).tolist()),
        image_shape=dataset.image_shape,
        latent_shape=prior.latent_shape,
        features=prior.block_width,
        batch_size=machine.batch_size,
    )
    for judge in judges_in(guidance):
        needs = dict(judge.memory(size))
        if guidance.neighbourhood:
            rows, numbers = size.rows(judge.together), math.prod(size.latent_shape)
            held = Need(4 * rows * guidance.neighbourhood * numbers, "lower ipc or guidance.neighbourhood")
            needs[f"the neighbourhoods of {rows:,} images at once"] = held
        if machine.device.type != "cuda":
            _check_fits(needs, "this machine", machine.memory)
            continue
        _check_fits({what: need for what, need in needs.items() if need.on_host}, "this machine", memory())
        _check_fits({what: need for what, need in needs.items() if not need.on_host}, "the device", machine.memory)


def _check_fits(needs: Mapping[str, Need], where: str, there: int | None) -> None:
    whole = sum(need.num_bytes for need in needs.values())
    if there is None or whole <= there:
        return
    what, largest = max(needs.items(), key=lambda each: each[1].num_bytes)
    raise UserError(
        f"takes {data_size(whole)} at once, {data_size(largest.num_bytes)} of it for {what}, and {where} has "
        f"{data_size(there)}; {largest.remedy}",
        "guidance",
    )


def check_prototypes(prototypes: PrototypeSet | None, guidance: Guidance, start: Start, ipc: int) -> None:
    """Raise :class:`UserError` where prototypes are missing, or are not ``ipc`` a class."""
    wanted = start.from_prototype or not isinstance(guidance, NoGuidance)
    require(
        prototypes is not None or not wanted,
        "expected prototypes to pull towards or to start from, got None",
        key="prototypes",
    )
    require(
        prototypes is None or prototypes.ipc == ipc,
        f"expected {ipc} of each class, got {prototypes.ipc if prototypes else 0}; cluster again with ipc={ipc}",
        key="prototypes",
    )


def synthesise(
    folder: Path,
    dataset: ImageDataset,
    prior: Prior,
    prototypes: PrototypeSet | None,
    *,
    guidance: Guidance,
    sampler: Sampler,
    ipc: int,
    seed: int,
    machine: Machine,
    cache: Path,
    facts: dict[str, Any],
    start: Start = PURE_NOISE,
    overgeneration: Overgeneration | None = None,
) -> DistilledSet:
    """Synthesise ``ipc`` images a class into ``folder/set``, continuing what an earlier process began there.

    For the arguments see :func:`manifoldgd.library.synthesise`; ``cache`` is of latents, features and networks, and
    ``facts`` go into the manifest beside what is known here.

    Raises:
        UserError: prototypes are missing, or not ``ipc`` a class; the parts do not fit together.
        RunError: numbers stop being finite.
    """
    check_parts(dataset, prior, guidance=guidance, sampler=sampler, start=start)
    check_prototypes(prototypes, guidance, start, ipc)
    check_memory(dataset, prior, guidance=guidance, ipc=ipc, machine=machine)

    module = distill_module(
        dataset,
        prior,
        prototypes,
        guidance=guidance,
        sampler=sampler,
        seed=seed,
        machine=machine,
        cache=cache,
        start=start,
    )

    def sampled(place: Path, replica: int, facts: dict[str, Any]) -> DistilledSet:
        return sample_set(place, dataset, module, ipc=ipc, machine=machine, facts=facts, replica=replica)

    if overgeneration is None or overgeneration.replicas == 1:
        return sampled(folder / "set", 0, facts)
    candidates = [
        sampled(folder / "replicas" / str(replica), replica, {**facts, "replica": replica})
        for replica in range(overgeneration.replicas)
    ]
    network = embedding_network(dataset, machine, cache)
    return ranks.by_first(
        lambda: keep_one_a_prototype(folder / "set", candidates, dataset, network.embed, overgeneration)
    )


def finished(folder: Path, facts: dict[str, Any]) -> DistilledSet | None:
    """The set that ``folder`` holds already; without one the folder is claimed for the set of these facts.

    Args:
        folder: of the result; the caller holds its lock.
        facts: of the manifest, among them ``config``, what the set depends on, and ``inputs``, hashes of what it is
            made of, which may change under the same names.

    Raises:
        UserError: the folder holds a set of another configuration, or of other inputs under the same names.
    """
    claim_result(folder, "set", facts["config"])
    if has_set(folder):
        distilled = load_set(folder)
        check_inputs(folder, distilled.manifest["inputs"], facts["inputs"])
        return distilled
    claim_result(folder, "inputs", facts["inputs"])  # of a set that is begun: it is continued with the same ones
    return None


def choose(
    folder: Path,
    dataset: ImageDataset,
    source: str,
    prior: Prior | None,
    *,
    reconstruct: bool,
    ipc: int,
    seed: int,
    machine: Machine,
    cache: Path,
    facts: dict[str, Any],
) -> DistilledSet:
    """Choose ``ipc`` real training images a class into ``folder/set``, no two of them copies.

    Args:
        folder: of the result; a finished set in it is read.
        dataset: the images.
        source: ``random``, ``herding``, ``k_center`` or ``kmeans_nearest``.
        prior: for those that compare latents, and for ``reconstruct``.
        reconstruct: pass the chosen images through the prior's autoencoder and back.
        ipc: images a class.
        seed: distillation seed.
        machine: where to run.
        cache: of latents and of the classifier whose embeddings are compared.
        facts: go into the manifest beside what is known here.
    """
    writer, train = SetWriter(folder / "set", dataset.class_names), dataset.train
    complete = writer.complete
    ranks.barrier()
    if complete:
        return load_set(writer.folder)
    if source in IN_LATENT_SPACE and prior is not None:
        features = latents.encode(dataset, prior, machine, cache)[0].latents.flatten(1).float()
    elif source == "random":
        features = torch.zeros(len(train), 1)  # a draw looks at nothing
    else:
        features = embed(embedding_network(dataset, machine, cache), train, progress=machine.progress)
    numbers: dict[str, Any] = {"method": source, "ipc": ipc, "seed": seed, "distinct": train.distinct}
    rows = select_classes(features, train.labels, dataset.class_names, **numbers)
    images = train.load(rows)
    if reconstruct and prior is not None:
        images = sets.reconstruct(prior.to(machine.device), images)  # Lightning leaves what it ran on the CPU
    if ranks.rank() == 0:
        for position, (row, image) in enumerate(zip(rows.tolist(), images, strict=True)):
            writer.save(image, position // ipc, position % ipc, train_image=row)
        facts = {**facts, "dataset": dataset.name, "seed": seed}
        writer.finish(ipc=ipc, facts=facts, card=set_card(dataset.name, dataset.class_names, ipc, facts))
    ranks.barrier()
    return load_set(writer.folder)
