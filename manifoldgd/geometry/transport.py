"""Clean latents carried to a noise level, so that they can be compared with ``x_t``."""

from __future__ import annotations

import math

from torch import Tensor


def carry(clean: Tensor, alpha_bar: float, noise: Tensor | None = None) -> Tensor:
    """Bring clean latents to the noise level of ``x_t``.

    With ``noise`` this is the forward process, ``sqrt(abar) z + sqrt(1 - abar) eps`` (ManifoldGD's ``M_t``). Without
    it, the mean of that process: where the latent would lie, not one random place near it.

    Args:
        clean: ``[...]`` scaled latents.
        alpha_bar: ``abar_t`` in (0, 1].
        noise: standard normal draws, shape of ``clean``.
    """
    carried = math.sqrt(alpha_bar) * clean
    return carried if noise is None else carried + math.sqrt(1 - alpha_bar) * noise
