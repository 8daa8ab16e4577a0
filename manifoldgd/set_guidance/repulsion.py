"""Repulsion guidance: the images of a class keep their distance, so that together they cover more of it.

Images that are sampled on their own come out alike. Sampling them together with a potential that pushes them apart is
particle guidance (Corso et al., *Particle Guidance*, ICLR 2024, arXiv 2310.13102). Here the potential acts on the clean
latents that a sampler predicts in its last steps. It needs no networks, no real images, and no labels but the class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import EnergyOf, Need, SetSize
from manifoldgd.ranges import checked
from manifoldgd.set_guidance.descent import Descent, RealSide, distances_need, squared_distances


@checked
@dataclass(frozen=True, kw_only=True)
class RepulsionGuidance(Descent):
    """Descent of :class:`RepulsionEnergy`; for its numbers see :class:`Descent`.

    The energy has no minimum at a finite distance, so ``rate * inner_steps`` times the steps that it acts in bounds how
    far the images go.
    """

    def memory(self, size: SetSize) -> dict[str, Need]:
        """Of the pairs of a class besides: its kernel is taken whole."""
        pairs = distances_need(size.ipc, size.ipc, math.prod(size.latent_shape))
        return super().memory(size) | {f"the pairs of {size.ipc:,} images of a class": Need(pairs, "lower ipc")}

    def prepare(self, real: RealSide) -> EnergyOf:
        """Nothing is prepared: real images are not looked at."""
        return lambda decode, labels: RepulsionEnergy(labels)


class RepulsionEnergy:
    """``E(z) = sum_c mean over pairs i != j of c of exp(-||z_i - z_j||^2 / h_c)``.

    ``h_c`` is the median of the squared distances divided by ``log n_c``, so that the kernel of an image sums to about
    1 over the others (Liu & Wang, *Stein Variational Gradient Descent*, NeurIPS 2016); no gradient flows through it.

    Args:
        labels: ``[B]`` class of each row, on the latents' device; all images of a class are there.
    """

    def __init__(self, labels: Tensor) -> None:
        self.groups = [torch.nonzero(labels == label).flatten() for label in labels.unique()]

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar, 0 for classes of one image; ``draw`` does not matter."""
        flat = x0.flatten(1)
        return sum((_closeness(flat[group]) for group in self.groups if len(group) > 1), 0 * flat.sum())


def _closeness(rows: Tensor) -> Tensor:
    count = len(rows)
    squared = squared_distances(rows, rows)
    # All but the diagonal, by its place: a mask would have the host wait to learn how many there are.
    others = squared.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(-1)
    bandwidth = (others.detach().median() / math.log(count)).clamp(min=torch.finfo(rows.dtype).tiny)
    return torch.exp(-others / bandwidth).mean()
