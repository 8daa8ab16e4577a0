"""Clusterers that grow a bisecting k-means tree: all leaves, or a level-wise choice of nodes."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from manifoldgd.prototypes.representatives import Groups, InSpace, Representative, check_distinct, distinct_rows
from manifoldgd.prototypes.selection import coarse_to_fine, level_wise
from manifoldgd.prototypes.spaces import ClusteringSpace, check_space
from manifoldgd.prototypes.tree import BisectingTree, Criterion, Node
from manifoldgd.ranges import Range, checked

Restarts = Annotated[int, Range("[1, 1000]")]


def _of_nodes(nodes: list[Node]) -> Groups:
    return [node.members for node in nodes], [node.depth for node in nodes]


@checked
class Divisive(InSpace):
    """The leaves of a bisecting k-means tree with exactly ``ipc`` leaves, shallow before deep.

    ManifoldGD, arXiv 2602.23295, hierarchical divisive clustering.

    Args:
        criterion: Which leaf is split next: the one of largest ``sse`` or largest ``variance`` (SSE / members).
        representative: ``centroid``, ``nearest`` real latent, or a ``MeanOfNearest``.
        space: Where distances are measured: in latents or features.
        restarts: Seedings of each two-means, 1 or more.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(
        self, *, criterion: Criterion, representative: Representative, space: ClusteringSpace, restarts: Restarts
    ) -> None:
        self.criterion, self.representative, self.restarts = criterion, representative, restarts
        self.space = check_space(space)

    def groups(self, points: Tensor, ipc: int, generator: torch.Generator) -> Groups:
        """See :class:`InSpace`."""
        tree = BisectingTree.grow(points, ipc, criterion=self.criterion, generator=generator, restarts=self.restarts)
        return _of_nodes(coarse_to_fine(tree))


@checked
class LevelWise(InSpace):
    """A multi-scale choice among the nodes of a bisecting k-means tree grown past ``ipc`` leaves.

    The rule, and how it departs from the released code, is in :func:`manifoldgd.prototypes.selection.level_wise`.
    Prototypes of inner nodes stand for coarse modes and overlap with those of the leaves below them.

    Args:
        start_level: Depth of the first choice: 0 is the root, whose centroid is the class mean. The released code
            counts the same levels from 1.
        leaves_per_prototype: The tree grows to this many times ``ipc`` leaves, or to single images.
        criterion: As for :class:`Divisive`.
        representative: As for :class:`Divisive`.
        space: As for :class:`Divisive`.
        restarts: As for :class:`Divisive`.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(
        self,
        *,
        start_level: Annotated[int, Range("[0, 1000]")],
        leaves_per_prototype: Annotated[int, Range("[1, 1000]")],
        criterion: Criterion,
        representative: Representative,
        space: ClusteringSpace,
        restarts: Restarts,
    ) -> None:
        self.start_level, self.leaves_per_prototype = start_level, leaves_per_prototype
        self.criterion, self.representative, self.restarts = criterion, representative, restarts
        self.space = check_space(space)

    def groups(self, points: Tensor, ipc: int, generator: torch.Generator) -> Groups:
        """See :class:`InSpace`."""
        check_distinct(len(distinct_rows(points)), ipc, len(points))  # inner nodes could make up the number
        num_leaves = min(len(points), self.leaves_per_prototype * ipc)
        tree = BisectingTree.grow(
            points, num_leaves, criterion=self.criterion, generator=generator, restarts=self.restarts
        )
        return _of_nodes(level_wise(tree, ipc, self.start_level))
