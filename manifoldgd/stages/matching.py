"""The real side of matching guidance, computed once for a dataset."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.protocol import FeatureSpace
from manifoldgd.machine import Machine
from manifoldgd.matching.energy import Matching
from manifoldgd.matching.networks import RandomNetworks, real_means
from manifoldgd.progress import progress_bar
from manifoldgd.store.cache import cached_tensor
from manifoldgd.store.keys import key_of


def prepare_matching(dataset: ImageDataset, space: FeatureSpace, machine: Machine, cache: Path) -> Matching:
    """A pool of random networks and the mean features of real training images under each, from the cache or made now.

    Args:
        dataset: its training split is read, its test split is not.
        space: size and number of the networks, and how many real images are averaged.
        machine: where to run, and in which precision.
        cache: holds the means.
    """
    pool = RandomNetworks(
        dataset.image_shape,
        count=space.networks,
        width=space.width,
        mean=dataset.mean,
        std=dataset.std,
        precision=machine.precision,
    ).to(machine.device)
    key = key_of("matching", dataset.name, dataset.fingerprint, asdict(space), machine.precision)
    title = f"features of {space.networks} random networks"

    def make() -> Tensor:
        with progress_bar(title, space.networks, enabled=machine.progress) as advance:
            return real_means(pool, dataset, space.real_per_class, machine.device, on_network=advance)

    return Matching(pool, cached_tensor(cache / "matching" / f"{key}.safetensors", make))
