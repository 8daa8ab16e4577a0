r"""Local tangent spaces: the top principal directions of a few neighbours (ManifoldGD, P_T).

``K`` centred neighbours have rank at most ``K - 1``, so their principal directions are the right singular vectors of
the ``[K, D]`` factor ``A = diag(sqrt(w)) (Z - 1 w^T Z)``. The ``D x D`` covariance ``A^T A`` is never formed: either a
thin SVD of ``A``, or an eigendecomposition of the ``K x K`` Gram matrix ``A A^T``, gives the same space. The Gram route
is the default: measured on one CPU thread it takes a quarter of the time of the SVD (64 rows; K = 64, D = 512, R = 16
and K = 64, D = 4096, R = 8), and not even that where the Gram matrix is at hand.

A direction whose variance is below ``rtol`` times the largest, or below what rounding makes of equal points, is
numerically zero: it is *left out*, as a zero row, and not replaced by an arbitrary one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from manifoldgd.geometry.posterior import covariance_factors

Method = Literal["gram", "svd"]


def tangent_basis(
    neighbours: Tensor, rank: int, weights: Tensor | None = None, *, method: Method = "gram", rtol: float = 1e-5
) -> Tensor:
    """Orthonormal basis of the top principal directions of weighted neighbours.

    Args:
        neighbours: ``[B, K, D]`` float.
        rank: ``R`` in [1, K - 1].
        weights: ``[B, K]``, >= 0, rows sum to 1; ``None`` for equal weights.
        method: ``gram`` or ``svd``.
        rtol: smallest variance, relative to the largest, that counts as a direction.

    Returns:
        ``[B, R, D]``, largest variance first, zero rows for missing directions. Signs are arbitrary.
    """
    return principal_axes(neighbours, rank, weights, method=method, rtol=rtol)[0]


def principal_axes(
    neighbours: Tensor, rank: int, weights: Tensor | None = None, *, method: Method = "gram", rtol: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Principal directions of weighted neighbours, and the variance along each.

    Args:
        neighbours: see :func:`tangent_basis`, as for the others.
        rank: ``R``.
        weights: ``[B, K]``.
        method: ``gram`` or ``svd``.
        rtol: smallest variance that counts.

    Returns:
        Orthonormal ``[B, R, D]`` and variances ``[B, R]`` (of the neighbours as a population: divisor 1 for weights
        that sum to 1), largest first; zero rows and zero variances for missing directions.
    """
    count = neighbours.shape[1]
    if neighbours.ndim != 3 or not 1 <= rank < count:
        raise ValueError(f"expected neighbours [B, K, D] and 1 <= rank < K, got {tuple(neighbours.shape)}, rank {rank}")
    if weights is None:
        weights = neighbours.new_full(neighbours.shape[:2], 1 / count)
    factors = covariance_factors(neighbours, weights)
    floor = (8 * torch.finfo(factors.dtype).eps) ** 2 * neighbours.square().sum(2).amax(1)
    if method == "svd":
        _, singular, rows = torch.linalg.svd(factors, full_matrices=False)
        keep = _significant(singular.square(), rtol, floor)
        return (rows * keep[:, :, None])[:, :rank], (singular.square() * keep)[:, :rank]
    if method != "gram":
        raise ValueError(f"method: expected 'gram' or 'svd', got {method!r}")
    directions, variances = principal_directions(factors @ factors.mT, rank, floor, rtol)
    return (directions * _inverse(variances.sqrt())[:, None]).mT @ factors, variances


def project(vectors: Tensor, basis: Tensor) -> Tensor:
    """``P_T v``: ``[B, D]``, ``[B, R, D]`` -> ``[B, D]``."""
    return ((basis @ vectors[:, :, None]).mT @ basis)[:, 0]


def energy_kept(vectors: Tensor, projections: Tensor) -> Tensor:
    """``||P_T v||^2 / ||v||^2`` in [0, 1]: ``[B, D]``, ``[B, D]`` -> ``[B]``; 0 for a zero vector."""
    energy, kept = vectors.square().sum(dim=1), projections.square().sum(dim=1)
    return torch.where(energy > 0, kept / energy, torch.zeros_like(energy)).clamp(max=1)


