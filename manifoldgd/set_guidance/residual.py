"""A pixel residual: what a set guidance still changes in the images once they are decoded.

A decoder draws only what it can draw, and an image that goes through an autoencoder and back teaches a little less
than it did (``experiments/round_trip``). A residual is bounded, so the images stay those of the prior to the eye, and
it needs no decoder on the way back, so a step costs less than one on latents. Methods that optimise a set's pixels
freely are its limit for large bounds. This is not in ManifoldGD (arXiv 2602.23295).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import SetEnergy
from manifoldgd.finite import check_finite
from manifoldgd.ranges import Range, checked
from manifoldgd.set_guidance.descent import Adam, gradient_of


@checked
@dataclass(frozen=True, kw_only=True)
class PixelResidual:
    """``D(z) + delta`` with ``|delta| <= bound``: Adam steps down the energy of the images themselves.

    The rate falls to zero along half a cosine, as the networks take turns and never agree.

    Attributes:
        steps: gradient steps, >= 1.
        rate: length of the first Adam step per pixel, of their range of 1, > 0.
        bound: largest change of a pixel, of their range of 1, > 0; 8 of 255 levels are 0.0314.
    """

    steps: Annotated[int, Range("[1, 100000]")]
    rate: Annotated[float, Range("(0, 1]")]
    bound: Annotated[float, Range("(0, 1]")]

    held: ClassVar[int] = 12  # numbers of each pixel: itself, its bounds, Adam's, a gradient and what makes the next

    def __call__(self, images: Tensor, energy: SetEnergy) -> Tensor:
        """The images with their residual.

        Args:
            images: ``[B, C, h, w]`` uint8, decoded.
            energy: of pixels ``[B, C, h, w]`` in [-1, 1] where other energies take latents.

        Returns:
            ``[B, C, h, w]`` uint8; a pixel differs by at most ``bound`` and half a level.

        Raises:
            NotFinite: a gradient was NaN or infinite.
        """
        decoded = images.float() / 127.5 - 1
        low, high = (decoded - 2 * self.bound).clamp(min=-1), (decoded + 2 * self.bound).clamp(max=1)
        pixels, adam = decoded, Adam()
        for step in range(self.steps):
            rate = self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            pixels = pixels - 2 * rate * adam(gradient_of(energy, pixels, step))
            pixels = torch.minimum(torch.maximum(pixels, low), high)
        # Once NaN a pixel stays so, and as a byte it would be black.
        check_finite(
            pixels,
            "guidance residual: the images",
            "a gradient was not finite: lower its rate, or leave the residual out",
        )
        return pixels.add(1).mul(127.5).round().to(torch.uint8)
