"""How well a regression on the synthetic images classifies real ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from manifoldgd.set_guidance.networks import AugmentedCopies, Decode, RandomNetworks, embed_latents
from manifoldgd.students.augmentation import Augmentation


def ridge_outputs(synthetic: Tensor, labels: Tensor, real: Tensor, classes: int, ridge: float) -> Tensor:
    """Outputs on real images of the ridge regression from synthetic features to their labels.

    ``r S' (S S' + ridge * mean(diag(S S')) I)^-1 Y`` with ``Y`` one-hot minus ``1 / classes`` (KIP, equation 1, for a
    linear kernel). The ridge is relative, so the outputs do not change when all features are scaled.

    Args:
        synthetic: ``[B, E]`` features ``S``.
        labels: ``[B]`` in [0, classes).
        real: ``[N, E]`` features ``r``.
        classes: of the dataset.
        ridge: > 0.

    Returns:
        ``[N, classes]`` float32.
    """
    # Features share a large mean, so the kernel is near to singular for small ridges. Apple's devices have no doubles.
    wide = (synthetic.cpu() if synthetic.device.type == "mps" else synthetic).double()
    kernel = wide @ wide.T
    targets = functional.one_hot(labels, classes).to(wide) - 1 / classes
    shrunk = kernel + ridge * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=wide.dtype, device=wide.device)
    weights = synthetic.T @ torch.linalg.solve(shrunk, targets).float().to(synthetic.device)  # [E, classes]
    return real @ weights


class RegressionEnergy:
    """``E(z)``: cross-entropy, on real images, of ``temperature`` times the outputs of a regression on the set.

    The regression (:func:`ridge_outputs`) sees the features of one random network of the pool, another at each
    evaluation, and is solved in closed form. It may learn from augmented copies of the set besides, other ones at each
    evaluation; real images are judged as they are, like the images that students are tested on.

    Args:
        decode: the prior's decoder.
        pool: the networks and the real features.
        labels: ``[B]`` class of each row, every class among them.
        ridge: > 0.
        temperature: > 0.
        copies: of each image, >= 0.
        augmentation: that makes the copies; not needed for none.
    """

    def __init__(
        self,
        decode: Decode,
        pool: RegressionPool,
        labels: Tensor,
        *,
        ridge: float,
        temperature: float,
        copies: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        missing = set(range(pool.classes)) - set(labels.tolist())
        if missing:
            raise ValueError(f"labels: expected rows of every class in the batch, got none of {sorted(missing)[:5]}")
        self.decode, self.pool, self.labels = decode, pool, labels
        self.ridge, self.temperature = ridge, temperature
        self.copies, self.augmentation = copies, augmentation

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar; ``draw`` chooses the network."""
        pool = self.pool
        index = draw % len(pool.networks)
        copies = AugmentedCopies(self.copies, self.augmentation, draw) if self.augmentation and self.copies else None
        synthetic = embed_latents(pool.networks, index, self.decode, x0, copies)
        labels = self.labels.to(x0.device)
        if copies:
            synthetic, labels = synthetic.flatten(0, 1), labels.repeat_interleave(1 + self.copies)
        real = pool.features[index].to(x0.device, torch.float32)
        outputs = ridge_outputs(synthetic, labels, real, pool.classes, self.ridge)
        return functional.cross_entropy(self.temperature * outputs, pool.labels.to(x0.device))


@dataclass(frozen=True)
class RegressionPool:
    """Random networks and what they make of real training images."""

    networks: RandomNetworks
    features: Tensor  # [P, N, E] float16: a rounding far below the difference of two networks
    labels: Tensor  # [N] int64
    classes: int


@dataclass(frozen=True)
class Regression:
    """What regression guidance needs of a dataset, and the regression's own numbers."""

    pool: RegressionPool
    ridge: float
    temperature: float
    copies: int = 0
    augmentation: Augmentation | None = None

    @property
    def networks(self) -> RandomNetworks:
        """The random networks."""
        return self.pool.networks

    @property
    def precision(self) -> str:
        """What decoder and networks are computed in."""
        return self.networks.precision

    def energy(self, decode: Decode, labels: Tensor) -> RegressionEnergy:
        """The energy of a batch with these labels ``[B]``: a whole set."""
        return RegressionEnergy(
            decode,
            self.pool,
            labels,
            ridge=self.ridge,
            temperature=self.temperature,
            copies=self.copies,
            augmentation=self.augmentation,
        )
