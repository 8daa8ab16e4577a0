"""Kernel affinities to a prototype and the factor that their gradient puts on ``x0 - c``."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Kernel = Literal["rbf", "laplace", "imq"]
KERNELS: tuple[str, ...] = get_args(Kernel)


def kernel_factor(kind: Kernel, difference: Tensor, bandwidth: float, eps: float = 1e-8) -> Tensor:
    """The factor ``phi < 0`` for which ``phi * (x0 - c)`` points uphill on the log-affinity (ManifoldGD, g_mode).

    RBF ``-1 / bandwidth^2``, Laplace ``-1 / (bandwidth * r)``, inverse multiquadric ``-1 / (r^2 + bandwidth^2)``, with
    ``r = ||x0 - c||`` over the whole latent.

    Args:
        kind: kernel.
        difference: ``[B, ...]``, ``x0 - c`` in scaled latents.
        bandwidth: ``sigma`` of RBF and Laplace, the constant ``s`` of the inverse multiquadric; > 0, latent units.
        eps: keeps Laplace finite at the prototype itself, where its gradient is not defined.

    Returns:
        ``[B]``.
    """
    radius = difference.flatten(1).norm(dim=1)
    if kind == "rbf":
        return torch.full_like(radius, -1 / bandwidth**2)
    if kind == "laplace":
        return -1 / (bandwidth * (radius + eps))
    if kind == "imq":
        return -1 / (radius.square() + bandwidth**2)
    raise ValueError(f"kind: expected one of {KERNELS}, got {kind!r}")
