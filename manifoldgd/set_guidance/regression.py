"""Regression guidance: the whole set is guided so that a regression on it classifies real images.

Ridge regression from the synthetic images to their labels has a closed form, so how well a set teaches can be
differentiated with respect to its images without training anything (Nguyen, Chen & Lee, *Dataset Meta-Learning from
Kernel Ridge-Regression*, ICLR 2021). The features are those of random networks, drawn anew instead of taken to their
infinite-width limit, and real images are judged by a cross-entropy with a temperature (Loo et al., *Efficient Dataset
Distillation using Random Feature Approximation*, NeurIPS 2022, who call it Platt scaling). Both optimise pixels from
real images; here the gradient moves the clean latents that a sampler predicts in its last steps, labels stay hard, and
the temperature is fixed. No network is trained: neither the prior nor the random ones, and no student is looked at.

Students never see a set as it is: their protocol augments every batch. The regression may learn from augmented copies
of the images as well, so that what makes a set teach must survive the augmentation. DSA (Zhao & Bilen 2021) augments
synthetic and real batches alike; here real images are judged as they are, as test images will be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from manifoldgd.diffusion.protocol import Decode, Need, SetSize, Together
from manifoldgd.errors import require
from manifoldgd.ranges import Range, checked
from manifoldgd.set_guidance.descent import DOUBLE, RealSide
from manifoldgd.set_guidance.networks import (
    AugmentedCopies,
    NetworkDescent,
    RandomNetworks,
    chunk_of,
    embed_latents,
    feature_size,
    real_features,
    real_labels,
)
from manifoldgd.students.augmentation import Augmentation

LARGEST_BANK = 4 << 30  # bytes of real features on a device; larger ones stay on the host, and go there by network
LARGEST_PART = 2**27  # numbers of real features, and of scores, on a device at once; 512 MiB in single precision


@checked
@dataclass(frozen=True, kw_only=True)
class RegressionGuidance(NetworkDescent):
    """Descent of :class:`RegressionEnergy`.

    The classes of a set are told apart by one regression, so all images of the set are sampled as one batch, and a run
    that is killed while sampling begins its set again. The rate falls to zero along a half cosine over all gradient
    steps, as the networks take turns and never agree.

    Attributes:
        ridge: > 0, of the regression, as a share of the mean of the kernel's diagonal.
        temperature: > 0, factor on the regression's outputs before the cross-entropy.
    """

    ridge: Annotated[float, Range("[1e-6, 1000]")]  # below, the kernel matrix is singular in single precision
    temperature: Annotated[float, Range("[0.001, 1000]")]
    together: ClassVar[Together] = "set"

    def rate_at(self, share: float) -> float:
        """Half a cosine from ``rate`` to 0."""
        return self.rate * (1 + math.cos(math.pi * share)) / 2

    def memory(self, size: SetSize) -> dict[str, Need]:
        """Of the kernel of all images of the set and their copies besides, and of the real images' features."""
        images, width = size.images * self.learned_each, feature_size(size.image_shape, self.width)
        kernel = "lower ipc" if self.learned_each == 1 else "lower ipc or the guidance's copies"
        return super().memory(size) | {
            # The kernel, the kernel with its ridge, and its factors, in double precision like the features.
            f"a regression on {images:,} images": Need(DOUBLE * images * (3 * images + width), kernel),
            **self._judges(size),
        }

    def _judges(self, size: SetSize) -> dict[str, Need]:
        real = sum(min(count, self.real_per_class) for count in size.real)
        bank = 2 * self.networks * real * feature_size(size.image_shape, self.width)
        remedy = "lower the guidance's real_per_class, networks or width"
        what = f"features of {real:,} real images in {self.networks} networks"
        return {what: Need(bank, remedy, on_host=bank > LARGEST_BANK)}

    def prepare(self, real: RealSide) -> Callable[..., RegressionOnSet]:
        """The pool, and real images in its features."""
        networks, labels = self.pool(real), real_labels(real.dataset, self.real_per_class)
        parts = -(-len(labels) // chunk_of(real.dataset.image_shape))
        return partial(
            RegressionEnergy,
            networks=networks,
            real=self.seen("regression", real, networks, real_features, parts),
            real_labels=labels,
            ridge=self.ridge,
            temperature=self.temperature,
        )


@checked
@dataclass(frozen=True, kw_only=True)
class AugmentedRegressionGuidance(RegressionGuidance):
    """Regression guidance whose regression learns from augmented copies of the images as well.

    Attributes:
        copies: of each image, other ones at each gradient step, >= 1. Each costs as much as the images themselves.
        augmentation: that makes the copies, a ``manifoldgd.students.Augmentation``.
    """

    copies: Annotated[int, Range("[1, 100]")]
    augmentation: Augmentation

    def __post_init__(self) -> None:
        require(self.augmentation is not None, "expected what makes the copies, got null", key="augmentation")

    @property
    def learned_each(self) -> int:
        """The image and its copies."""
        return 1 + self.copies

    def prepare(self, real: RealSide) -> Callable[..., RegressionOnSet]:
        """As that of the plain regression, with the copies; mirrored ones only where they keep their class."""
        augmentation = self.augmentation if real.dataset.flip else self.augmentation.without_flip()
        return partial(super().prepare(real), copies=self.copies, augmentation=augmentation)


def ridge_outputs(synthetic: Tensor, labels: Tensor, real: Tensor, classes: int, ridge: float) -> Tensor:
    """Outputs ``[N, classes]`` float32 on real features ``[N, E]`` of the regression of :func:`ridge_weights`."""
    return real @ ridge_weights(synthetic, labels, classes, ridge)


def ridge_weights(synthetic: Tensor, labels: Tensor, classes: int, ridge: float) -> Tensor:
    """Weights of the ridge regression from synthetic features to their labels, by which real features are multiplied.

    ``S' (S S' + ridge * mean(diag(S S')) I)^-1 Y`` with ``Y`` one-hot minus ``1 / classes`` (KIP, equation 1, for a
    linear kernel). The ridge is relative, so the outputs do not change when all features are scaled.

    Args:
        synthetic: ``[B, E]`` features ``S``.
        labels: ``[B]`` in [0, classes).
        classes: of the dataset.
        ridge: > 0.

    Returns:
        ``[E, classes]`` float32.
    """
    # Features share a large mean, so the kernel is near to singular for small ridges. Apple's devices have no doubles.
    wide = (synthetic.cpu() if synthetic.device.type == "mps" else synthetic).double()
    kernel = wide @ wide.T
    targets = functional.one_hot(labels, classes).to(wide) - 1 / classes
    shrunk = kernel + ridge * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=wide.dtype, device=wide.device)
    # Unchecked, as the check would have the host wait: what is not finite is found where every energy's gradient is.
    coefficients, _ = torch.linalg.solve_ex(shrunk, targets)
    return synthetic.T @ coefficients.float().to(synthetic.device)


