"""Which nodes of a bisecting tree become prototypes."""

from __future__ import annotations

from manifoldgd.prototypes.tree import BisectingTree, Node


def coarse_to_fine(tree: BisectingTree) -> list[Node]:
    """All leaves, shallow before deep, among equals the one with more members first."""
    return sorted(tree.leaves(), key=lambda leaf: (leaf.depth, -leaf.size))


def level_wise(tree: BisectingTree, count: int, start_level: int) -> list[Node]:
    """A multi-scale choice of ``count`` different nodes: one a level from coarse to fine, then leaves.

    1. Walk the depths ``start_level``, ``start_level + 1``, ... to the deepest. At each, take one node, inner or leaf:
       the one with the most members among those whose parent was not taken, so that the walk changes branch instead of
       zooming into one mode; where all parents were taken, the one with the most members.
    2. Fill what is left of the budget with leaves not taken yet, those with the most members first.

    The earlier-created node wins ties. ``start_level`` counts from 0, the root; beyond the deepest level the walk is
    empty and all come from the leaves.

    Departure from the released code (ManifoldGD, arXiv 2602.23295): it stops growing at exactly ``count`` leaves, walks
    over leaves only, taking a random one of each depth, and fills up from the deepest leaves. Choosing ``count`` of
    ``count`` leaves, it can change their order but never the set. Here the tree should have more than ``count`` leaves
    and inner nodes count, so that the set holds several scales and depends on ``start_level``; the choice within a
    level is by size, not by chance.

    Args:
        tree: A grown tree with at least ``count`` nodes at or below ``start_level`` or among its leaves.
        count: Nodes to choose.
        start_level: Depth of the first choice, 0 or more.

    Returns:
        ``count`` distinct nodes in order of choice; fewer when the tree has too few.
    """
    levels: dict[int, list[Node]] = {}
    for node in tree.nodes():
        levels.setdefault(node.depth, []).append(node)
    taken: list[Node] = []
    for depth in range(start_level, max(levels) + 1):
        fresh = [node for node in levels[depth] if node.parent not in taken]
        taken.append(max(fresh or levels[depth], key=lambda node: node.size))
    rest = [leaf for leaf in tree.leaves() if leaf not in taken]
    return (taken + sorted(rest, key=lambda leaf: -leaf.size))[:count]
