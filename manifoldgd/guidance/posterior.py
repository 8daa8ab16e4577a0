"""Posterior guidance: every row is pulled towards what its prototype's real neighbourhood says about it now.

A prototype is the same target at every noise level. Here the target is the posterior mean of the clean latent given
``x_t`` under the real latents around the prototype (:mod:`manifoldgd.geometry.posterior`): their average while ``x_t``
is noisy, the real latent nearest to it when it is clean. ``x0`` is the same mean under the prior, so the pull has the
direction of the difference of the two scores, and it vanishes for a prior that knows the neighbourhood. This is not in
the paper (arXiv 2602.23295).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, Pull, Step
from manifoldgd.geometry.neighbourhoods import Neighbourhoods
from manifoldgd.geometry.posterior import posterior_mean, posterior_weights
from manifoldgd.geometry.tangent import energy_kept
from manifoldgd.guidance.tangents import (
    Neighbourhood,
    Neighbours,
    PosteriorTangents,
    TangentDim,
    Tangents,
    bind_neighbourhoods,
    check_tangent,
)
from manifoldgd.guidance.window import acts
from manifoldgd.ranges import Share, Strength, checked


@checked
@dataclass(frozen=True, kw_only=True)
class PosteriorGuidance:
    """``pull = scale * v + tangent_scale * P_T v`` with ``v = m_t - x0`` and ``m_t`` the posterior mean.

    ``P_T`` is that of the ``posterior`` estimator of :class:`manifoldgd.guidance.manifold.ManifoldGuidance` over the
    whole neighbourhood. It shortens the vector, so the projected vector has a strength of its own; with ``scale`` 0 it
    stands alone. Where ``tangent_scale`` is 0 nothing is projected and the numbers of the tangent space are idle.

    Attributes:
        scale: strength of the whole vector, >= 0.
        tangent_scale: strength of the projected vector, >= 0; both 0 is the unguided run bit for bit.
        neighbourhood: ``M``, real latents of the class nearest to the prototype.
        tangent_dim: ``R``, dimension of the tangent space, in [1, neighbours - 1].
        neighbours: ``K``, in [tangent_dim + 1, neighbourhood]; the mean is always that of all ``M``.
        uniform_share: of the weights that make the tangent space, in [0, 1], not of those that make the mean.
        t_stop: fraction of the steps, in [0, 1], at which guidance ends.
    """

    scale: Strength
    tangent_scale: Strength
    neighbourhood: Neighbourhood
    tangent_dim: TangentDim
    neighbours: Neighbours
    uniform_share: Share
    t_stop: Share

    def __post_init__(self) -> None:
        check_tangent(self.tangent_dim, self.neighbours, self.neighbourhood)

    def bind(self, anchors: Anchors) -> _BoundPosterior:
        """The guidance into ``anchors.neighbourhoods`` ``[B, M, D]``; the prototypes themselves are not looked at."""
        points = bind_neighbourhoods(anchors, self.neighbourhood)
        numbers = self.neighbours, self.tangent_dim, self.uniform_share
        tangents = PosteriorTangents(Neighbourhoods(points), *numbers) if self.tangent_scale > 0 else None
        return _BoundPosterior(self, points, tangents)


@dataclass(frozen=True)
class _BoundPosterior:
    method: PosteriorGuidance
    points: Tensor  # [B, M, D]
    tangents: Tangents | None  # None where nothing is projected

    def __call__(self, step: Step) -> Pull | None:
        method = self.method
        if (method.scale == 0 and method.tangent_scale == 0) or not acts(step, method.t_stop):
            return None
        weights = posterior_weights(step.x_t.flatten(1), self.points, step.alpha_bar)
        vectors = posterior_mean(self.points, weights) - step.x0.flatten(1)
        pull, kept = method.scale * vectors, None
        if self.tangents is not None:
            projected = self.tangents.project(vectors, step, method.neighbourhood)
            pull, kept = pull + method.tangent_scale * projected, energy_kept(vectors, projected)
        return Pull(scaled=pull.view_as(step.x0), plain=None, kept=kept)
