r"""The clean latent behind ``x_t`` if the data were exactly the neighbourhood's points.

Under the empirical distribution on ``z_1 ... z_M`` the posterior of the clean latent given ``x_t`` puts the weight
``w_i ~ exp(-||x_t - sqrt(abar) z_i||^2 / (2 (1 - abar)))`` on ``z_i``. Its mean is Tweedie's estimate for that
distribution, and its covariance spans the directions in which the clean latent is still undecided: broad when ``x_t``
is noisy, tight when it is clean. This estimator is not in the paper (arXiv 2602.23295); it replaces the noised
neighbourhood, whose principal directions are those of the noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_likelihoods(products: Tensor, squared_norms: Tensor, alpha_bar: float) -> Tensor:
    """``log w_i`` up to a constant of the row, from inner products alone.

    Args:
        products: ``[B, M]``, ``z_i . x_t``.
        squared_norms: ``[B, M]``, ``||z_i||^2``.
        alpha_bar: ``abar_t`` in (0, 1).

    Returns:
        ``[B, M]``; larger is nearer to ``x_t`` at that noise level.
    """
    return (math.sqrt(alpha_bar) * products - alpha_bar / 2 * squared_norms) / (1 - alpha_bar)


def posterior_weights(x_t: Tensor, neighbours: Tensor, alpha_bar: float) -> Tensor:
    """Posterior probability of each clean neighbour.

    Args:
        x_t: ``[B, D]`` noisy latents.
        neighbours: ``[B, M, D]`` clean latents.
        alpha_bar: ``abar_t`` in (0, 1).

    Returns:
        ``[B, M]``, rows sum to 1.
    """
    # Centred, the inner products are of the size of the neighbourhood and not of its distance from the origin.
    centre = neighbours.mean(dim=1, keepdim=True)
    centred = neighbours - centre
    products = (centred @ (x_t - math.sqrt(alpha_bar) * centre[:, 0])[:, :, None])[:, :, 0]
    return torch.softmax(log_likelihoods(products, centred.square().sum(-1), alpha_bar), dim=1)


def posterior_mean(neighbours: Tensor, weights: Tensor) -> Tensor:
    """``sum_i w_i z_i``: ``[B, M, D]``, ``[B, M]`` -> ``[B, D]``."""
    return (weights[:, None] @ neighbours)[:, 0]


def covariance_factors(neighbours: Tensor, weights: Tensor) -> Tensor:
    """Rows ``sqrt(w_i) (z_i - mean)`` ``[B, M, D]``, whose ``A^T A`` is the posterior covariance (never formed)."""
    return weights.sqrt()[:, :, None] * (neighbours - posterior_mean(neighbours, weights)[:, None])
