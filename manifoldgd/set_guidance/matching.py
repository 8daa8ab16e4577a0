"""Matching guidance: the images of a class are guided together, towards the real distribution of the class.

Every guidance towards prototypes pulls each image towards its own and knows nothing of the other images. What a
student learns from is the set. This guidance follows the gradient of a set-level energy, the distance between synthetic
and real images in the features of random networks (Zhao & Bilen, *Dataset Condensation with Distribution Matching*,
WACV 2023), inside the sampler (the idea of guiding by a distribution instead of by points is also DMGD's). No network
is trained: neither the prior nor the random ones, and no student is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import Decode, EnergyOf, Need, SetSize
from manifoldgd.ranges import checked
from manifoldgd.set_guidance.descent import SINGLE, RealSide
from manifoldgd.set_guidance.networks import (
    NetworkDescent,
    RandomNetworks,
    embed_latents,
    feature_size,
    real_means,
)


@checked
@dataclass(frozen=True, kw_only=True)
class MatchingGuidance(NetworkDescent):
    """Descent of :class:`MatchingEnergy`; for its numbers see :class:`NetworkDescent`."""

    def memory(self, size: SetSize) -> dict[str, Need]:
        """Of the means of the real images' features besides."""
        means = SINGLE * self.networks * len(size.real) * feature_size(size.image_shape, self.width)
        what = f"mean features of {len(size.real):,} classes in {self.networks} networks"
        return super().memory(size) | {what: Need(2 * means, "lower the guidance's networks or width")}

    def prepare(self, real: RealSide) -> EnergyOf:
        """The pool, and the real means in its features."""
        networks = self.pool(real)
        means = self.seen("matching", real, networks, real_means, len(real.dataset.class_names))
        return partial(MatchingEnergy, networks=networks, means=means)


class MatchingEnergy:
    """``E(z) = sum_c || 1/n_c sum_i f(decode(z_i)) - mean of f over real images of c ||^2`` (DM, equation 4).

    ``f`` is one random network of the pool, another at each evaluation. DM compares batches of pixels with a fresh
    batch of real images each time and optimises pixels; here the real means are computed once for a fixed pool, and
    the variables are latents. Each class's term depends on its own images alone, so a batch may hold any classes, but
    all images of each.

    Args:
        decode: the prior's decoder.
        labels: ``[B]`` class of each row, on the latents' device.
        networks: the pool of ``P`` networks.
        means: ``[P, classes, E]`` of real images (:func:`manifoldgd.set_guidance.networks.real_means`).
    """

    def __init__(self, decode: Decode, labels: Tensor, networks: RandomNetworks, means: Tensor) -> None:
        self.decode, self.networks = decode, networks
        classes, self.group = torch.unique(labels, return_inverse=True)
        self.counts = torch.bincount(self.group)[:, None]
        self.means = means[:, classes.to(means.device)].to(labels.device)  # [P, classes of the batch, E]

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar; ``draw`` chooses the network."""
        index = draw % len(self.networks)
        features = embed_latents(self.networks, index, self.decode, x0)
        sums = features.new_zeros(len(self.counts), features.shape[1]).index_add(0, self.group, features)
        return (sums / self.counts - self.means[index]).square().sum()
