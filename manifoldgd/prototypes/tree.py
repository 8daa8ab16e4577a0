"""The bisecting (divisive) k-means tree of one class.

The multi-scale structure behind the paper's IPC centroids (ManifoldGD, arXiv 2602.23295, hierarchical divisive
clustering): coarse modes near the root, fine ones at the leaves.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from manifoldgd.prototypes.bisection import bisect

Criterion = Literal["sse", "variance"]


@dataclass(eq=False)
class Node:
    """A cluster of the tree; ``depth`` 0 is the root. ``m`` members in ``D`` dimensions."""

    members: Tensor  # [m] int64, ascending, rows of the points the tree was grown on
    center: Tensor  # [D] float32, mean of the members
    sse: float  # sum of squared distances of the members to the center
    depth: int
    parent: Node | None = field(default=None, repr=False)
    children: tuple[Node, Node] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.members)


class BisectingTree:
    """State of divisive clustering: nodes in order of creation, of which those without children are the leaves."""

    def __init__(self, points: Tensor) -> None:
        """Start with one leaf that holds all ``points`` ``[n, D]``; they are copied in float32, never modified."""
        if points.ndim != 2 or not len(points):
            raise ValueError(f"points: expected [n, D] with n >= 1, got {tuple(points.shape)}")
        # Distances do not depend on the origin, but float32 products resolve them best when it is the mean.
        self._origin = points.mean(0, dtype=torch.float64)
        self._points = (points - self._origin.to(points.dtype)).float()
        self._nodes: list[Node] = []
        self._add(torch.arange(len(points)), depth=0, parent=None)

    @classmethod
    def grow(
        cls,
        points: Tensor,
        num_leaves: int,
        *,
        criterion: Criterion,
        generator: torch.Generator,
        restarts: int = 10,
        trials: int | None = None,
    ) -> BisectingTree:
        """Split the leaf that scores highest until there are ``num_leaves`` leaves.

        The score is a leaf's SSE, or its variance: SSE / m, the mean squared distance to the center. (The released
        code's ``var`` is the variance of all *entries* of the cluster's matrix, which also counts how much the
        coordinates of the center differ among themselves: small clusters far from the origin outrank broad ones near
        it, and its trees peel off single points. Ours does not depend on the origin.)

        Splitting is greedy, so among near-equal splits the later ones are luck. Where points are few that is worth
        several per cent of the total SSE, and trees cost milliseconds: the best of ``trials`` is returned.

        Args:
            points: ``[n, D]`` floating point, not modified.
            num_leaves: Leaves to grow, 1 ... n.
            criterion: ``"sse"`` or ``"variance"``.
            generator: Source of every draw.
            restarts: Seedings of each two-means.
            trials: Trees to choose from by total SSE; by default 8 up to 250 points, falling to 1 from 2,000 on.

        Returns:
            The tree. It has fewer leaves than asked for when the points hold fewer distinct values: copies of one
            point cannot be split.

        Raises:
            ValueError: A shape or number is out of range.
        """
        if criterion not in get_args(Criterion):
            raise ValueError(f"criterion: expected one of {get_args(Criterion)}, got {criterion!r}")
        if not 1 <= num_leaves <= len(points):
            raise ValueError(f"num_leaves: expected 1 ... {len(points)} (the points), got {num_leaves}")
        trials = trials or max(1, min(8, 2000 // len(points)))
        grown = [cls(points)._grown(num_leaves, criterion, generator, restarts) for _ in range(trials)]
        return min(grown, key=cls.total_sse)

    def leaves(self) -> list[Node]:
        """Nodes without children, in order of creation."""
        return [node for node in self._nodes if node.children is None]

    def nodes(self) -> list[Node]:
        """All nodes in order of creation, the root first, parents before children."""
        return list(self._nodes)

    def total_sse(self) -> float:
        """Sum of squared distances of all points to the center of their leaf."""
        return sum(leaf.sse for leaf in self.leaves())

    def split(self, node: Node, *, restarts: int, generator: torch.Generator) -> tuple[Node, Node]:
        """Bisect a leaf; its children, the larger first.

        Raises:
            ValueError: The node has children already, or its members are copies of one point.
        """
        if node.children is not None or node.sse == 0:
            raise ValueError("node: expected a leaf with at least two distinct points")
        rows, _ = self._centred(node.members)
        side = bisect(rows, restarts=restarts, generator=generator)
        if int(side.sum()) * 2 > len(side):
            side = ~side
        low, high = (self._add(node.members[mask], node.depth + 1, node) for mask in (~side, side))
        node.children = (low, high)
        return node.children

    def _grown(self, num_leaves: int, criterion: Criterion, generator: torch.Generator, restarts: int) -> BisectingTree:
        order = itertools.count()  # of creation, breaks ties
        queue: list[tuple[float, int, Node]] = []

        def push(leaf: Node) -> None:
            score = leaf.sse / leaf.size if criterion == "variance" else leaf.sse
            if leaf.sse > 0:
                heapq.heappush(queue, (-score, next(order), leaf))

        push(self._nodes[0])
        while len(self._nodes) < 2 * num_leaves - 1 and queue:
            *_, widest = heapq.heappop(queue)
            for child in self.split(widest, restarts=restarts, generator=generator):
                push(child)
        return self

    def _add(self, members: Tensor, depth: int, parent: Node | None) -> Node:
        rows, mean = self._centred(members)
        sse = float(torch.dot(rows.flatten(), rows.flatten()))
        self._nodes.append(Node(members, (mean + self._origin).float(), sse, depth, parent))
        return self._nodes[-1]

    def _centred(self, members: Tensor) -> tuple[Tensor, Tensor]:
        """The members' rows ``[m, D]`` about their mean, and the mean ``[D]`` in float64.

        In float64 the mean of copies of one float32 point is that point exactly: such a leaf has an SSE of exactly 0.
        """
        rows = self._points[members]
        mean = rows.mean(0, dtype=torch.float64)
        return rows.sub_(mean.float()), mean
