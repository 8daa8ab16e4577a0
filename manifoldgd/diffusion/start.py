"""Where sampling starts: at pure noise, or part of the way, at a clean latent that was noised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from manifoldgd.diffusion.samplers import Schedule
from manifoldgd.errors import require
from manifoldgd.ranges import Range, checked


@checked
@dataclass(frozen=True, kw_only=True)
class Start:
    """How much of the way from noise to image is sampled.

    Below strength 1 sampling starts at the row's prototype, noised to the level of the first of the remaining steps:
    image-to-image (SDEdit, Meng et al. 2022), as D4M starts (arXiv 2407.15138; 0.7 in its scripts). Even the noisiest
    level holds a little of the prototype, so strength 1 is an exception: it is pure noise.

    Attributes:
        strength: share of the sampler's steps that are taken, in (0, 1]; 1 is all, from pure noise.
    """

    strength: Annotated[float, Range("(0, 1]")]

    @property
    def from_prototype(self) -> bool:
        """Whether a prototype is needed."""
        return self.strength < 1

    def remaining(self, steps: int) -> int:
        """Steps that are taken of ``steps``: the nearest whole number.

        Raises:
            UserError: none would remain.
        """
        found = round(self.strength * steps)
        require(
            found >= 1,
            f"needs to leave at least one of the {steps} steps, got {self.strength}; raise it to "
            f"{1 / steps:.3g} or more",
            key="strength",
        )
        return found


@dataclass(frozen=True)
class Origin:
    """What a batch starts from where that is not pure noise."""

    latents: Tensor  # [B, C, H, W] clean scaled latents
    steps: int  # that remain, 1 ... T

    def noised(self, schedule: Schedule, noise: Tensor) -> Tensor:
        """``[B, C, H, W]`` at the level of the first remaining step; ``noise`` is standard normal, of that shape."""
        index = torch.full((len(self.latents),), self.steps - 1)
        return schedule.add_noise(self.latents.to(noise), noise, index)


PURE_NOISE = Start(strength=1.0)
