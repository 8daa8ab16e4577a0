"""Projected-target guidance: the prototype is moved onto the tangent plane, and the pull to it is left whole.

Manifold guidance (ManifoldGD, arXiv 2602.23295) projects the *vector* to the prototype on the tangent directions. On
the bundled latents that removes about two thirds of the pull, most of it along directions in which the class varies,
among them the one to the neighbourhood's own mean: principal directions are taken around that mean and know nothing of
it. Here the *target* is projected instead, on the affine plane through the mean. What is normal to the plane is taken
from the prototype, not from the way there. This is not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, BoundGuidance, Pull, Step
from manifoldgd.errors import require
from manifoldgd.guidance.manifold import ManifoldGuidance
from manifoldgd.guidance.mode import mode_vector
from manifoldgd.guidance.tangents import PosteriorTangents, bind_neighbourhoods
from manifoldgd.guidance.window import acts
from manifoldgd.ranges import checked


@checked
@dataclass(frozen=True, kw_only=True)
class ProjectedTargetGuidance(ManifoldGuidance):
    """``pull = scale * g_mode`` towards ``c' = mu_T + P_T (c - mu_T)``.

    ``P_T`` and ``mu_T`` are the tangent directions and the mean of the same ``neighbours`` under the same weights, all
    equal (``clean``) or posterior ones (``posterior``). The numbers are those of manifold guidance; its ``noised``
    estimator has no plane worth the name.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.estimator != "noised",
            "a target is projected by clean or posterior, got noised; choose one of these",
            key="estimator",
        )

    def bind(self, anchors: Anchors) -> BoundGuidance:
        """The guidance towards ``anchors.prototypes`` on the planes of ``anchors.neighbourhoods`` ``[B, M, D]``."""
        points = bind_neighbourhoods(anchors, self.neighbourhood)
        tangents = self.posterior_tangents(points) if self.scale > 0 else None
        return _BoundProjectedTarget(self, anchors.prototypes, tangents)


@dataclass(frozen=True)
class _BoundProjectedTarget:
    method: ProjectedTargetGuidance
    prototypes: Tensor  # [B, C, H, W]
    tangents: PosteriorTangents | None  # None where the scale is 0

    def __call__(self, step: Step) -> Pull | None:
        method = self.method
        if self.tangents is None or not acts(step, method.t_stop):
            return None
        within = method.size_at(step.index, step.num_steps)
        target = self.tangents.project_points(self.prototypes.flatten(1), step, within)
        vector = mode_vector(step.x0, target.view_as(step.x0), method.kernel, method.bandwidth)
        return Pull(scaled=method.scale * vector, plain=None, kept=None)
