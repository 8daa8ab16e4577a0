"""Manifold guidance: the mode vector without its part normal to the local manifold (ManifoldGD, arXiv 2602.23295).

``g = g_mode - P_N g_mode = P_T g_mode``, with ``P_T`` the projector on the top ``R`` principal directions of the ``K``
nearest neighbours of ``x_t`` in the prototype's neighbourhood. The neighbours are real latents of the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, BoundGuidance, Pull, Step
from manifoldgd.geometry.annealing import Annealing, annealing_multiplier
from manifoldgd.geometry.kernels import Kernel
from manifoldgd.geometry.neighbourhoods import Neighbourhoods
from manifoldgd.geometry.tangent import energy_kept
from manifoldgd.guidance.mode import mode_vector
from manifoldgd.guidance.tangents import (
    Neighbourhood,
    Neighbours,
    NoisedTangents,
    PosteriorTangents,
    TangentDim,
    Tangents,
    bind_neighbourhoods,
    check_tangent,
)
from manifoldgd.guidance.window import Multiplier, WarmupSteps, acts
from manifoldgd.randomness import Generator
from manifoldgd.ranges import Length, Share, Strength, checked

Estimator = Literal["noised", "clean", "posterior"]


@checked
@dataclass(frozen=True, kw_only=True)
class ManifoldGuidance:
    """``pull = scale * P_T g_mode``.

    The estimators differ in what the principal directions are taken of: ``noised`` is the paper's
    (:class:`~manifoldgd.guidance.tangents.NoisedTangents`), ``clean`` and ``posterior`` take the neighbours as they
    are, all equal or weighted (:class:`~manifoldgd.guidance.tangents.PosteriorTangents`).

    Where the paper shrinks a *radius* over the first steps, here the *number* of neighbours shrinks, from
    ``neighbourhood`` by the same law to ``neighbourhood / max_multiplier`` but never below ``neighbours``: latents of
    different priors have different scales, counts mean the same everywhere.

    Attributes:
        scale: strength, >= 0; 0 is the unguided run bit for bit.
        estimator: ``noised``, ``clean`` or ``posterior``.
        tangent_dim: ``R``, dimension of the tangent space, in [1, neighbours - 1].
        neighbours: ``K``, in [tangent_dim + 1, neighbourhood].
        neighbourhood: ``M``, real latents of the class nearest to the prototype, at the first step.
        annealing: ``exponential``, ``cosine`` or ``linear``.
        warmup_steps: steps over which the neighbourhood shrinks, >= 0; 0 shrinks it at once.
        max_multiplier: size at the first step over size after the warm-up, >= 1; 1 is no annealing.
        uniform_share: of the ``posterior`` weights, in [0, 1]; 1 is ``clean``. The other estimators ignore it.
        kernel: ``rbf``, ``laplace`` or ``imq``.
        bandwidth: of the kernel, > 0, latent units.
        t_stop: fraction of the steps, in [0, 1], at which guidance ends.
        generator: of the ``noised`` neighbours' noise; ``None`` for torch's. The other estimators draw none.
    """

    scale: Strength
    estimator: Estimator
    tangent_dim: TangentDim
    neighbours: Neighbours
    neighbourhood: Neighbourhood
    annealing: Annealing
    warmup_steps: WarmupSteps
    max_multiplier: Multiplier
    uniform_share: Share
    kernel: Kernel
    bandwidth: Length
    t_stop: Share
    generator: Generator | None = None

    def __post_init__(self) -> None:
        check_tangent(self.tangent_dim, self.neighbours, self.neighbourhood)

    def size_at(self, index: int, num_steps: int) -> int:
        """Annealed size of the neighbourhood at a respaced index, in [neighbours, neighbourhood]."""
        multiplier = annealing_multiplier(
            self.annealing, index, num_steps, warmup_steps=self.warmup_steps, max_multiplier=self.max_multiplier
        )
        return max(self.neighbours, round(self.neighbourhood * multiplier / self.max_multiplier))

    def tangents(self, points: Tensor) -> Tangents:
        """The tangent spaces that the estimator finds in real neighbourhoods ``[B, M, D]``."""
        if self.estimator == "noised":
            return NoisedTangents(points, self.neighbours, self.tangent_dim, self.generator)
        return self.posterior_tangents(points)

    def posterior_tangents(self, points: Tensor) -> PosteriorTangents:
        """Those of the ``clean`` and the ``posterior`` estimator."""
        share = 1.0 if self.estimator == "clean" else self.uniform_share
        return PosteriorTangents(Neighbourhoods(points), self.neighbours, self.tangent_dim, share)

    def bind(self, anchors: Anchors) -> BoundGuidance:
        """The guidance towards ``anchors.prototypes`` along ``anchors.neighbourhoods`` ``[B, M, D]``."""
        points = bind_neighbourhoods(anchors, self.neighbourhood)
        return _BoundManifold(self, anchors.prototypes, self.tangents(points) if self.scale > 0 else None)


@dataclass(frozen=True)
class _BoundManifold:
    method: ManifoldGuidance
    prototypes: Tensor  # [B, C, H, W]
    tangents: Tangents | None  # None where the scale is 0

    def __call__(self, step: Step) -> Pull | None:
        method = self.method
        if self.tangents is None or not acts(step, method.t_stop):
            return None
        vectors = mode_vector(step.x0, self.prototypes, method.kernel, method.bandwidth).flatten(1)
        projected = self.tangents.project(vectors, step, method.size_at(step.index, step.num_steps))
        pull = (method.scale * projected).view_as(step.x0)
        return Pull(scaled=pull, plain=None, kept=energy_kept(vectors, projected))
