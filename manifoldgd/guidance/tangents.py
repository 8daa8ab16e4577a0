"""Tangent spaces of the prototypes' real neighbourhoods: the estimators that guidances project with.

What is projected lies at the noise level of ``x_t``, and so do the neighbours that matter: an estimator says whose
principal directions span the tangent space there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, Step
from manifoldgd.errors import require
from manifoldgd.geometry.neighbourhoods import Neighbourhoods
from manifoldgd.geometry.neighbours import nearest_in_cloud
from manifoldgd.geometry.tangent import project, tangent_basis
from manifoldgd.geometry.transport import carry
from manifoldgd.randomness import Generator
from manifoldgd.ranges import Range

TangentDim = Annotated[int, Range("[1, 1024]")]
Neighbours = Annotated[int, Range("[2, 2048]")]  # an eigendecomposition of this side for every latent and step
Neighbourhood = Annotated[int, Range("[2, 100000]")]  # real latents for every prototype of a batch


class Tangents(Protocol):
    """The tangent spaces of a batch."""

    def project(self, vectors: Tensor, step: Step, within: int) -> Tensor:
        """``P_T v`` of vectors ``[B, D]``, with the ``within`` real latents nearest to the prototypes."""
        ...


@dataclass(frozen=True)
class NoisedTangents:
    """As printed in the paper: every neighbour gets a noise draw of its own (``M_t = N_s + eps_t``).

    The ``K`` noisy ones nearest to ``x_t`` are used. The noise drowns the data: the directions are close to random ones
    and the projector keeps about what a random subspace keeps, so this hardly guides.
    """

    points: Tensor  # [B, M, D] real latents, those nearest to the prototype first
    neighbours: int  # K
    tangent_dim: int  # R
    generator: Generator | None = None  # None: torch's own

    def project(self, vectors: Tensor, step: Step, within: int) -> Tensor:
        """See :class:`Tangents`."""
        near = self.points[:, :within]
        noise = step.noise.normal("neighbours", step.index, near.shape[1:], self.generator)
        cloud = carry(near, step.alpha_bar, noise)
        return project_on_cloud(vectors, step.x_t.flatten(1), cloud, self.neighbours, self.tangent_dim)


@dataclass(frozen=True)
class PosteriorTangents:
    """The ``K`` neighbours nearest to ``x_t`` at its noise level, weighted by how likely each is to have produced it.

    With ``K`` equal to the neighbourhood this is the posterior covariance under the whole neighbourhood; fewer only cut
    its tail. In many dimensions one neighbour soon takes all the weight and no direction is left, so ``uniform_share``
    of the weight is spread equally: the directions that the posterior leaves open are filled with those of the clean
    neighbours. With a share of 1 all are equal, the ``clean`` estimator: in expectation the noised covariance is
    ``abar C + (1 - abar) I``, which has the same eigenvectors as the clean one, ``C``.
    """

    neighbourhoods: Neighbourhoods
    neighbours: int  # K
    tangent_dim: int  # R
    uniform_share: float  # in [0, 1]

    def project(self, vectors: Tensor, step: Step, within: int) -> Tensor:
        """See :class:`Tangents`."""
        return self.neighbourhoods.project(
            vectors,
            step.x_t.flatten(1),
            step.alpha_bar,
            within=within,
            neighbours=self.neighbours,
            rank=self.tangent_dim,
            uniform_share=self.uniform_share,
            beside=step.beside,
        )

    def project_points(self, points: Tensor, step: Step, within: int) -> Tensor:
        """The point ``[B, D]`` of each tangent plane nearest to a given one, ``mu_T + P_T (c - mu_T)``."""
        return self.neighbourhoods.project_points(
            points,
            step.x_t.flatten(1),
            step.alpha_bar,
            within=within,
            neighbours=self.neighbours,
            rank=self.tangent_dim,
            uniform_share=self.uniform_share,
        )


def bind_neighbourhoods(anchors: Anchors, size: int) -> Tensor:
    """The real neighbourhoods ``[B, size, D]`` of a batch; raises ``ValueError`` where others or none came."""
    points = anchors.neighbourhoods
    if points is None or points.ndim != 3 or points.shape[1] != size:
        came = None if points is None else tuple(points.shape)
        raise ValueError(f"neighbourhoods: expected [B, {size}, D], got {came}")
    return points


def check_tangent(tangent_dim: int, neighbours: int, among: int, name: str = "neighbourhood") -> None:
    """Raise ``UserError`` unless ``tangent_dim < neighbours <= among``, where ``name`` is what the last is called."""
    require(
        tangent_dim < neighbours,
        f"needs to be smaller than neighbours, got tangent_dim={tangent_dim}, "
        f"neighbours={neighbours}; lower tangent_dim or raise neighbours",
        key="tangent_dim",
    )
    require(
        neighbours <= among,
        f"needs to be at most {name}, got neighbours={neighbours}, {name}={among}; lower neighbours or raise {name}",
        key="neighbours",
    )


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
