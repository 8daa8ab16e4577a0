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
from dataclasses import dataclass, replace
from typing import Annotated

from torch import Tensor

from manifoldgd.diffusion.protocol import RegressionSpace
from manifoldgd.errors import require
from manifoldgd.guidance.descent import SetDescent
from manifoldgd.ranges import Range, checked


@checked
@dataclass(frozen=True, kw_only=True)
class RegressionGuidance(SetDescent):
    """Descent of :class:`manifoldgd.set_guidance.regression.RegressionEnergy`.

    The classes of a set are told apart by one regression, so all images of the set are sampled as one batch, and a run
    that is killed while sampling begins its set again. The rate falls to zero along a half cosine over all gradient
    steps, as the networks take turns and never agree.

    Attributes:
        ridge: > 0, of the regression, as a share of the mean of the kernel's diagonal.
        temperature: > 0, factor on the regression's outputs before the cross-entropy.
    """

    ridge: Annotated[float, Range("[1e-6, 1000]")]  # below, the kernel matrix is singular in single precision
    temperature: Annotated[float, Range("[0.001, 1000]")]

    def rate_at(self, share: float) -> float:
        """Half a cosine from ``rate`` to 0."""
        return self.rate * (1 + math.cos(math.pi * share)) / 2

    @property
    def features(self) -> RegressionSpace | None:
        """The pool of random networks and the regression in it; ``None`` without a rate."""
        if self.rate == 0:
            return None
        numbers = (self.networks, self.width, self.real_per_class, self.ridge, self.temperature)
        return RegressionSpace(*numbers, pool_seed=self.pool_seed)


@checked
@dataclass(frozen=True, kw_only=True)
class AugmentedRegressionGuidance(RegressionGuidance):
    """Regression guidance whose regression learns from augmented copies of the images as well.

    Attributes:
        copies: of each image, other ones at each gradient step, >= 1. Each costs as much as the images themselves.
        augmentation: that makes the copies, a ``manifoldgd.students.Augmentation``.
    """

    copies: Annotated[int, Range("[1, 100]")]
    augmentation: Callable[..., Tensor]

    def __post_init__(self) -> None:
        require(self.augmentation is not None, "guidance.augmentation: expected what makes the copies, got null")

    @property
    def features(self) -> RegressionSpace | None:
        """As those of the plain regression, with the copies."""
        space = super().features
        return space and replace(space, copies=self.copies, augmentation=self.augmentation)
