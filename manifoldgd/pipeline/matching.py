"""The real side of guidances that judge sets, computed once for a dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from manifoldgd.artifacts import LatentSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.protocol import (
    DenoiserSpace,
    EnergySource,
    LatentSpace,
    RegressionSpace,
    SetSpace,
    TransportSpace,
)
from manifoldgd.errors import require
from manifoldgd.latents.features import common_noise, noised_features
from manifoldgd.machine import Machine
from manifoldgd.pipeline.latents import cluster
from manifoldgd.pipeline.sets import match_classes
from manifoldgd.pipeline.spaces import features_of
from manifoldgd.priors.prior import Prior
from manifoldgd.progress import progress_bar
from manifoldgd.randomness import generator
from manifoldgd.set_guidance.denoiser import DenoiserMatching
from manifoldgd.set_guidance.energy import Matching
from manifoldgd.set_guidance.networks import RandomNetworks, real_features, real_labels, real_means
from manifoldgd.set_guidance.regression import Regression, RegressionPool
from manifoldgd.set_guidance.repulsion import Repulsion
from manifoldgd.set_guidance.transport import Transport
from manifoldgd.store.cache import cached_tensor
from manifoldgd.store.keys import key_of


def prepare_matching(
    dataset: ImageDataset,
    space: SetSpace,
    machine: Machine,
    cache: Path,
    *,
    encoded: Callable[[], LatentSet] | None = None,
    prior: Prior | None = None,
    seed: int = 0,
) -> EnergySource:
    """What a guidance compares a set with, from the cache or made now: the real side, and networks where it has some.

    In the space of the latents there are no networks, and nothing to prepare.

    Args:
        dataset: its training split is read, its test split is not.
        space: size and number of the networks, how many real images, and what of them is compared.
        machine: where to run. The networks are students that never train, so they run in the students' precision.
        cache: holds the means, or the features, of the real images.
        encoded: gives the latents of the training split, for spaces of latents or of the denoiser.
        prior: the latent diffusion model, for the denoiser's own features.
        seed: distillation seed, of centres that are clustered.
    """
    if isinstance(space, LatentSpace):
        return Repulsion()
    if isinstance(space, TransportSpace):
        return _transport(space, encoded(), seed, machine, cache)
    if isinstance(space, DenoiserSpace):
        return _denoiser(space, dataset, prior, encoded(), machine, cache)
    pool = RandomNetworks(
        dataset.image_shape,
        count=space.networks,
        width=space.width,
        mean=dataset.mean,
        std=dataset.std,
        precision=machine.student_precision,
        seed=space.pool_seed,
    ).to(machine.device)
    compute = real_features if isinstance(space, RegressionSpace) else real_means

    def make() -> Tensor:
        title = f"features of {space.networks} random networks"
        with progress_bar(title, space.networks, enabled=machine.progress) as advance:
            return compute(pool, dataset, space.real_per_class, machine.device, on_network=advance)

    numbers = {"networks": space.networks, "width": space.width, "real_per_class": space.real_per_class}
    numbers |= {} if space.pool_seed is None else {"pool_seed": space.pool_seed}
    kind = "regression" if isinstance(space, RegressionSpace) else "matching"
    key = key_of(kind, *dataset.as_learned, numbers, pool.precision)
    found = cached_tensor(cache / "matching", key, make)
    if not isinstance(space, RegressionSpace):
        return Matching(pool, found)
    real = RegressionPool(pool, found, real_labels(dataset, space.real_per_class), len(dataset.class_names))
    augmentation = space.augmentation
    if augmentation is not None and not dataset.flip:
        augmentation = augmentation.without_flip()
    return Regression(real, space.ridge, space.temperature, space.copies, augmentation)


def _transport(space: TransportSpace, encoded: LatentSet, seed: int, machine: Machine, cache: Path) -> Transport:
    described = {name: repr(value) for name, value in vars(space.clusterer).items()}
    config = {"_target_": type(space.clusterer).__name__, **described}
    numbers = {"ipc": space.centres, "seed": seed, "machine": machine, "cache": cache}
    found, _ = cluster(encoded, space.clusterer, config, **numbers)
    shape = len(encoded.class_names), space.centres
    sizes = found.sizes.double().view(shape)
    return Transport(found.prototypes.view(*shape, -1), sizes / sizes.sum(dim=1, keepdim=True), space.regularisation)


def _denoiser(
    space: DenoiserSpace, dataset: ImageDataset, prior: Prior, encoded: LatentSet, machine: Machine, cache: Path
) -> DenoiserMatching:
    table = features_of(space.features, dataset, prior, encoded, machine, cache)
    rows = []
    for label, name in enumerate(encoded.class_names):
        own = encoded.indices_of(label)
        require(
            len(own) >= space.real_per_class,
            f"guidance.real_per_class: needs to be at most the number of images of every class, got "
            f"{space.real_per_class} with {len(own)} in class {name!r}; lower guidance.real_per_class",
        )
        order = torch.randperm(len(own), generator=generator("denoiser features", name))
        rows.append(own[order[: space.real_per_class]])
    real = table.load()[torch.stack(rows)]
    labels = torch.tensor(match_classes(dataset, prior))
    noise = common_noise(prior, space.features.timestep)
    blocks = space.features.blocks(len(prior.transformer.transformer_blocks))

    def embed(x0: Tensor, classes: Tensor) -> Tensor:
        told = labels.to(x0.device)[classes]
        return noised_features(prior, x0, told, noise, space.features.timestep, blocks)

    return DenoiserMatching(embed, real)