def weighted_gram(gram: Tensor, weights: Tensor) -> Tensor:
    """Gram matrix ``A A^T`` of the weighted, centred neighbours from that of the plain ones.

    Args:
        gram: ``[B, K, K]``, ``z_i . z_j`` around any origin. For weights that all but vanish outside one neighbour,
            choose that neighbour as the origin: centring then cancels nothing.
        weights: ``[B, K]``, rows sum to 1.
    """
    to_mean = (gram @ weights[:, :, None])[:, :, 0]  # z_i . mean
    mean = (weights * to_mean).sum(dim=1)[:, None, None]
    roots = weights.sqrt()
    return roots[:, :, None] * (gram - to_mean[:, :, None] - to_mean[:, None] + mean) * roots[:, None]


def principal_directions(gram: Tensor, rank: int, floor: Tensor, rtol: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Top eigenvectors of a positive semi-definite Gram matrix.

    Args:
        gram: ``[B, K, K]``.
        rank: ``R``; at most ``K`` are returned.
        floor: ``[B]``, eigenvalues up to here are rounding errors and are set to zero.
        rtol: eigenvalues below this share of the largest are set to zero.

    Returns:
        Eigenvectors ``[B, K, R]`` and eigenvalues ``[B, R]``, largest first; eigenvalue 0 for a missing direction.
    """
    # To unit trace first: collapsed neighbourhoods would reach denormal numbers, in which eigh does not converge.
    trace = gram.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    scale = torch.where(trace > 0, trace, torch.ones_like(trace))
    values, vectors = _eigh(gram / scale)
    values, vectors = values.flip(1)[:, :rank], vectors.flip(2)[:, :, :rank]
    return vectors, values * _significant(values, rtol, floor / scale[:, 0, 0]) * scale[:, :, 0]


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.linalg.eigh`` of ``[B, K, K]``, by the processor where a GPU's libraries would take them one by one.

    They do above 32. Measured on an H100 for ``[64, 48, 48]``: 47 ms there, 12 ms by its host, both copies included.
    """
    if gram.device.type != "cuda" or gram.shape[-1] <= 32:
        return torch.linalg.eigh(gram)
    values, vectors = torch.linalg.eigh(gram.cpu())
    return values.to(gram.device), vectors.to(gram.device)


def span_coefficients(
    gram: Tensor, products: Tensor, weights: Tensor, rank: int, floor: Tensor, rtol: float = 1e-5
) -> Tensor:
    """Coefficients ``[B, K]`` for which ``P_T v = sum_i coefficient_i z_i``, without touching a ``D``-sized array.

    With ``A A^T = U L U^T`` the projection is ``P_T v = A^T U_R L_R^-1 U_R^T A v``. Everything but the last product
    with the neighbours lives in ``K`` dimensions.

    Args:
        gram: ``[B, K, K]``, ``z_i . z_j`` (see :func:`weighted_gram` for the choice of origin).
        products: ``[B, K]``, ``z_i . v``; any constant added to a row changes nothing.
        weights: ``[B, K]``, rows sum to 1.
        rank: ``R``.
        floor: ``[B]``, variances up to here are rounding errors of ``gram``.
        rtol: smallest variance, relative to the largest, that counts as a direction.

    Returns:
        Coefficients; they sum to zero, so the origin of the ``z_i`` does not matter.
    """
    return spread_along(*principal_directions(weighted_gram(gram, weights), rank, floor, rtol), products, weights)


def spread_along(directions: Tensor, variances: Tensor, products: Tensor, weights: Tensor) -> Tensor:
    """The coefficients of :func:`span_coefficients` from the principal directions of the weighted Gram matrix.

    Args:
        directions: ``[B, K, R]``, see :func:`principal_directions`.
        variances: ``[B, R]``.
        products: ``[B, K]``, ``z_i . v``.
        weights: ``[B, K]``, rows sum to 1.
    """
    roots = weights.sqrt()
    centred = roots * (products - (weights * products).sum(dim=1, keepdim=True))
    along = (directions.mT @ centred[:, :, None]) * _inverse(variances)[:, :, None]
    spread = roots * (directions @ along)[:, :, 0]
    return spread - weights * spread.sum(dim=1, keepdim=True)


def _significant(variances: Tensor, rtol: float, floor: Tensor) -> Tensor:
    """1 where a variance counts, else 0; ``[B, K]``, largest first."""
    return (variances > torch.maximum(rtol * variances[:, :1], floor[:, None])).to(variances.dtype)


def _inverse(values: Tensor) -> Tensor:
    """``1 / value``, and 0 where the value is 0."""
    return torch.where(values > 0, 1 / values.where(values > 0, torch.ones_like(values)), torch.zeros_like(values))
