"""Features of the real training images in which classes are clustered, computed once and kept in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from manifoldgd import ranks
from manifoldgd.artifacts import Key, LatentSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import require
from manifoldgd.finite import check_finite
from manifoldgd.machine import Machine
from manifoldgd.pipeline import classifiers
from manifoldgd.pipeline.embedded import embed
from manifoldgd.pipeline.sets import match_classes
from manifoldgd.priors.prior import DAMAGED, Prior
from manifoldgd.progress import progress_bar
from manifoldgd.prototypes.spaces import DenoiserFeatures, Features, PrincipalComponents, principal_components
from manifoldgd.store.cache import cache_entry, cached_tensor
from manifoldgd.store.keys import key_of


@dataclass(frozen=True)
class FeatureTable:
    """Features of all training images of a dataset, computed or read when they are asked for."""

    key: Key  # hash of all that they depend on
    load: Callable[[], Tensor]  # [N, E] float32


def check_space(space: Features | None, dataset: ImageDataset, prior: Prior) -> None:
    """Raise :class:`UserError` where a number of the space does not suit the dataset or the prior."""
    if isinstance(space, PrincipalComponents):
        numbers = math.prod(prior.latent_shape)
        images = int(dataset.train.labels.bincount(minlength=len(dataset.class_names)).min())
        most = min(numbers, images)
        require(
            space.components <= most,
            f"expected at most the {numbers} numbers of a latent and the {images} training "
            f"images of the smallest class, got {space.components}; set it to {most} or less",
            key="space.components",
        )
    if isinstance(space, DenoiserFeatures):
        last = len(prior.schedule) - 1
        require(
            space.timestep <= last,
            f"expected at most {last}, the last of prior {prior.name}, got {space.timestep}; lower it",
            key="space.timestep",
        )


def features_of(
    space: Features, dataset: ImageDataset, prior: Prior, encoded: LatentSet, machine: Machine, cache: Path
) -> FeatureTable:
    """The features that a clustering space asks for.

    Args:
        space: what is asked for, with its numbers.
        dataset: the images.
        prior: the latent diffusion model.
        encoded: its latents of the training split; their key holds dataset, prior and precision.
        machine: where to run. Several ranks all call this, and compute here what is not kept.
        cache: keeps them under ``features/``.
    """
    if isinstance(space, PrincipalComponents):
        key = key_of("components", encoded.key, space.components)
        return _kept(cache, key, lambda: _components(space, encoded, machine))
    if isinstance(space, DenoiserFeatures):
        labels = match_classes(dataset, prior)
        key = _denoiser_key(prior, encoded, labels, space)
        return _kept(cache, key, lambda: _denoiser(space, prior, encoded, torch.tensor(labels), machine))
    key = key_of("embedding", dataset.name, dataset.train_fingerprint, classifiers.embedding_key(dataset))
    return _kept(cache, key, lambda: _embedding(dataset, machine, cache))


def _denoiser_key(prior: Prior, encoded: LatentSet, labels: list[int], space: DenoiserFeatures) -> Key:
    """What features of the denoiser depend on. Formerly the key of the latents held the denoiser."""
    numbers = labels, space.layer, space.timestep
    key = key_of("denoiser", encoded.key, prior.key, *numbers)
    return Key(key, [*key.former, *(key_of("denoiser", name, *numbers) for name in encoded.key.former)])


def _kept(cache: Path, key: Key, make: Callable[[], Tensor]) -> FeatureTable:
    folder = cache / "features"

    def found() -> Tensor:
        features = make()
        check_finite(features, "clusterer.space: the features of the training images", DAMAGED)
        return features

    if ranks.count() > 1 and ranks.told(not cache_entry(folder, key, ".safetensors").is_file()):
        made = found()  # all ranks are here; where the table is read, only the first may be
        if ranks.rank() == 0:
            cached_tensor(folder, key, lambda: made)
        ranks.barrier()
    return FeatureTable(key, lambda: cached_tensor(folder, key, found))


def _components(space: PrincipalComponents, encoded: LatentSet, machine: Machine) -> Tensor:
    found = torch.empty(len(encoded.latents), space.components)
    classes = [encoded.indices_of(label) for label in range(len(encoded.class_names))]
    own, computed = ranks.share(classes), []
    title = f"principal components of {len(classes)} classes"
    with progress_bar(title, len(own), enabled=machine.progress) as advance:
        for rows in own:
            computed.append(principal_components(encoded.of(rows).flatten(1), space.components))
            advance()
    for rows, components in zip(classes, ranks.together(computed), strict=True):
        found[rows] = components
    return found


def _denoiser(space: DenoiserFeatures, prior: Prior, encoded: LatentSet, labels: Tensor, machine: Machine) -> Tensor:
    from manifoldgd.latents.features import transformer_features  # here, because it imports Lightning

    count = len(encoded.latents)
    batches = -(-count // (machine.batch_size * ranks.count()))
    with progress_bar(f"denoiser features of {count} images", batches, enabled=machine.progress) as advance:
        return transformer_features(
            prior,
            encoded.latents,
            labels[encoded.labels],
            timestep=space.timestep,
            blocks=space.blocks(prior.num_blocks),
            batch_size=machine.batch_size,
            on_batch=advance,
            trainer=machine.trainer(enable_progress_bar=False),
        )


def _embedding(dataset: ImageDataset, machine: Machine, cache: Path) -> Tensor:
    return embed(classifiers.embedding_network(dataset, machine, cache), dataset.train, progress=machine.progress)
