"""Manifold guidance: the mode vector without its part normal to the local manifold (ManifoldGD, arXiv 2602.23295).

``g = g_mode - P_N g_mode = P_T g_mode``, with ``P_T`` the projector on the top ``R`` principal directions of the ``K``
nearest neighbours of ``x_t`` in the prototype's neighbourhood. The neighbours are real latents of the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, Pull, Step
from manifoldgd.geometry.annealing import Annealing, annealing_multiplier
from manifoldgd.geometry.kernels import Kernel
from manifoldgd.geometry.neighbourhoods import Neighbourhoods
from manifoldgd.geometry.neighbours import nearest_in_cloud
from manifoldgd.geometry.tangent import energy_kept, project, tangent_basis
from manifoldgd.geometry.transport import carry
from manifoldgd.guidance.mode import mode_vector
from manifoldgd.guidance.window import (
    Multiplier,
    Neighbourhood,
    Neighbours,
    TangentDim,
    WarmupSteps,
    acts,
    check_tangent,
)
from manifoldgd.ranges import Length, Share, Strength, checked

Estimator = Literal["noised", "clean", "posterior"]


@checked
@dataclass(frozen=True, kw_only=True)
class ManifoldGuidance:
    """``pull = scale * P_T g_mode``.

    The estimators differ in what the principal directions are taken of:

    * ``noised``: as printed in the paper, every neighbour gets a noise draw of its own (``M_t = N_s + eps_t``) and the
      ``K`` noisy ones nearest to ``x_t`` are used. The noise drowns the data: the directions are close to random ones
      and the projector keeps about what a random subspace keeps, so this hardly guides.
    * ``clean``: the ``K`` neighbours nearest to ``x_t`` at its noise level, without noise, all equal. In expectation
      the noised covariance is ``abar C + (1 - abar) I``, which has the same eigenvectors as the clean one, ``C``.
    * ``posterior``: the same, weighted by how likely each is to have produced ``x_t``. With ``neighbours`` equal to
      ``neighbourhood`` this is the posterior covariance under the whole neighbourhood; fewer only cut its tail. In many
      dimensions one neighbour soon takes all the weight and no direction is left, so ``uniform_share`` of the weight is
      spread equally: the directions that the posterior leaves open are filled with those of the clean neighbours.

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
    features: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_tangent(self.tangent_dim, self.neighbours, self.neighbourhood, "guidance.neighbourhood")

    def size_at(self, index: int, num_steps: int) -> int:
        """Annealed size of the neighbourhood at a respaced index, in [neighbours, neighbourhood]."""
        multiplier = annealing_multiplier(
            self.annealing, index, num_steps, warmup_steps=self.warmup_steps, max_multiplier=self.max_multiplier
        )
        return max(self.neighbours, round(self.neighbourhood * multiplier / self.max_multiplier))

    @property
    def equal_share(self) -> float:
        """What of the neighbours' weight is spread equally: all of it for ``clean``."""
        return 1.0 if self.estimator == "clean" else self.uniform_share

    def bind(self, anchors: Anchors) -> _BoundManifold:
        """The guidance towards ``anchors.prototypes`` along ``anchors.neighbourhoods`` ``[B, M, D]``."""
        points = bind_neighbourhoods(anchors, self.neighbourhood)
        # The noised estimator needs the points alone; the others, their Gram matrices too.
        prepared = None if self.estimator == "noised" or self.scale == 0 else Neighbourhoods(points)
        return _BoundManifold(self, anchors.prototypes, points, prepared)


@dataclass(frozen=True)
class _BoundManifold:
    method: ManifoldGuidance
    prototypes: Tensor  # [B, C, H, W]
    points: Tensor  # [B, M, D]
    prepared: Neighbourhoods | None

    def __call__(self, step: Step) -> Pull | None:
        method = self.method
        if method.scale == 0 or not acts(step, method.t_stop):
            return None
        vectors = mode_vector(step.x0, self.prototypes, method.kernel, method.bandwidth).flatten(1)
        projected = self._project(vectors, step)
        pull = (method.scale * projected).view_as(step.x0)
        return Pull(scaled=pull, plain=None, kept=energy_kept(vectors, projected))

    def _project(self, vectors: Tensor, step: Step) -> Tensor:
        method, x_t = self.method, step.x_t.flatten(1)
        size = method.size_at(step.index, step.num_steps)
        if self.prepared is not None:
            return self.prepared.project(
                vectors,
                x_t,
                step.alpha_bar,
                within=size,
                neighbours=method.neighbours,
                rank=method.tangent_dim,
                uniform_share=method.equal_share,
                beside=step.beside,
            )
        near = self.points[:, :size]
        noise = step.noise.normal("neighbours", step.index, near.shape[1:])
        return project_on_cloud(vectors, x_t, carry(near, step.alpha_bar, noise), method.neighbours, method.tangent_dim)


def bind_neighbourhoods(anchors: Anchors, size: int) -> Tensor:
    """The real neighbourhoods ``[B, size, D]`` of a batch; raises ``ValueError`` where others or none came."""
    points = anchors.neighbourhoods
    if points is None or points.ndim != 3 or points.shape[1] != size:
        came = None if points is None else tuple(points.shape)
        raise ValueError(f"neighbourhoods: expected [B, {size}, D], got {came}")
    return points


def project_on_cloud(vectors: Tensor, x_t: Tensor, cloud: Tensor, neighbours: int, tangent_dim: int) -> Tensor:
    """``P_T v`` with the principal directions of the cloud points nearest to ``x_t`` (the paper's formula).

    Args:
        vectors: ``[B, D]`` to project.
        x_t: ``[B, D]``.
        cloud: ``[B, M, D]``, at the noise level of ``x_t``.
        neighbours: ``K`` in [tangent_dim + 1, M].
        tangent_dim: ``R``.

    Returns:
        ``[B, D]``.
    """
    near, _ = nearest_in_cloud(x_t, cloud, neighbours)
    # The spectrum of noise is nearly flat, so little separates the last direction kept from the first left out: single
    # precision would blur it. Apple's devices have no other.
    near = near if near.device.type == "mps" else near.double()
    return project(vectors, tangent_basis(near, tangent_dim).to(vectors.dtype))
