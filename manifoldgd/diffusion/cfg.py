"""Denoisers made of another denoiser: classifier-free guidance, and a batch taken in parts.

Source: Ho and Salimans, *Classifier-Free Diffusion Guidance*, 2022, equation 6, written with the weight ``s = 1 + w``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import Denoiser
from manifoldgd.memory import AtOnce


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """Moves the noise prediction away from the one without a class: ``eps_null + scale * (eps_class - eps_null)``.

    Both predictions come from one batch of ``2B`` rows. At scale 1 the unconditional one has weight zero and is not
    computed. Learned-variance channels are always those of the conditional prediction.

    Attributes:
        denoiser: the network.
        scale: guidance scale, 1 is the plain conditional model.
        null_class: label that stands for no class.
        channels: number of leading latent channels to guide, the others keep the conditional prediction; ``None`` for
            all. DiT's released sampler guides 3 of its 4 channels, and so does the released code of ManifoldGD;
            diffusers' ``DiTPipeline`` guides all.
    """

    denoiser: Denoiser
    scale: float
    null_class: int
    channels: int | None

    def __call__(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """``[B, C, H, W]``, original timesteps ``[B]``, prior labels ``[B]`` -> ``[B, C or 2C, H, W]``."""
        guided = x_t.shape[1] if self.channels is None else self.channels
        if not 1 <= guided <= x_t.shape[1]:
            raise ValueError(f"channels: expected 1 to {x_t.shape[1]} latent channels or None, got {self.channels}")
        if self.scale == 1:
            return self.denoiser(x_t, timesteps, labels)
        null = torch.full_like(labels, self.null_class)
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([timesteps, timesteps]), torch.cat([labels, null]))
        conditional, unconditional = both.chunk(2)
        noise = unconditional[:, :guided] + self.scale * (conditional[:, :guided] - unconditional[:, :guided])
        return torch.cat([noise, conditional[:, guided:]], dim=1)


class InParts:
    """Takes a large batch a part at a time: rows do not see one another, so only memory depends on it.

    Args:
        denoiser: the network.
        rows: at once, >= 1; fewer from where they did not fit (:class:`manifoldgd.memory.AtOnce`).
    """

    def __init__(self, denoiser: Denoiser, rows: int) -> None:
        self.denoiser, self._at_once = denoiser, AtOnce(rows, "sampling")

    def __call__(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """``[B, C, H, W]``, original timesteps ``[B]``, prior labels ``[B]`` -> ``[B, C or 2C, H, W]``."""
        return self._at_once(self.denoiser, x_t, timesteps, labels)
