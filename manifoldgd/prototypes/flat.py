"""Baseline clusterers without a tree: k-means, agglomerative, random."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from manifoldgd.machine import check_faiss, faiss_library
from manifoldgd.prototypes.divisive import Restarts
from manifoldgd.prototypes.representatives import (
    ClassPrototypes,
    Groups,
    InSpace,
    Representative,
    check_class,
    check_distinct,
    distinct_rows,
)
from manifoldgd.prototypes.spaces import ClusteringSpace, RawLatents, check_space
from manifoldgd.ranges import Range, checked


def kmeans_labels(
    points: Tensor, num_clusters: int, *, restarts: int, iterations: int, generator: torch.Generator
) -> Tensor:
    """Lloyd's k-means by FAISS, every cluster non-empty.

    Args:
        points: ``[n, D]`` floating point with ``n >= num_clusters``; not modified.
        num_clusters: Clusters to find.
        restarts: Random initialisations, of which the best is kept.
        iterations: Lloyd iterations of each.
        generator: Source of the seed.

    Raises:
        UserError: FAISS is not there; another k-means would find other clusters.

    Returns:
        ``[n]`` int64 labels. Fewer than ``num_clusters`` different values only when there are fewer different points.
    """
    # FAISS rejects other dtypes and layouts with an empty message; unless told otherwise it subsamples above 256 points
    # a cluster and warns below 39.
    rows = (points - points.mean(0)).float().contiguous()
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    kmeans = faiss_library().Kmeans(
        rows.shape[1],
        num_clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    kmeans.train(rows.numpy())
    _, labels = kmeans.index.search(rows.numpy(), 1)
    return _fill_empty(torch.from_numpy(labels[:, 0].copy()), rows.double(), num_clusters)


def _fill_empty(labels: Tensor, rows: Tensor, num_clusters: int) -> Tensor:
    """Give each empty cluster the point farthest from its mean; stops when every point is its cluster's mean.

    ``rows`` are float64, where the mean of copies of one float32 point is that point exactly.
    """
    for cluster in sorted(set(range(num_clusters)) - set(labels.tolist())):
        sizes = torch.bincount(labels, minlength=num_clusters)[:, None]
        sums = torch.zeros(num_clusters, rows.shape[1], dtype=rows.dtype).index_add_(0, labels, rows)
        squared = (rows - (sums / sizes)[labels]).square().sum(1)
        farthest = int(squared.argmax())
        if float(squared[farthest]) == 0:
            break
        labels[farthest] = cluster
    return labels


def _members(labels: Tensor) -> list[Tensor]:
    """Index tensors of the non-empty clusters, the largest first."""
    clusters = [torch.nonzero(labels == label).flatten() for label in labels.unique().tolist()]
    return sorted(clusters, key=len, reverse=True)


@checked
class KMeans(InSpace):
    """k-means with ``ipc`` clusters by FAISS, the largest cluster first: the clustering of MGD3 (arXiv 2505.18963).

    Args:
        restarts: Random initialisations, 1 or more, of which the best is kept.
        iterations: Lloyd iterations of each, 1 or more.
        representative: ``centroid``, ``nearest`` real latent, or a ``MeanOfNearest``.
        space: Where distances are measured: in latents or features.

    Raises:
        UserError: A value is out of range, or FAISS is not installed.
    """

    def __init__(
        self,
        *,
        restarts: Restarts,
        iterations: Annotated[int, Range("[1, 10000]")],
        representative: Representative,
        space: ClusteringSpace,
    ) -> None:
        check_faiss("clusterer: k-means", otherwise="choose clusterer=divisive")
        self.restarts, self.iterations, self.representative = restarts, iterations, representative
        self.space = check_space(space)

    def groups(self, points: Tensor, ipc: int, generator: torch.Generator) -> Groups:
        """See :class:`InSpace`."""
        labels = kmeans_labels(points, ipc, restarts=self.restarts, iterations=self.iterations, generator=generator)
        return _members(labels), None


@checked
class Agglomerative(InSpace):
    """Ward's agglomerative clustering cut at ``ipc`` clusters, the largest first.

    Its cost grows with the square of the class, so a larger class is clustered on a random subset and the other images
    join the cluster with the nearest mean.

    Args:
        representative: ``centroid``, ``nearest`` real latent, or a ``MeanOfNearest``.
        space: Where distances are measured: in latents or features.
        max_images: Largest class that is clustered as a whole; a larger class uses this many images, or ``ipc``.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(self, *, representative: Representative, space: ClusteringSpace, max_images: int = 2000) -> None:
        self.representative, self.max_images = representative, max_images
        self.space = check_space(space)

    def groups(self, points: Tensor, ipc: int, generator: torch.Generator) -> Groups:
        """See :class:`InSpace`."""
        check_distinct(len(distinct_rows(points)), ipc, len(points))
        size = max(self.max_images, ipc)
        chosen = torch.randperm(len(points), generator=generator)[:size] if len(points) > size else None
        return _members(_ward_labels(points, ipc, chosen)), None


def _ward_labels(points: Tensor, num_clusters: int, chosen: Tensor | None) -> Tensor:
    """Labels ``[n]`` from Ward's linkage of the ``chosen`` rows (all rows if ``None``)."""
    rows = points if chosen is None else points[chosen]
    if num_clusters == 1 or len(rows) == 1:
        return torch.zeros(len(points), dtype=torch.int64)
    from sklearn.cluster import AgglomerativeClustering  # here, because it takes a moment

    found = torch.from_numpy(AgglomerativeClustering(num_clusters, linkage="ward").fit_predict(rows.numpy())).long()
    if chosen is None:
        return found
    means = torch.stack([rows[found == label].mean(0) for label in range(num_clusters)])
    labels = torch.cdist(points, means).argmin(1)
    labels[chosen] = found  # so that no cluster loses its last member
    return labels


class Random:
    """``ipc`` random real latents, each standing for itself: the baseline without clustering."""

    space = RawLatents()  # nothing is compared

    def __call__(
        self, latents: Tensor, ipc: int, generator: torch.Generator, features: Tensor | None = None
    ) -> ClassPrototypes:
        """Prototypes of one class from its latents ``[n, C, H, W]`` and features ``[n, E]``, which are not modified.

        Raises:
            UserError: Fewer than ``ipc`` different images.
        """
        check_class(latents, ipc)
        rows = distinct_rows(latents.flatten(1))
        check_distinct(len(rows), ipc, len(latents))
        nearest = rows[torch.randperm(len(rows), generator=generator)[:ipc]]
        ones = torch.ones(ipc, dtype=torch.int64)
        return ClassPrototypes(latents[nearest].float(), nearest, torch.zeros_like(ones), ones)
