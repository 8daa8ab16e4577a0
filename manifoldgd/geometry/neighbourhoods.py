"""The clean neighbourhoods of a batch, prepared once so that tangent projections at every step are cheap.

Clean neighbours do not change while a batch is sampled, only their weights do. So the ``M x M`` Gram matrix of each
neighbourhood is computed once, and a step costs two passes over the ``[B, M, D]`` neighbours and arithmetic in at most
``K`` dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from manifoldgd.geometry.posterior import log_likelihoods
from manifoldgd.geometry.tangent import principal_directions, span_coefficients, spread_along, weighted_gram

# Neighbours with less than this share of the largest weight add no direction that `rtol` would let through.
_NEGLIGIBLE = 1e-8


class Neighbourhoods:
    """Neighbourhoods ``[B, M, D]`` of clean latents, nearest to their prototype first."""

    def __init__(self, points: Tensor) -> None:
        if points.ndim != 3:
            raise ValueError(f"points: expected [B, M, D], got {tuple(points.shape)}")
        self.centre = points.mean(dim=1)
        self.centred = points - self.centre[:, None]
        self.gram = self.centred @ self.centred.mT
        # Differences of its entries are uncertain by this much: copies of one image span no direction.
        self.floor = 4 * torch.finfo(points.dtype).eps * self.gram.diagonal(dim1=1, dim2=2).amax(1)

    def project(
        self,
        vectors: Tensor,
        x_t: Tensor,
        alpha_bar: float,
        *,
        within: int,
        neighbours: int,
        rank: int,
        uniform_share: float,
        beside: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> Tensor:
        """Project vectors on the tangent spaces at the noise level of ``x_t``.

        Of the ``within`` points nearest to the prototype the ``neighbours`` nearest to ``x_t`` at that noise level are
        taken, those most likely to have produced it; their principal directions span the tangent space.

        Args:
            vectors: ``[B, D]`` to project.
            x_t: ``[B, D]`` noisy latents.
            alpha_bar: ``abar_t`` in (0, 1).
            within: size of the (annealed) neighbourhood, at most ``M``.
            neighbours: ``K``, at most ``within``.
            rank: ``R``, below ``K``.
            uniform_share: share of the weight that is spread equally, in [0, 1]; the rest follows the neighbours'
                posterior probabilities. 1 is the ``clean`` estimator, 0 the posterior alone.
            beside: where the principal directions are found, which ``x_t`` decides alone; ``None`` for right here.

        Returns:
            ``[B, D]``.
        """
        if beside is not None:
            points = self.centred[:, :within]
            with beside():
                products = (points @ (x_t - math.sqrt(alpha_bar) * self.centre)[:, :, None])[:, :, 0]
                chosen, weights = self._weighted(products, alpha_bar, neighbours, uniform_share)
                spectrum = principal_directions(
                    weighted_gram(self._gram_around_first(chosen), weights), rank, self.floor
                )
            along = (points @ vectors[:, :, None])[:, :, 0].gather(1, chosen)
            return self._combined(chosen, spread_along(*spectrum, along, weights), within)
        chosen, weights, along = self._likeliest(vectors, x_t, alpha_bar, within, neighbours, uniform_share)
        coefficients = span_coefficients(self._gram_around_first(chosen), along, weights, rank, self.floor)
        return self._combined(chosen, coefficients, within)

    def project_points(
        self,
        points: Tensor,
        x_t: Tensor,
        alpha_bar: float,
        *,
        within: int,
        neighbours: int,
        rank: int,
        uniform_share: float,
    ) -> Tensor:
        """The point of each tangent *plane* nearest to a given one: ``mu_T + P_T (c - mu_T)``.

        ``P_T`` is that of :meth:`project`, and ``mu_T`` the mean of the same neighbours under the same weights, through
        which the plane goes.

        Args:
            points: ``[B, D]``, ``c``.
            x_t: ``[B, D]`` noisy latents.
            alpha_bar: see :meth:`project`, as for the others.
            within: size of the neighbourhood.
            neighbours: ``K``.
            rank: ``R``.
            uniform_share: of the weight.

        Returns:
            ``[B, D]``.
        """
        offsets = points - self.centre
        chosen, weights, along = self._likeliest(offsets, x_t, alpha_bar, within, neighbours, uniform_share)
        to_mean = (self._gram_of(chosen) @ weights[:, :, None])[:, :, 0]
        gram = self._gram_around_first(chosen)
        coefficients = weights + span_coefficients(gram, along - to_mean, weights, rank, self.floor)
        return self.centre + self._combined(chosen, coefficients, within)

    def _likeliest(
        self, vectors: Tensor, x_t: Tensor, alpha_bar: float, within: int, neighbours: int, uniform_share: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows ``[B, K]`` of the neighbours nearest to ``x_t``, their weights, and their products with ``vectors``."""
        around = x_t - math.sqrt(alpha_bar) * self.centre
        products = self.centred[:, :within] @ torch.stack([around, vectors], dim=2)  # [B, within, 2]
        chosen, weights = self._weighted(products[:, :, 0], alpha_bar, neighbours, uniform_share)
        return chosen, weights, products[:, :, 1].gather(1, chosen)

    def _weighted(
        self, products: Tensor, alpha_bar: float, neighbours: int, uniform_share: float
    ) -> tuple[Tensor, Tensor]:
        """Rows ``[B, K]`` of the neighbours nearest to ``x_t`` and their weights, from the products ``[B, within]``."""
        norms = self.gram.diagonal(dim1=1, dim2=2)[:, : products.shape[1]]
        values, chosen = log_likelihoods(products, norms, alpha_bar).topk(neighbours, dim=1)
        weights = (1 - uniform_share) * torch.softmax(values, dim=1) + uniform_share / neighbours
        weights = _without_negligible(weights) if uniform_share == 0 else weights
        return chosen[:, : weights.shape[1]], weights

    def _combined(self, chosen: Tensor, coefficients: Tensor, within: int) -> Tensor:
        """``[B, D]``: the chosen neighbours, around the centre, times their coefficients ``[B, K]``."""
        spread = torch.zeros_like(self.gram[:, 0, :within]).scatter(1, chosen, coefficients)
        return (spread[:, None] @ self.centred[:, :within])[:, 0]

    def _gram_of(self, chosen: Tensor) -> Tensor:
        """Gram matrix ``[B, K, K]`` of the chosen points around the centre."""
        size = self.gram.shape[1]
        pairs = (chosen[:, :, None] * size + chosen[:, None]).flatten(1)
        return self.gram.flatten(1).gather(1, pairs).view(*chosen.shape, chosen.shape[1])

    def _gram_around_first(self, chosen: Tensor) -> Tensor:
        """Gram matrix ``[B, K, K]`` of the chosen points with the first, the most likely one, as origin."""
        gram = self._gram_of(chosen)
        return gram - gram[:, :1] - gram[:, :, :1] + gram[:, :1, :1]


def _without_negligible(weights: Tensor) -> Tensor:
    """Weights ``[B, K]`` (largest first) cut to those that count in some row, in eights, and summing to 1 again."""
    counts = int((weights > _NEGLIGIBLE * weights[:, :1]).sum(dim=1).max())
    kept = weights[:, : min(-(-counts // 8) * 8, weights.shape[1])]
    return kept / kept.sum(dim=1, keepdim=True)
