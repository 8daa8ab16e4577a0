"""Where distances between images are measured when a class is clustered.

Two spaces are functions of the latents at hand. The features of the others take a network or the whole class, so they
are computed for all images at once (:mod:`manifoldgd.pipeline.spaces`) and handed to the clusterer. Prototypes are
latents whatever the space.

Shape letters: ``n`` images of one class, ``C, H, W`` a latent, ``D = C*H*W``, ``E`` numbers of a feature.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from manifoldgd.errors import require
from manifoldgd.ranges import Range, checked


class ClusteringSpace(ABC):
    """Points of images from their latents, or from features of theirs."""

    @property
    def features(self) -> Features | None:
        """What has to be computed of all images beforehand; ``None`` if latents will do."""
        return None

    @abstractmethod
    def __call__(self, latents: Tensor, features: Tensor | None = None) -> Tensor:
        """Points ``[n, D]`` or ``[n, E]`` float32 of a class; nothing is modified.

        Args:
            latents: ``[n, C, H, W]``.
            features: ``[n, E]`` of the same images, where the space is one of features.
        """


@dataclass(frozen=True)
class RawLatents(ClusteringSpace):
    """Flattened latents, compared cell by cell: sensitive to where things are in the picture."""

    def __call__(self, latents: Tensor, features: Tensor | None = None) -> Tensor:
        """``[n, D]``."""
        return latents.float().flatten(1)


@checked
@dataclass(frozen=True, kw_only=True)
class PooledLatents(ClusteringSpace):
    """Latents averaged over windows first, so that contents are compared at a coarser scale.

    Attributes:
        pool: side of the window in latent cells, a divisor of the latents' height and width.
    """

    pool: Annotated[int, Range("[1, 256]")]

    def __call__(self, latents: Tensor, features: Tensor | None = None) -> Tensor:
        """``[n, D / pool^2]``; raises :class:`UserError` where the window does not fit."""
        height, width = latents.shape[2:]
        require(
            height % self.pool == 0 and width % self.pool == 0,
            f"needs to divide the latent height {height} and width {width}, got {self.pool}; "
            "set it to a common divisor of the two",
            key="space.pool",
        )
        return functional.avg_pool2d(latents.float(), self.pool).flatten(1)


def check_space(space: ClusteringSpace) -> ClusteringSpace:
    """The space; raises :class:`UserError` for what is none, such as the words that named spaces before."""
    require(
        isinstance(space, ClusteringSpace),
        f"expected a space such as RawLatents() or PooledLatents(pool=2), got {space!r}; on the command line choose it "
        "with clusterer/space=NAME",
        key="space",
    )
    return space


class Features(ClusteringSpace):
    """A space whose points are computed beforehand: one of the classes below."""

    @property
    def features(self) -> Features:
        """Itself."""
        return self

    def __call__(self, latents: Tensor, features: Tensor | None = None) -> Tensor:
        """The features, ``[n, E]``.

        Raises:
            ValueError: features are missing, or not those of these images.
            UserError: a feature is not finite.
        """
        return _checked(features, len(latents))


@checked
@dataclass(frozen=True, kw_only=True)
class PrincipalComponents(Features):
    """Leading principal components of the raw latents, of each class for itself.

    The directions that tell the images of one class apart are not those that tell classes apart, and only the former
    are clustered; components of all images would spend their first directions on the latter. For ``k`` clusters the
    first ``k - 1`` components hold the continuous solution of k-means (Ding and He, *K-means Clustering via Principal
    Component Analysis*, ICML 2004), so little is lost but noise. They are not whitened: distances are those of the raw
    latents with the small directions left out.

    Args:
        components: kept, 1 or more, at most ``D`` and the images of the smallest class.

    Raises:
        UserError: the number is out of range.
    """

    components: Annotated[int, Range("[1, 65536]")]


@checked
@dataclass(frozen=True, kw_only=True)
class DenoiserFeatures(Features):
    """What the prior's own transformer makes of an image half-way through, averaged over its tokens.

    The middle of a diffusion network holds what is in a picture rather than where its pixels are (DDAE, Xiang et al.
    2023, arXiv 2303.09769), and similarity there is representativeness without another network (DAP, *Diffusion Models
    as Dataset Distillation Priors*, Su et al. 2026, arXiv 2510.17421).

    Args:
        layer: share of the transformer's blocks after which the features are taken, in (0, 1], so that one number
            serves priors of any depth: the nearest whole number of blocks, at least 1.
        timestep: of the prior's training schedule, from 0 on; the noise that the latents get.

    Raises:
        UserError: a number is out of range.
    """

    layer: Annotated[float, Range("(0, 1]")]
    timestep: Annotated[int, Range("[0, 9999]")]

    def blocks(self, available: int) -> int:
        """How many of a transformer's ``available`` blocks are gone through."""
        return max(1, round(self.layer * available))


@dataclass(frozen=True, kw_only=True)
class ClassifierEmbedding(Features):
    """Penultimate features of the small classifier trained on the real training split.

    It is the network in which the real baselines are chosen and the set metrics are measured, so those metrics flatter
    sets made with it.
    """


def _checked(features: Tensor | None, count: int) -> Tensor:
    if features is None or features.ndim != 2 or len(features) != count:
        shape = None if features is None else tuple(features.shape)
        raise ValueError(f"features: expected [n, E] of the {count} images, got {shape}")
    require(
        bool(torch.isfinite(features).all()),
        "expected finite features, got NaN or infinity; set machine.precision=32-true",
        key="space",
    )
    return features.float()


def principal_components(points: Tensor, count: int) -> Tensor:
    """Coordinates of points along the directions of largest variance, about their mean.

    Args:
        points: ``[n, D]``, not modified.
        count: Components, 1 ... min(n, D).

    Returns:
        ``[n, count]`` float32, the largest variance first; the sign of a component is arbitrary.

    Raises:
        ValueError: ``count`` is out of range.
    """
    num_points, num_dimensions = points.shape
    if not 1 <= count <= min(num_points, num_dimensions):
        raise ValueError(f"count: expected 1 ... {min(num_points, num_dimensions)}, got {count}")
    rows = points.double() - points.double().mean(0)
    # Of the two matrices with the same spectrum the smaller: a class has fewer images than a large latent has numbers.
    if num_points < num_dimensions:
        squares, left = torch.linalg.eigh(rows @ rows.T)
        scores = left * squares.clamp(min=0).sqrt()
    else:
        scores = rows @ torch.linalg.eigh(rows.T @ rows).eigenvectors
    return scores[:, -count:].flip(1).float()
