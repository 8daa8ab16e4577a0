"""How far the synthetic images of a class are, together, from its real ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldgd.set_guidance.networks import Decode, RandomNetworks, embed_latents


class MatchingEnergy:
    """``E(z) = sum_c || 1/n_c sum_i f(decode(z_i)) - mean of f over real images of c ||^2`` (DM, equation 4).

    ``f`` is one random network of the pool, another at each evaluation. DM compares batches of pixels with a fresh
    batch of real images each time and optimises pixels; here the real means are computed once for a fixed pool, and
    the variables are latents. Each class's term depends on its own images alone, so a batch may hold any classes, but
    all images of each.

    Args:
        decode: the prior's decoder.
        networks: the pool of ``P`` networks.
        means: ``[P, classes, E]`` of real images (:func:`manifoldgd.set_guidance.networks.real_means`).
        labels: ``[B]`` class of each row.
    """

    def __init__(self, decode: Decode, networks: RandomNetworks, means: Tensor, labels: Tensor) -> None:
        self.decode, self.networks = decode, networks
        self.classes, self.group = torch.unique(labels, return_inverse=True)
        self.counts = torch.bincount(self.group)[:, None]
        self.means = means

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar; ``draw`` chooses the network."""
        index = draw % len(self.networks)
        features = embed_latents(self.networks, index, self.decode, x0)
        group, counts = self.group.to(x0.device), self.counts.to(x0.device)
        sums = features.new_zeros(len(counts), features.shape[1]).index_add(0, group, features)
        real = self.means[index, self.classes].to(x0.device)
        return (sums / counts - real).square().sum()


@dataclass(frozen=True)
class Matching:
    """What matching guidance needs of a dataset, for all batches of a set."""

    networks: RandomNetworks
    means: Tensor  # [P, classes, E]

    @property
    def precision(self) -> str:
        """What decoder and networks are computed in."""
        return self.networks.precision

    def energy(self, decode: Decode, labels: Tensor) -> MatchingEnergy:
        """The energy of a batch with these labels ``[B]``."""
        return MatchingEnergy(decode, self.networks, self.means, labels)
