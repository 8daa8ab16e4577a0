"""The real side of guidances that judge sets, computed once for a dataset."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.protocol import FeatureSpace, LatentSpace, RegressionSpace
from manifoldgd.machine import Machine
from manifoldgd.matching.energy import Matching
from manifoldgd.matching.networks import RandomNetworks, real_features, real_labels, real_means
from manifoldgd.matching.regression import Regression, RegressionPool
from manifoldgd.matching.repulsion import Repulsion
from manifoldgd.progress import progress_bar
from manifoldgd.store.cache import cached_tensor
from manifoldgd.store.keys import key_of


def prepare_matching(
    dataset: ImageDataset, space: FeatureSpace | LatentSpace, machine: Machine, cache: Path
) -> Matching | Regression | Repulsion:
    """A pool of random networks and what they make of real training images, from the cache or made now.

    In the space of the latents there are no networks, and nothing to prepare.

    Args:
        dataset: its training split is read, its test split is not.
        space: size and number of the networks, how many real images, and what of them is compared.
        machine: where to run. The networks are students that never train, so they run in the students' precision.
        cache: holds the means, or the features, of the real images.
    """
    if isinstance(space, LatentSpace):
        return Repulsion()
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
