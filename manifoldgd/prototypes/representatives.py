"""From clusters to prototypes: what stands for a cluster.

Shape letters: ``n`` latents of one class, ``C, H, W`` a latent, ``D`` dimensions of the clustering space, ``ipc``
prototypes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manifoldgd.errors import require
from manifoldgd.prototypes.spaces import ClusteringSpace
from manifoldgd.ranges import Million, checked

Named = Literal["centroid", "nearest"]


@dataclass(frozen=True)
class ClassPrototypes:
    """The prototypes of one class, coarse to fine where the clusterer has an order."""

    prototypes: Tensor  # [ipc, C, H, W] float32 scaled latents
    nearest: Tensor  # [ipc] int64, distinct rows of the class's latents, closest in the clustering space
    depths: Tensor  # [ipc] int64, depth in the tree, 0 for flat clusterers
    sizes: Tensor  # [ipc] int64, latents that the prototype stands for


@checked
@dataclass(frozen=True, kw_only=True)
class MeanOfNearest:
    """Between ``nearest`` and ``centroid``: the mean of the few members of a cluster nearest to its centroid.

    A mean of a whole cluster is smoother than any real latent, one real latent has details of its own; a mean of a few
    is typical without either. The idea of averaging a few real latents around a prototype is TGDD's; here the few are
    members of the prototype's own cluster.

    Attributes:
        count: members to average, >= 1; a smaller cluster averages all of its members, which is its centroid.
    """

    count: Million

    def __call__(self, latents: Tensor, points: Tensor) -> Tensor:
        """The anchor ``[C, H, W]`` float32 of a cluster.

        Args:
            latents: ``[m, C, H, W]`` the members' full latents, which are averaged.
            points: ``[m, D]`` the members in the clustering space, where nearness is measured.
        """
        origin = points.mean(0)
        squared = (points - origin).square().sum(1)
        return latents[squared.argsort(stable=True)[: self.count]].float().mean(0)


Representative = Named | MeanOfNearest


def check_class(latents: Tensor, ipc: int) -> None:
    """Check that ``ipc`` prototypes can be made of the latents ``[n, C, H, W]`` of a class.

    Raises:
        ValueError: The shape is wrong.
        UserError: ``ipc`` is not positive or exceeds ``n``, or a latent is not finite.
    """
    if latents.ndim != 4:
        raise ValueError(f"latents: expected [n, C, H, W], got {tuple(latents.shape)}")
    require(ipc >= 1, f"ipc: expected an integer >= 1, got {ipc}; raise ipc")
    require(
        len(latents) >= ipc,
        f"ipc: needs at most as many prototypes as the class has images, got ipc={ipc} with {len(latents)} images; "
        "lower ipc or add images",
    )
    require(
        bool(torch.isfinite(latents).all()),
        "latents: expected finite numbers, got NaN or infinity; encode the images again at higher precision",
    )


def check_distinct(found: int, ipc: int, num_images: int) -> None:
    """Raise :class:`UserError` when clustering found fewer than ``ipc`` different points."""
    require(
        found >= ipc,
        f"ipc: needs at least as many different images as prototypes, got ipc={ipc} with {found} different among "
        f"{num_images} images; lower ipc or remove the copies",
    )


def distinct_rows(points: Tensor) -> Tensor:
    """Positions ``[m]`` int64, ascending, of the rows ``[n, D]`` that equal no earlier one, bit for bit."""
    first: dict[bytes, int] = {}
    for position, row in enumerate(points.numpy()):
        first.setdefault(row.tobytes(), position)
    return torch.tensor(list(first.values()), dtype=torch.int64)


def distinct_nearest(centers: Tensor, points: Tensor) -> Tensor:
    """The point nearest to each center, no point twice.

    Where two centers share a nearest point the closer one keeps it and the other takes its next nearest.

    Args:
        centers: ``[ipc, D]``.
        points: ``[n, D]`` with ``n >= ipc``.

    Returns:
        ``[ipc]`` int64 distinct rows of ``points``.

    Example:
        >>> distinct_nearest(torch.tensor([[0.2], [0.1]]), torch.tensor([[0.0], [1.0]])).tolist()
        [1, 0]
    """
    origin = points.mean(0)  # distances do not depend on it, their float32 rounding does
    distances = torch.cdist(centers - origin, points - origin)
    nearest = torch.empty(len(centers), dtype=torch.int64)
    for _ in range(len(centers)):
        center, point = divmod(int(distances.argmin()), len(points))
        nearest[center] = point
        distances[center] = torch.inf
        distances[:, point] = torch.inf
    return nearest


def represent(
    latents: Tensor,
    points: Tensor,
    clusters: Sequence[Tensor],
    *,
    representative: Representative,
    depths: Sequence[int] | None = None,
) -> ClassPrototypes:
    """Prototypes for clusters of one class.

    ``centroid`` is the mean of the members' *full* latents whatever the clustering space; ``nearest`` is the real
    latent closest, in the clustering space, to the mean of the members there; :class:`MeanOfNearest` averages the full
    latents of the few members closest to it there. In every case ``nearest`` is reported.

    Args:
        latents: ``[n, C, H, W]``.
        points: ``[n, D]``, the same images in the clustering space.
        clusters: ``ipc`` index tensors ``[m_k]`` int64, not empty; clusters may overlap.
        representative: ``"centroid"``, ``"nearest"`` or a :class:`MeanOfNearest`.
        depths: Depth of each cluster in its tree; zeros if not given.
    """
    nearest = distinct_nearest(torch.stack([points[members].mean(0) for members in clusters]), points)
    if representative == "nearest":
        prototypes = latents[nearest].float()
    elif isinstance(representative, MeanOfNearest):
        prototypes = torch.stack([representative(latents[members], points[members]) for members in clusters])
    else:
        prototypes = torch.stack([latents[members].float().mean(0) for members in clusters])
    return ClassPrototypes(
        prototypes=prototypes,
        nearest=nearest,
        depths=torch.tensor(depths or [0] * len(clusters), dtype=torch.int64),
        sizes=torch.tensor([len(members) for members in clusters], dtype=torch.int64),
    )


Groups = tuple[list[Tensor], list[int] | None]  # rows of the members of each, and depths in a tree where there is one


class InSpace(ABC):
    """A clusterer that groups the points of a space, and represents each group."""

    representative: Representative
    space: ClusteringSpace

    @abstractmethod
    def groups(self, points: Tensor, ipc: int, generator: torch.Generator) -> Groups:
        """``ipc`` groups of the points ``[n, D]`` of a class, fewer where fewer are different."""

    def __call__(
        self, latents: Tensor, ipc: int, generator: torch.Generator, features: Tensor | None = None
    ) -> ClassPrototypes:
        """Prototypes of one class from its latents ``[n, C, H, W]`` and features ``[n, E]``, which are not modified.

        Raises:
            UserError: Fewer than ``ipc`` different images, or the space does not fit the latents.
        """
        check_class(latents, ipc)
        points = self.space(latents, features)
        groups, depths = self.groups(points, ipc, generator)
        check_distinct(len(groups), ipc, len(latents))
        return represent(latents, points, groups, representative=self.representative, depths=depths)
