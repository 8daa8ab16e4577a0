"""Bisecting k-means: the split, the tree it grows."""

import numpy as np
import pytest
import torch
from clusters import blobs, draws, sse_of
from sklearn.cluster import BisectingKMeans
from sklearn.cluster import KMeans as SklearnKMeans

from manifoldgd.prototypes.bisection import bisect
from manifoldgd.prototypes.tree import BisectingTree


def tree_of(points, num_leaves, criterion="sse", **options):
    return BisectingTree.grow(points, num_leaves, criterion=criterion, generator=draws(), **options)


class TestBisection:
    @pytest.mark.parametrize("count", [2, 3, 6, 9])
    def test_finds_the_best_of_all_partitions_of_a_few_points(self, count):
        rows = torch.randn(count, 3, generator=draws(count))
        rows -= rows.mean(0)
        best = min(sse_of(rows, [number >> bit & 1 for bit in range(count)]) for number in range(1, 2 ** (count - 1)))
        assert sse_of(rows, bisect(rows, restarts=20, generator=draws())) == pytest.approx(best, rel=1e-5)

    def test_no_single_point_move_improves(self):
        rows = torch.randn(60, 20, generator=draws(3))
        rows -= rows.mean(0)
        side = bisect(rows, restarts=1, generator=draws())
        for point in range(len(rows)):
            moved = side.clone()
            moved[point] = ~moved[point]
            assert sse_of(rows, moved) >= sse_of(rows, side) * (1 - 1e-5)

    def test_a_class_above_the_subset_is_split_as_well_as_by_sklearn(self):
        points = torch.randn(3000, 8, generator=draws(1)) * torch.tensor([3.0, 2, 1, 1, 1, 1, 1, 1])
        side = bisect(points - points.mean(0), restarts=10, generator=draws())
        twin = SklearnKMeans(2, n_init=10, random_state=0).fit(points.numpy())
        assert sse_of(points, side) <= 1.002 * twin.inertia_

    @pytest.mark.parametrize("seed", range(20))
    def test_restarts_find_the_long_side_of_a_rectangle(self, seed):
        # Splitting across the short side is a fixed point of Lloyd's iterations too, only a worse one.
        corners = torch.tensor([[3.0, 2.5], [3.0, -2.5], [-3.0, 2.5], [-3.0, -2.5]]).repeat(100, 1)
        rows = corners + 0.01 * torch.randn(corners.shape, generator=draws(seed))
        side = bisect(rows - rows.mean(0), restarts=10, generator=draws(seed))
        assert len({(x > 0, inside) for (x, _), inside in zip(corners.tolist(), side.tolist(), strict=True)}) == 2

    def test_one_different_point_among_many_copies_is_separated(self):
        rows = torch.zeros(5000, 3)
        rows[4321] = torch.tensor([1.0, 2.0, 3.0])
        side = bisect(rows - rows.mean(0), restarts=2, generator=draws())
        assert min(int(side.sum()), int((~side).sum())) == 1
        assert bool(side[4321]) != bool(side[0])


