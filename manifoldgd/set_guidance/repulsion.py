"""How close the synthetic images of a class are to each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manifoldgd.set_guidance.networks import Decode


class RepulsionEnergy:
    """``E(z) = sum_c mean over pairs i != j of c of exp(-||z_i - z_j||^2 / h_c)``.

    ``h_c`` is the median of the squared distances divided by ``log n_c``, so that the kernel of an image sums to about
    1 over the others (Liu & Wang, *Stein Variational Gradient Descent*, NeurIPS 2016); no gradient flows through it.

    Args:
        labels: ``[B]`` class of each row; all images of a class are there.
    """

    def __init__(self, labels: Tensor) -> None:
        self.groups = [torch.nonzero(labels == label).flatten() for label in labels.unique()]

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar, 0 for classes of one image; ``draw`` does not matter."""
        flat = x0.flatten(1)
        return sum((_closeness(flat[group.to(x0.device)]) for group in self.groups if len(group) > 1), 0 * flat.sum())


def _closeness(rows: Tensor) -> Tensor:
    squared = (rows[:, None] - rows[None]).square().sum(-1)
    others = squared[~torch.eye(len(rows), dtype=torch.bool, device=rows.device)]
    bandwidth = (others.detach().median() / math.log(len(rows))).clamp(min=torch.finfo(rows.dtype).tiny)
    return torch.exp(-others / bandwidth).mean()


class Repulsion:
    """What repulsion guidance needs for all batches of a set: nothing."""

    precision = "32-true"

    def energy(self, decode: Decode, labels: Tensor) -> RepulsionEnergy:
        """The energy of a batch with these labels ``[B]``."""
        return RepulsionEnergy(labels)