class RegressionOnSet:
    """What regressions on a set have in common: ``E(z)`` is the cross-entropy of ``temperature`` times their outputs.

    The regression (:func:`ridge_outputs`) sees the features of one network of a pool, another at each evaluation, and
    is solved in closed form. It may learn from augmented copies of the set besides, other ones at each evaluation; real
    images are judged as they are, like the images that students are tested on. A subclass says which.

    Args:
        decode: the prior's decoder.
        labels: ``[B]`` class of each row, on the latents' device; every class among them.
        networks: the pool of ``P`` networks.
        real_labels: int64, of every class.
        ridge: > 0.
        temperature: > 0.
        copies: of each image, >= 0.
        augmentation: that makes the copies; not needed for none.
    """

    def __init__(
        self,
        decode: Decode,
        labels: Tensor,
        *,
        networks: RandomNetworks,
        real_labels: Tensor,
        ridge: float,
        temperature: float,
        copies: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        missing = set(real_labels.tolist()) - set(labels.tolist())
        if missing:
            raise ValueError(f"labels: expected rows of every class in the batch, got none of {sorted(missing)[:5]}")
        self.decode, self.labels = decode, labels
        self.networks, self.real_labels = networks, real_labels.to(labels.device)
        self.classes = int(real_labels.max()) + 1
        self.ridge, self.temperature = ridge, temperature
        self.copies, self.augmentation = copies, augmentation

    def judges(self, index: int, draw: int) -> tuple[Tensor, Tensor]:
        """Features ``[N, E]`` of real images in a network, and their classes ``[N]``."""
        raise NotImplementedError

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar; ``draw`` chooses the network."""
        index = draw % len(self.networks)
        copies = AugmentedCopies(self.copies, self.augmentation, draw) if self.augmentation and self.copies else None
        synthetic = embed_latents(self.networks, index, self.decode, x0, copies)
        labels = self.labels
        if copies:
            synthetic, labels = synthetic.flatten(0, 1), labels.repeat_interleave(1 + self.copies)
        weights = ridge_weights(synthetic, labels, self.classes, self.ridge)
        real, real_labels = self.judges(index, draw)
        rows = max(1, LARGEST_PART // max(real.shape[1], self.classes))
        if len(real) <= rows:
            return self._loss(weights, real, real_labels, "mean")
        parts = zip(real.split(rows), real_labels.split(rows), strict=True)  # scores are computed again going back
        losses = [checkpoint(self._loss, weights, *part, use_reentrant=False) for part in parts]
        return torch.stack(losses).sum() / len(real)

    def _loss(self, weights: Tensor, real: Tensor, real_labels: Tensor, over: str = "sum") -> Tensor:
        outputs = real.to(weights.device, torch.float32) @ weights
        return functional.cross_entropy(self.temperature * outputs, real_labels, reduction=over)


class RegressionEnergy(RegressionOnSet):
    """Judged by the same real images at each evaluation, whose features are computed once for a pool that stays.

    Args:
        decode: as :class:`RegressionOnSet`, and so are ``labels`` and the numbers.
        real: ``[P, N, E]`` features of real images; float16, a rounding far below the difference of two networks.
    """

    def __init__(self, decode: Decode, labels: Tensor, *, real: Tensor, **numbers: Any) -> None:
        super().__init__(decode, labels, **numbers)
        self.real = real.to(labels.device) if real.nbytes <= LARGEST_BANK else real

    def judges(self, index: int, draw: int) -> tuple[Tensor, Tensor]:
        """All of them."""
        return self.real[index], self.real_labels
