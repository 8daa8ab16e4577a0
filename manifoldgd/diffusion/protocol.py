"""What a denoiser and a guidance look like to the sampler.

Symbols, as in the paper: ``x_t`` noisy latent, ``x0`` clean latent predicted from it, ``abar_t`` cumulative product of
alphas. Shape letters: ``B`` rows of the batch, ``C, H, W`` a latent, ``M`` real latents of a neighbourhood, and
``D = C*H*W``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from manifoldgd.randomness import RowNoise


class Denoiser(Protocol):
    """A network that predicts noise (and, with ``2C`` channels, the learned-range variance)."""

    def __call__(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """``[B, C, H, W]``, original timesteps ``[B]`` (0 ... 999), prior labels ``[B]`` -> ``[B, C or 2C, H, W]``."""
        ...


@dataclass(frozen=True)
class Step:
    """What a guidance sees at one denoising step."""

    index: int  # respaced index: num_steps - 1 at the first step, 0 at the last
    num_steps: int
    x_t: Tensor  # [B, C, H, W]
    x0: Tensor  # [B, C, H, W]
    alpha_bar: float  # abar_t
    noise: RowNoise  # for guidances that need draws of their own


@dataclass(frozen=True)
class Pull:
    """What a guidance asks for.

    DDPM adds ``sigma_t * scaled + plain`` to the posterior mean; DDIM adds ``scaled + plain`` to ``x0``.
    """

    scaled: Tensor | None  # [B, C, H, W]
    plain: Tensor | None  # [B, C, H, W]
    kept: Tensor | None  # [B] share of the mode vector's energy that the projector keeps, in [0, 1]


@dataclass(frozen=True)
class Anchors:
    """What the rows of a batch are guided towards."""

    prototypes: Tensor  # [B, C, H, W]
    neighbourhoods: Tensor | None  # [B, M, D] real latents of the class nearest to the prototype, nearest first


class BoundGuidance(Protocol):
    """A guidance that knows the anchors of its batch."""

    def __call__(self, step: Step) -> Pull | None:
        """The pull at this step; ``None`` where guidance does not act, which leaves the step as it is, bit for bit."""
        ...


class Guidance(Protocol):
    """A guidance method: its scientific numbers only."""

    neighbourhood: int  # real latents wanted around each prototype, 0 for none

    def bind(self, anchors: Anchors) -> BoundGuidance:
        """The guidance for one batch."""
        ...
