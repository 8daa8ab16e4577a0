"""Level-wise selection in a tree, and real images as baselines."""

import itertools

import numpy as np
import pytest
import torch

from manifoldgd.errors import UserError
from manifoldgd.prototypes import DRAW_NOTHING, SELECTIONS, LevelWise, RawLatents, select_classes
from manifoldgd.prototypes.coresets import herding, k_center, kmeans_nearest, random_real
from manifoldgd.prototypes.selection import coarse_to_fine, level_wise
from manifoldgd.prototypes.tree import BisectingTree


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def features_of(count=40, dimensions=5, seed=0):
    return torch.randn(count, dimensions, generator=draws(seed))


@pytest.fixture
def tree():
    return BisectingTree.grow(features_of(120, 8), 20, criterion="sse", generator=draws())


class TestLevelWise:
    def test_walks_one_node_a_level_from_the_start(self, tree):
        deepest = max(node.depth for node in tree.nodes())
        for start in range(deepest + 1):
            chosen = level_wise(tree, 12, start)
            walk = min(12, deepest + 1 - start)
            assert [node.depth for node in chosen[:walk]] == list(range(start, start + walk))

    def test_fills_the_budget_with_the_largest_leaves_left(self, tree):
        deepest = max(node.depth for node in tree.nodes())
        start = deepest - 1
        walked, filled = (lambda chosen: (chosen[:2], chosen[2:]))(level_wise(tree, 9, start))
        rest = [leaf for leaf in tree.leaves() if leaf not in walked]
        assert all(leaf in rest for leaf in filled)
        assert [leaf.size for leaf in filled] == sorted((leaf.size for leaf in rest), reverse=True)[:7]

    def test_nothing_twice(self, tree):
        for start, count in itertools.product(range(12), range(1, 21)):
            chosen = level_wise(tree, count, start)
            assert len(chosen) == len({id(node) for node in chosen}) == count

    def test_start_level_changes_the_set_and_not_only_the_order(self, tree):
        deepest = max(node.depth for node in tree.nodes())
        sets = {frozenset(map(id, level_wise(tree, 10, start))) for start in range(deepest)}
        assert len(sets) >= deepest - 1
        for start in range(1, deepest):
            assert not all(node.children is None for node in level_wise(tree, 10, start))

    def test_from_the_root_the_first_choice_is_the_class(self, tree):
        assert level_wise(tree, 3, 0)[0] is tree.nodes()[0]

    def test_takes_the_largest_whose_parent_was_not_taken(self, tree):
        chosen = level_wise(tree, 6, 1)
        levels = {depth: [n for n in tree.nodes() if n.depth == depth] for depth in (1, 2)}
        assert chosen[0].size == max(node.size for node in levels[1])
        other = next(node for node in levels[1] if node is not chosen[0])
        assert chosen[1].parent is other
        assert chosen[1].size == max(node.size for node in other.children)

    def test_beyond_the_deepest_level_only_leaves(self, tree):
        chosen = level_wise(tree, 8, 99)
        assert [node.size for node in chosen] == sorted((n.size for n in tree.leaves()), reverse=True)[:8]

    def test_too_small_a_tree_gives_what_it_has(self):
        tree = BisectingTree.grow(features_of(3), 2, criterion="sse", generator=draws())
        assert len(level_wise(tree, 9, 0)) == 3

    def test_clusterer_mixes_scales(self):
        latents = torch.randn(200, 1, 4, 4, generator=draws())
        options = {"criterion": "sse", "representative": "centroid", "space": RawLatents(), "restarts": 5}
        sets = [
            LevelWise(start_level=start, leaves_per_prototype=2, **options)(latents, 10, draws()) for start in (0, 2)
        ]
        assert sets[0].sizes[0] == 200
        torch.testing.assert_close(sets[0].prototypes[0], latents.mean(0))
        assert sets[1].depths[0] == 2
        assert int(sets[0].sizes.sum()) > int(sets[1].sizes.sum())  # coarse nodes overlap with what is below them

    def test_coarse_to_fine_is_every_leaf_once(self, tree):
        ordered = coarse_to_fine(tree)
        assert {id(leaf) for leaf in ordered} == {id(leaf) for leaf in tree.leaves()}
        assert [leaf.depth for leaf in ordered] == sorted(leaf.depth for leaf in ordered)


def brute_herding(features, count):
    """The definition: try every remaining row and average from scratch."""
    target, chosen = features.mean(0), []
    for _ in range(count):
        gaps = {
            row: np.linalg.norm(features[[*chosen, row]].mean(0) - target)
            for row in range(len(features))
            if row not in chosen
        }
        chosen.append(min(gaps, key=gaps.get))
    return chosen


def brute_k_center(features, count):
    chosen = [int(np.linalg.norm(features - features.mean(0), axis=1).argmin())]
    while len(chosen) < count:
        reach = {
            row: min(np.linalg.norm(features[row] - features[other]) for other in chosen)
            for row in range(len(features))
            if row not in chosen
        }
        chosen.append(max(reach, key=reach.get))
    return chosen


