"""The guidance of the released code of ManifoldGD (commit 708ce64), which is another method than the paper's.

It keeps the *whole* mode term and *adds* a pull onto the affine tangent plane of a cloud of points: the normal part of
``mu - x_t``, brought to unit length and scaled by ``manifold_scale * tanh(min_dist / distance_bandwidth)``. The cloud
holds no real data: points on small spheres around the prototype, each noised to the level of ``x_t``. Because noisy
points of a high-dimensional space are far apart, ``tanh`` is 1 in practice and the pull has length ``manifold_scale``
whatever happens. Offered so that published numbers can be chased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, Pull, Step
from manifoldgd.geometry.annealing import Annealing, annealing_multiplier
from manifoldgd.geometry.neighbours import nearest_in_cloud
from manifoldgd.geometry.tangent import project, tangent_basis
from manifoldgd.geometry.transport import carry
from manifoldgd.guidance.mode import mode_vector
from manifoldgd.guidance.tangents import Neighbours, TangentDim, check_tangent
from manifoldgd.guidance.window import Multiplier, WarmupSteps, acts
from manifoldgd.randomness import Generator
from manifoldgd.ranges import Length, Range, Share, Strength, checked

# Constants of the released code that no script of it sets.
_KERNEL: Literal["rbf"] = "rbf"
_BANDWIDTH = 1.0
_FIRST_RADIUS = 0.1


@checked
@dataclass(frozen=True, kw_only=True)
class ManifoldReleasedGuidance:
    """``scaled = scale * (c - x0)``, ``plain`` = the normal pull.

    DDPM multiplies ``scaled`` by ``sigma_t``, DDIM takes it as it is: both as released.

    Attributes:
        scale: strength of the mode term, >= 0.
        manifold_scale: length of the normal pull, >= 0, latent units. Both scales 0: the unguided run bit for bit.
        radius: of the cloud after the warm-up, > 0, latent units.
        distance_bandwidth: of the ``tanh``, > 0, latent units.
        cloud_size: points of the cloud, even.
        neighbours: cloud points nearest to ``x_t`` that span the plane.
        tangent_dim: dimension of the plane, in [1, neighbours - 1].
        annealing: ``exponential``, ``cosine`` or ``linear`` fall of the radius.
        warmup_steps: steps over which the radius falls, >= 0.
        max_multiplier: radius at the first step over ``radius``, >= 1.
        t_stop: fraction of the steps, in [0, 1], at which guidance ends.
        generator: of the cloud; ``None`` for torch's.
    """

    scale: Strength
    manifold_scale: Strength
    radius: Length
    distance_bandwidth: Length
    cloud_size: Annotated[int, Range("[2, 10000]")]  # three draws of this size for every latent of a batch
    neighbours: Neighbours
    tangent_dim: TangentDim
    annealing: Annealing
    warmup_steps: WarmupSteps
    max_multiplier: Multiplier
    t_stop: Share
    generator: Generator | None = None
    neighbourhood: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_tangent(self.tangent_dim, self.neighbours, self.cloud_size, "cloud_size")

    def radius_at(self, index: int, num_steps: int) -> float:
        """Annealed radius of the cloud at a respaced index, latent units."""
        multiplier = annealing_multiplier(
            self.annealing, index, num_steps, warmup_steps=self.warmup_steps, max_multiplier=self.max_multiplier
        )
        return self.radius * multiplier

    def bind(self, anchors: Anchors) -> BoundManifoldReleased:
        """The guidance towards ``anchors.prototypes``."""
        return BoundManifoldReleased(self, anchors.prototypes)


@dataclass(frozen=True)
class BoundManifoldReleased:
    """The released guidance for one batch; :meth:`pull` takes the cloud as an argument."""

    method: ManifoldReleasedGuidance
    prototypes: Tensor  # [B, C, H, W]

    def __call__(self, step: Step) -> Pull | None:
        """The pull with a cloud drawn from the rows' own streams."""
        idle = self.method.scale == 0 and self.method.manifold_scale == 0
        if idle or not acts(step, self.method.t_stop):
            return None
        return self.pull(step, self.draw_cloud(step) if self.method.manifold_scale > 0 else None)

    def pull(self, step: Step, cloud: Tensor | None) -> Pull:
        """The pull for a given cloud ``[B, Q, D]`` at the noise level of ``x_t``; ``None`` for the mode term alone."""
        method = self.method
        scaled = method.scale * mode_vector(step.x0, self.prototypes, _KERNEL, _BANDWIDTH)
        if cloud is None:
            return Pull(scaled=scaled, plain=None, kept=None)
        plain = normal_pull(
            step.x_t.flatten(1),
            cloud,
            neighbours=method.neighbours,
            tangent_dim=method.tangent_dim,
            scale=method.manifold_scale,
            bandwidth=method.distance_bandwidth,
        )
        return Pull(scaled=scaled, plain=plain.view_as(step.x_t), kept=None)

    def draw_cloud(self, step: Step) -> Tensor:
        """``[B, Q, D]``: points around the prototypes, each with its own noise.

        The radii run evenly from 0.1 to the annealed radius for the first half of the points and are uniform below it
        for the second, as released.
        """
        flat = self.prototypes.flatten(1)
        shape, drawn_by = (self.method.cloud_size, flat.shape[1]), self.method.generator
        radius = self.method.radius_at(step.index, step.num_steps)
        half = shape[0] // 2
        even = torch.linspace(_FIRST_RADIUS, radius, half, device=flat.device).expand(len(flat), -1)
        # The uniform draw is the normal distribution function of a normal one: the rows' streams are normal.
        normal = step.noise.normal("cloud-radius", step.index, (shape[0] - half,), drawn_by)
        radii = torch.cat([even, radius * torch.special.ndtr(normal)], dim=1)
        directions = torch.nn.functional.normalize(step.noise.normal("cloud", step.index, shape, drawn_by), dim=2)
        points = flat[:, None] + radii[:, :, None] * directions
        return carry(points, step.alpha_bar, step.noise.normal("cloud-noise", step.index, shape, drawn_by))


def normal_pull(
    x_t: Tensor,
    cloud: Tensor,
    *,
    neighbours: int,
    tangent_dim: int,
    scale: float,
    bandwidth: float,
    eps: float = 1e-8,
) -> Tensor:
    """The released manifold term: straight towards the tangent plane through the neighbours' mean.

    Args:
        x_t: ``[B, D]`` noisy latents.
        cloud: ``[B, Q, D]`` points at the same noise level.
        neighbours: ``K`` points nearest to ``x_t`` that span the plane.
        tangent_dim: ``R`` < K.
        scale: length of the pull far from the cloud.
        bandwidth: distance to the nearest point over which the pull fades.
        eps: keeps the direction finite on the plane itself.

    Returns:
        ``[B, D]`` of length ``scale * tanh(distance / bandwidth)``.
    """
    near, distances = nearest_in_cloud(x_t, cloud, neighbours)
    offset = x_t - near.mean(dim=1)
    normal = offset - project(offset, tangent_basis(near, tangent_dim))
    direction = -normal / (normal.norm(dim=1, keepdim=True) + eps)
    return scale * torch.tanh(distances[:, :1] / bandwidth) * direction