class TestTree:
    def test_leaves_partition_the_points_and_inner_nodes_are_unions(self):
        points = torch.randn(97, 6, generator=draws())
        tree = tree_of(points, 13)
        assert len(tree.leaves()) == 13
        assert len(tree.nodes()) == 25
        assert sorted(torch.cat([leaf.members for leaf in tree.leaves()]).tolist()) == list(range(97))
        for node in tree.nodes():
            rows = points[node.members].double()
            assert torch.equal(node.members, node.members.sort().values)
            torch.testing.assert_close(node.center.double(), rows.mean(0), atol=1e-6, rtol=0)
            assert node.sse == pytest.approx(float((rows - rows.mean(0)).square().sum()), rel=1e-5, abs=1e-6)
            assert node.depth == (0 if node.parent is None else node.parent.depth + 1)
            if node.children:
                union = torch.cat([child.members for child in node.children]).sort().values
                assert torch.equal(union, node.members)
                assert all(child.parent is node for child in node.children)

    @pytest.mark.parametrize(("criterion", "score"), [("sse", lambda n: n.sse), ("variance", lambda n: n.sse / n.size)])
    def test_the_highest_scoring_leaf_is_split_each_time(self, criterion, score):
        points, _ = blobs([40, 30, 5, 2], spread=1.0)
        nodes = tree_of(points, 12, criterion).nodes()
        leaves = [nodes[0]]
        for first in range(1, len(nodes), 2):
            parent = nodes[first].parent
            assert parent is max(leaves, key=score)
            leaves = [leaf for leaf in leaves if leaf is not parent] + nodes[first : first + 2]

    def test_criteria_differ_where_size_and_spread_disagree(self):
        generator = draws()
        many = torch.randn(500, 2, generator=generator)
        few = 100 + 3 * torch.randn(6, 2, generator=generator)
        points = torch.cat([many, few])
        assert {leaf.size for leaf in tree_of(points, 3, "sse").leaves()} > {6}
        assert 500 in {leaf.size for leaf in tree_of(points, 3, "variance").leaves()}

    def test_recovers_separated_clusters(self):
        points, labels = blobs([30, 20, 10, 5])
        for leaf in tree_of(points, 4).leaves():
            assert len(labels[leaf.members].unique()) == 1

    @pytest.mark.parametrize("seed", range(6))
    def test_is_as_good_as_sklearn(self, seed):
        points, _ = blobs([60, 40, 40, 20, 10], spread=3.0, seed=seed)
        twin = BisectingKMeans(12, n_init=10, bisecting_strategy="biggest_inertia", random_state=seed).fit(
            points.numpy()
        )
        assert tree_of(points, 12).total_sse() <= 1.01 * sse_of(points, twin.labels_)

    def test_total_is_that_of_the_leaves(self):
        points = torch.randn(50, 4, generator=draws())
        tree = tree_of(points, 7)
        labels = np.empty(50)
        for label, leaf in enumerate(tree.leaves()):
            labels[leaf.members] = label
        assert tree.total_sse() == pytest.approx(sse_of(points, labels), rel=1e-5)

    def test_more_trials_are_never_worse(self):
        points = torch.randn(40, 12, generator=draws(5))
        totals = [tree_of(points, 10, restarts=1, trials=trials).total_sse() for trials in (1, 3, 8)]
        assert totals == sorted(totals, reverse=True)

    def test_does_not_depend_on_the_origin(self):
        points, _ = blobs([30, 20, 10], spread=1.0)
        far = tree_of(points + 1000, 8)
        assert [leaf.members.tolist() for leaf in far.leaves()] == [
            leaf.members.tolist() for leaf in tree_of(points, 8).leaves()
        ]

    def test_grows_to_single_points(self):
        tree = tree_of(torch.randn(20, 3, generator=draws()), 20)
        assert [leaf.size for leaf in tree.leaves()] == [1] * 20
        assert tree.total_sse() == 0

    @pytest.mark.parametrize("value", [0.1, 1234.567])
    def test_copies_of_a_point_are_not_split(self, value):
        points = torch.full((30, 5), value)
        points[:10] += 1.0
        tree = tree_of(points, 6)
        assert sorted(leaf.size for leaf in tree.leaves()) == [10, 20]
        with pytest.raises(ValueError, match="distinct"):
            tree.split(tree.leaves()[0], restarts=1, generator=draws())

    def test_same_generator_same_tree_and_inputs_stay(self):
        points = torch.randn(300, 10, generator=draws())
        before = points.clone()
        first, second = tree_of(points, 20), tree_of(points, 20)
        assert torch.equal(points, before)
        for one, other in zip(first.nodes(), second.nodes(), strict=True):
            assert torch.equal(one.members, other.members)

    @pytest.mark.parametrize(
        ("points", "num_leaves", "criterion", "message"),
        [
            (torch.zeros(5, 2), 6, "sse", r"num_leaves: expected 1 ... 5"),
            (torch.zeros(5, 2), 0, "sse", r"num_leaves"),
            (torch.zeros(5, 2), 2, "var", r"criterion: expected"),
            (torch.zeros(5), 2, "sse", r"points: expected \[n, D\]"),
        ],
    )
    def test_wrong_arguments(self, points, num_leaves, criterion, message):
        with pytest.raises(ValueError, match=message):
            tree_of(points, num_leaves, criterion)
