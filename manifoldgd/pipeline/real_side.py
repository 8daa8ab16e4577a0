"""What guidances of sets learn about the real training images, computed once for a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifoldgd.artifacts import Key, LatentSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import require
from manifoldgd.machine import Machine
from manifoldgd.pipeline import latents
from manifoldgd.pipeline.sets import match_classes
from manifoldgd.pipeline.spaces import features_of
from manifoldgd.priors.prior import Prior
from manifoldgd.progress import progress_bar
from manifoldgd.prototypes import Clusterer, ClusteringSpace, DenoiserFeatures, PooledLatents, RawLatents
from manifoldgd.randomness import generator
from manifoldgd.set_guidance.descent import Embed, OnStep
from manifoldgd.store.cache import cached_tensor
from manifoldgd.store.keys import key_of
from manifoldgd.store.recorded import POOL


@dataclass(frozen=True)
class RealImages:
    """The real side of a dataset (:class:`manifoldgd.set_guidance.descent.RealSide`).

    Attributes:
        dataset: its training split is read, its test split is not.
        machine: where to run. Random networks are students that never train, so they run in the students' precision.
        cache: holds what is made.
        prior: the latent diffusion model, for what is seen in its latents or features.
        seed: distillation seed, of centres that are clustered.
    """

    dataset: ImageDataset
    machine: Machine
    cache: Path
    prior: Prior | None = None
    seed: int = 0

    def cached(self, kind: str, numbers: Mapping[str, int], make: Callable[[OnStep], Tensor], steps: int) -> Tensor:
        """A tensor of the training images, from ``cache/matching`` or made now."""

        def made() -> Tensor:
            with progress_bar(
                f"features of {numbers['networks']} random networks", steps, enabled=self.machine.progress
            ) as advance:
                return make(advance)

        key = key_of(kind, *self.dataset.as_learned, numbers, self.machine.student_precision)
        return cached_tensor(self.cache / "matching", key, made)

    def centres(self, clusterer: Clusterer, count: int) -> tuple[Tensor, Tensor]:
        """``count`` centres of each class ``[classes, count, D]``, and their shares of it ``[classes, count]``."""
        config = {"_target_": type(clusterer).__name__, **{name: repr(each) for name, each in vars(clusterer).items()}}
        if "space" in config:
            config["space"] = Key(config["space"], [_former_name(clusterer.space)])
        numbers: dict[str, Any] = {"ipc": count, "seed": self.seed, "machine": self.machine, "cache": self.cache}
        found, _ = latents.cluster(self._encoded, clusterer, config, **numbers)
        shape = len(self._encoded.class_names), count
        sizes = found.sizes.double().view(shape)
        return found.prototypes.view(*shape, -1), sizes / sizes.sum(dim=1, keepdim=True)

    def denoiser_features(self, space: DenoiserFeatures, per_class: int) -> tuple[Tensor, Embed]:
        """Features ``[classes, per_class, E]`` of the prior's own network, and what gives those of latents.

        Raises:
            UserError: a class has fewer images.
        """
        from manifoldgd.latents.features import common_noise, noised_features  # here, because it imports Lightning

        prior, rows = self._seen_by, []
        for label, name in enumerate(self._encoded.class_names):
            own = self._encoded.indices_of(label)
            require(
                len(own) >= per_class,
                f"needs to be at most the number of images of every class, got "
                f"{per_class} with {len(own)} in class {name!r}; lower it",
                key="real_per_class",
            )
            rows.append(own[torch.randperm(len(own), generator=generator("denoiser features", name))[:per_class]])
        table = features_of(space, self.dataset, prior, self._encoded, self.machine, self.cache)
        device = self.machine.device
        labels = torch.tensor(match_classes(self.dataset, prior)).to(device)
        noise = common_noise(prior, space.timestep).to(device)
        blocks = space.blocks(prior.num_blocks)

        def embed(x0: Tensor, classes: Tensor) -> Tensor:
            return noised_features(prior, x0, labels[classes], noise, space.timestep, blocks)

        return table.load()[torch.stack(rows)], embed

    @property
    def _seen_by(self) -> Prior:
        assert self.prior is not None  # it is left out where only random networks look
        return self.prior

    @cached_property
    def _encoded(self) -> LatentSet:
        return latents.encode(self.dataset, self._seen_by, self.machine, self.cache)[0]


def _former_name(space: ClusteringSpace) -> str:
    """How an earlier version named a clustering space in the keys of centres."""
    words = {RawLatents: "'raw'", PooledLatents: "'pooled'"}
    return f"ClusteringSpace(space={words.get(type(space)) or repr(space)}, pool={getattr(space, 'pool', POOL)})"