class TestCoresets:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("method", "twin"), [(herding, brute_herding), (k_center, brute_k_center)])
    def test_equals_the_definition(self, method, twin, seed):
        features = features_of(40, 5, seed) + 100
        assert method(features, 15).tolist() == twin(features.double().numpy(), 15)

    @pytest.mark.parametrize("method", [herding, k_center])
    def test_shorter_is_a_prefix(self, method):
        assert method(features_of(), 20)[:8].tolist() == method(features_of(), 8).tolist()

    @pytest.mark.parametrize("method", SELECTIONS)
    def test_whether_a_method_draws_is_said(self, method):
        features, labels = features_of(60), torch.zeros(60, dtype=torch.int64)
        found = {
            tuple(select_classes(features, labels, ["a"], method=method, ipc=7, seed=seed).tolist())
            for seed in range(4)
        }
        assert (len(found) == 1) == (method in DRAW_NOTHING)
        assert set(SELECTIONS) >= DRAW_NOTHING

    def test_herding_matches_the_mean_better_than_chance(self):
        features = features_of(500, 8)

        def gap(rows):
            return float((features[rows].mean(0) - features.mean(0)).norm())

        assert gap(herding(features, 20)) < 0.1 * gap(random_real(features, 20, draws()))

    def test_k_center_covers_within_twice_the_best(self):
        features = features_of(12, 2)
        distances = torch.cdist(features, features)
        radius = float(distances[:, k_center(features, 3)].min(1).values.max())
        best = min(float(distances[:, list(rows)].min(1).values.max()) for rows in itertools.combinations(range(12), 3))
        assert best <= radius <= 2 * best

    def test_kmeans_nearest_takes_one_of_each_cluster_the_largest_first(self):
        labels = torch.arange(60) % 6 % 4  # 20, 20, 10, 10
        features = 10 * torch.eye(4)[labels] + 0.1 * features_of(60, 4)
        chosen = labels[kmeans_nearest(features, 4, draws())].tolist()
        assert sorted(chosen) == [0, 1, 2, 3]
        assert sorted(chosen[:2]) == [0, 1]

    @pytest.mark.parametrize("method", SELECTIONS.values(), ids=SELECTIONS)
    @pytest.mark.parametrize("count", [1, 13, 40])
    def test_distinct_rows_and_inputs_stay(self, method, count):
        features = features_of()
        before = features.clone()
        chosen = method(features, count, draws())
        assert torch.equal(features, before)
        assert chosen.dtype == torch.int64
        assert len(chosen.unique()) == len(chosen) == count
        assert torch.equal(chosen, method(features, count, draws()))

    @pytest.mark.parametrize("method", SELECTIONS.values(), ids=SELECTIONS)
    def test_copies_do_not_stop_it(self, method):
        assert sorted(method(torch.ones(6, 3), 6, draws()).tolist()) == list(range(6))

    @pytest.mark.parametrize("method", SELECTIONS.values(), ids=SELECTIONS)
    @pytest.mark.parametrize("count", [0, 41])
    def test_count_has_to_fit(self, method, count):
        with pytest.raises(UserError, match=f"^ipc: expected 1 to 40, .* got {count}"):
            method(features_of(), count, draws())

    def test_features_have_to_be_a_matrix(self):
        with pytest.raises(ValueError, match=r"features: expected \[n, E\]"):
            herding(torch.zeros(4, 2, 2), 1)


class TestSelectClasses:
    @pytest.mark.parametrize("method", SELECTIONS)
    def test_rows_belong_to_their_class_and_class_order_changes_nothing(self, method):
        features, labels = features_of(60), torch.arange(60) % 3
        one = select_classes(features, labels, ("a", "b", "c"), method=method, ipc=5, seed=3)
        assert labels[one].tolist() == [0] * 5 + [1] * 5 + [2] * 5
        two = select_classes(features, (labels + 1) % 3, ("c", "a", "b"), method=method, ipc=5, seed=3)
        assert one.reshape(3, 5)[[2, 0, 1]].tolist() == two.reshape(3, 5).tolist()

    def test_random_depends_on_seed_and_class_name(self):
        features, labels = features_of(60), torch.arange(60) % 2
        rows = {
            (seed, name): select_classes(features, labels, (name, "z"), method="random", ipc=9, seed=seed).tolist()
            for seed in (0, 1)
            for name in ("a", "b")
        }
        assert len({tuple(value) for value in rows.values()}) == 4

    def test_reports_progress_by_name(self):
        done = []
        labels = torch.arange(40) % 2
        select_classes(features_of(), labels, ("a", "b"), method="herding", ipc=2, seed=0, on_class=done.append)
        assert done == ["a", "b"]

    def test_errors(self):
        features, labels = features_of(40), torch.arange(40) % 2
        with pytest.raises(UserError, match=r"selection: expected one of random, herding, .* got 'best'"):
            select_classes(features, labels, ("a", "b"), method="best", ipc=2, seed=0)
        with pytest.raises(UserError, match=r"^ipc: expected 1 to 20, the different images of class 'a', got 21"):
            select_classes(features, labels, ("a", "b"), method="random", ipc=21, seed=0)
