"""CutMix (Yun et al. 2019, arXiv 1905.04899): a box of another image, with its share of the label."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor


def beta_draw(alpha: float, generator: Generator) -> float:
    """One draw from Beta(alpha, alpha) by Jöhnk's rejection, meant for ``alpha`` up to about 1."""
    while True:
        x, y = torch.rand(2, generator=generator, dtype=torch.float64).pow(1 / alpha).tolist()
        if 0 < x + y <= 1:
            return x / (x + y)


def box(height: int, width: int, area: float, generator: Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box of about ``area`` (share in [0, 1]), clipped at the border.

    Its centre is uniform over the pixels, so that a box near the border is smaller than asked for.
    """
    sides = [int(side * math.sqrt(area)) for side in (height, width)]
    centres = [int(torch.randint(side, (), generator=generator)) for side in (height, width)]
    low = [max(centre - side // 2, 0) for centre, side in zip(centres, sides, strict=True)]
    high = [min(centres[0] + sides[0] // 2, height), min(centres[1] + sides[1] // 2, width)]
    return low[0], high[0], low[1], high[1]


def cutmix(images: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Paste the same box of a permuted batch into a batch.

    Args:
        images: ``[B, C, H, W]``; not modified.
        alpha: The share of the box is ``1 - Beta(alpha, alpha)`` before clipping; positive.
        generator: CPU generator.

    Returns:
        Mixed images, the permutation ``[B]`` the boxes come from, and the label weight of the original images: exactly
        the share of pixels they keep.
    """
    height, width = images.shape[2:]
    top, bottom, left, right = box(height, width, 1 - beta_draw(alpha, generator), generator)
    partners = torch.randperm(len(images), generator=generator).to(images.device)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
    return mixed, partners, 1 - (bottom - top) * (right - left) / (height * width)
