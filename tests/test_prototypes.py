"""Bisecting tree, clusterers and the clustering of all classes."""

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering, BisectingKMeans
from sklearn.cluster import KMeans as SklearnKMeans

from manifoldgd.artifacts import LatentSet
from manifoldgd.errors import UserError
from manifoldgd.prototypes import Agglomerative, Divisive, KMeans, LevelWise, Random, cluster_classes
from manifoldgd.prototypes.bisection import bisect
from manifoldgd.prototypes.flat import kmeans_labels
from manifoldgd.prototypes.representatives import ClusteringSpace, distinct_nearest, represent
from manifoldgd.prototypes.tree import BisectingTree

RAW = {"representative": "nearest", "space": "raw", "pool": 2}
CLUSTERERS = {
    "divisive": lambda **changes: Divisive(**{"criterion": "sse", "restarts": 10, **RAW, **changes}),
    "levelwise": lambda **changes: LevelWise(
        **{"start_level": 1, "leaves_per_prototype": 2, "criterion": "sse", "restarts": 10, **RAW, **changes}
    ),
    "kmeans": lambda **changes: KMeans(**{"restarts": 5, "iterations": 50, **RAW, **changes}),
    "agglomerative": lambda **changes: Agglomerative(**{**RAW, **changes}),
}


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(sizes, spread=0.1, dimensions=16, seed=0):
    """Well separated Gaussian clusters of the given sizes, shuffled, and the cluster of each point."""
    generator = draws(seed)
    centers = 10 * torch.eye(len(sizes), dimensions)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return centers[labels] + spread * torch.randn(len(labels), dimensions, generator=generator), labels


def latents_of(points):
    return points.reshape(len(points), 1, 4, 4)


def sse_of(points, labels):
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    return sum(((points[labels == k] - points[labels == k].mean(0)) ** 2).sum() for k in np.unique(labels))


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


class TestRepresentatives:
    def test_raw_space_is_the_flattened_latent(self):
        latents = torch.randn(3, 2, 4, 4)
        assert torch.equal(ClusteringSpace(space="raw", pool=3)(latents), latents.flatten(1))

    def test_pooled_space_averages_windows(self):
        latents = torch.arange(32.0).reshape(1, 2, 4, 4)
        expected = latents.reshape(1, 2, 2, 2, 2, 2).mean((3, 5)).flatten(1)
        torch.testing.assert_close(ClusteringSpace(space="pooled", pool=2)(latents), expected)

    def test_pool_has_to_divide_the_latent(self):
        with pytest.raises(UserError, match=r"clusterer\.pool: needs to divide .* height 4 and width 4, got 3"):
            ClusteringSpace(space="pooled", pool=3)(torch.zeros(1, 1, 4, 4))

    def test_closer_center_keeps_a_contested_point(self):
        points = torch.tensor([[0.0], [1.0], [5.0]])
        centers = torch.tensor([[0.4], [0.1], [0.3]])
        assert distinct_nearest(centers, points).tolist() == [1, 0, 2]
        assert distinct_nearest(torch.tensor([[4.0], [0.9]]), points).tolist() == [2, 1]

    def test_centroid_averages_full_latents_and_nearest_uses_the_given_space(self):
        latents = latents_of(torch.randn(6, 16, generator=draws()))
        points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [15.0]])
        clusters = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])]
        centroid = represent(latents, points, clusters, representative="centroid", depths=[3, 4])
        torch.testing.assert_close(centroid.prototypes, torch.stack([latents[:3].mean(0), latents[3:].mean(0)]))
        assert centroid.nearest.tolist() == [1, 4]
        assert centroid.depths.tolist() == [3, 4]
        assert centroid.sizes.tolist() == [3, 3]
        nearest = represent(latents, points, clusters, representative="nearest")
        assert torch.equal(nearest.prototypes, latents[[1, 4]])
        assert nearest.depths.tolist() == [0, 0]


@pytest.mark.parametrize("name", CLUSTERERS)
class TestClusterers:
    @pytest.mark.parametrize("ipc", [1, 7, 40])
    @pytest.mark.parametrize("representative", ["nearest", "centroid"])
    def test_shapes_and_distinct_rows(self, name, ipc, representative):
        latents = torch.randn(40, 2, 4, 4, generator=draws())
        before = latents.clone()
        found = CLUSTERERS[name](representative=representative)(latents, ipc, draws())
        assert torch.equal(latents, before)
        assert found.prototypes.shape == (ipc, 2, 4, 4)
        assert found.prototypes.dtype == torch.float32
        assert len(found.nearest.unique()) == ipc
        assert found.depths.shape == found.sizes.shape == (ipc,)
        if representative == "nearest":
            assert torch.equal(found.prototypes, latents[found.nearest])

    def test_same_generator_same_prototypes(self, name):
        latents = torch.randn(80, 1, 4, 4, generator=draws())
        first, second = (CLUSTERERS[name]()(latents, 9, draws(4)) for _ in range(2))
        assert torch.equal(first.nearest, second.nearest)
        assert torch.equal(first.prototypes, second.prototypes)

    def test_pooling_changes_what_is_similar(self, name):
        # Within a window the cells swap (large raw distance, none pooled); between groups the level moves a little.
        checker = torch.tensor([[9.0, -9.0], [-9.0, 9.0]]).repeat(2, 2)
        latents = torch.stack([sign * checker + level for level in (0.0, 1.0) for sign in (1, -1)] * 8)[:, None]
        levels = latents.mean((1, 2, 3)).round()
        latents = latents + 0.01 * torch.randn(latents.shape, generator=draws())

        def groups(space):
            options = {"start_level": 1, "leaves_per_prototype": 1} if name == "levelwise" else {}
            found = CLUSTERERS[name](space=space, representative="centroid", **options)(latents, 2, draws())
            return sorted(found.prototypes.mean((1, 2, 3)).round(decimals=1).tolist())

        assert set(levels.tolist()) == {0.0, 1.0}
        assert groups("pooled") == [0.0, 1.0]
        assert groups("raw") == [0.5, 0.5]

    def test_fewer_images_than_ipc(self, name):
        with pytest.raises(UserError, match=r"^ipc: .* got ipc=5 with 4 images; lower ipc"):
            CLUSTERERS[name]()(torch.randn(4, 1, 4, 4), 5, draws())

    def test_ipc_has_to_be_positive(self, name):
        with pytest.raises(UserError, match=r"^ipc: expected an integer >= 1, got 0"):
            CLUSTERERS[name]()(torch.randn(4, 1, 4, 4), 0, draws())

    def test_latents_have_to_be_finite(self, name):
        latents = torch.randn(9, 1, 4, 4)
        latents[3, 0, 0, 0] = torch.nan
        with pytest.raises(UserError, match="NaN"):
            CLUSTERERS[name]()(latents, 2, draws())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"representative": "medoid"}, r"^clusterer\.representative: expected centroid or nearest, got 'medoid'"),
            ({"space": "pixels"}, r"^clusterer\.space: expected raw or pooled, got 'pixels'"),
            ({"pool": 0}, r"^clusterer\.pool: expected an integer >= 1, got 0"),
        ],
    )
    def test_constructor_names_the_key(self, name, change, message):
        with pytest.raises(UserError, match=message) as caught:
            CLUSTERERS[name](**change)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("divisive", {"criterion": "var"}, r"^clusterer\.criterion: expected sse or variance, got 'var'"),
        ("divisive", {"restarts": 0}, r"^clusterer\.restarts: expected an integer >= 1, got 0"),
        ("levelwise", {"start_level": -1}, r"^clusterer\.start_level: expected an integer >= 0, got -1"),
        ("levelwise", {"leaves_per_prototype": 0}, r"^clusterer\.leaves_per_prototype: .* >= 1, got 0"),
        ("kmeans", {"iterations": 0}, r"^clusterer\.iterations: expected an integer >= 1, got 0"),
        ("kmeans", {"restarts": 1.5}, r"^clusterer\.restarts: expected an integer >= 1, got 1.5"),
    ],
)
def test_constructor_names_its_own_keys(name, change, message):
    with pytest.raises(UserError, match=message):
        CLUSTERERS[name](**change)


@pytest.mark.parametrize("name", ["divisive", "kmeans"])
def test_fewer_different_images_than_ipc(name):
    latents = torch.randn(3, 1, 4, 4, generator=draws()).repeat(5, 1, 1, 1)
    assert len(CLUSTERERS[name]()(latents, 3, draws()).nearest.unique()) == 3
    with pytest.raises(UserError, match=r"^ipc: .* got ipc=4 with 3 different among 15 images"):
        CLUSTERERS[name]()(latents, 4, draws())


@pytest.mark.parametrize("name", ["divisive", "kmeans", "agglomerative"])
def test_finds_separated_clusters(name):
    points, labels = blobs([30, 20, 10, 5])
    found = CLUSTERERS[name]()(latents_of(points), 4, draws())
    assert sorted(labels[found.nearest].tolist()) == [0, 1, 2, 3]
    assert sorted(found.sizes.tolist()) == [5, 10, 20, 30]


def test_divisive_orders_leaves_coarse_to_fine():
    points, _ = blobs([30, 20, 10, 5], spread=2.0)
    found = CLUSTERERS["divisive"]()(latents_of(points), 9, draws())
    order = list(zip(found.depths.tolist(), (-found.sizes).tolist(), strict=True))
    assert order == sorted(order)
    assert sum(2.0**-depth for depth in found.depths.tolist()) == 1
    assert int(found.sizes.sum()) == 65


def test_kmeans_is_as_good_as_sklearn():
    points = torch.randn(400, 6, generator=draws())
    labels = kmeans_labels(points, 8, restarts=10, iterations=100, generator=draws())
    twin = SklearnKMeans(8, n_init=10, random_state=0).fit(points.numpy())
    assert sse_of(points, labels) <= 1.02 * twin.inertia_


def test_kmeans_leaves_no_cluster_empty():
    points = torch.cat([torch.zeros(50, 2), torch.randn(6, 2, generator=draws())])
    labels = kmeans_labels(points, 7, restarts=1, iterations=1, generator=draws())
    assert len(labels.unique()) == 7


def test_kmeans_depends_on_the_generator():
    points = torch.randn(300, 10, generator=draws())
    runs = [kmeans_labels(points, 9, restarts=1, iterations=5, generator=draws(seed)) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_agglomerative_equals_sklearn_on_a_small_class_and_assigns_the_rest_of_a_large_one():
    points, labels = blobs([300, 200, 100], spread=1.0)
    twin = AgglomerativeClustering(3, linkage="ward").fit_predict(points.numpy())
    whole = Agglomerative(**RAW)(latents_of(points), 3, draws())
    assert whole.sizes.tolist() == sorted(np.bincount(twin), reverse=True)
    part = Agglomerative(**RAW, max_images=60)(latents_of(points), 3, draws())
    assert part.sizes.tolist() == [300, 200, 100]
    assert labels[part.nearest].tolist() == [0, 1, 2]


def test_random_takes_different_real_latents():
    latents = torch.randn(30, 1, 2, 2, generator=draws())
    found = Random()(latents, 30, draws(1))
    assert sorted(found.nearest.tolist()) == list(range(30))
    assert torch.equal(found.prototypes, latents[found.nearest])
    assert not torch.equal(found.nearest, Random()(latents, 30, draws(2)).nearest)
    with pytest.raises(UserError, match="ipc"):
        Random()(latents, 31, draws())


def latent_set(class_names, order):
    """Three classes of 20, 25 and 30 images, their rows in the given class order."""
    per_class = {
        name: torch.randn(count, 1, 4, 4, generator=draws(count))
        for name, count in {"cat": 20, "dog": 25, "emu": 30}.items()
    }
    return LatentSet(
        latents=torch.cat([per_class[name] for name in order]),
        labels=torch.cat([torch.full((len(per_class[name]),), class_names.index(name)) for name in order]),
        class_names=class_names,
        key="k",
    )


class TestClusterClasses:
    def test_every_class_has_its_prototypes_and_global_rows(self):
        latents = latent_set(("cat", "dog", "emu"), ("emu", "cat", "dog"))
        done = []
        found = cluster_classes(latents, CLUSTERERS["divisive"](), 4, 0, "key", on_class=done.append)
        assert done == ["cat", "dog", "emu"]
        assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert found.ranks.tolist() == [0, 1, 2, 3] * 3
        assert (found.ipc, found.key, found.class_names) == (4, "key", latents.class_names)
        assert torch.equal(latents.labels[found.nearest], found.labels)
        assert torch.equal(latents.latents[found.nearest], found.prototypes)

    @pytest.mark.parametrize("name", CLUSTERERS)
    def test_order_of_classes_changes_nothing(self, name):
        one = cluster_classes(latent_set(("cat", "dog", "emu"), ("cat", "dog", "emu")), CLUSTERERS[name](), 5, 7, "")
        two = cluster_classes(latent_set(("emu", "cat", "dog"), ("dog", "emu", "cat")), CLUSTERERS[name](), 5, 7, "")
        for label, class_name in enumerate(one.class_names):
            other = two.class_names.index(class_name)
            assert torch.equal(one.prototypes[one.labels == label], two.prototypes[two.labels == other])

    def test_seed_matters(self):
        latents = latent_set(("cat", "dog", "emu"), ("cat", "dog", "emu"))
        nearest = [cluster_classes(latents, Random(), 5, seed, "").nearest for seed in (0, 0, 1)]
        assert torch.equal(nearest[0], nearest[1])
        assert not torch.equal(nearest[0], nearest[2])

    def test_error_names_the_class_and_its_images(self):
        latents = latent_set(("cat", "dog", "emu"), ("cat", "dog", "emu"))
        with pytest.raises(UserError, match=r"ipc=24 with 20 images; .*\(class 'cat', 20 images\)$"):
            cluster_classes(latents, CLUSTERERS["kmeans"](), 24, 0, "")

    def test_global_state_is_left_alone(self):
        latents = latent_set(("cat", "dog", "emu"), ("cat", "dog", "emu"))
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            for make in CLUSTERERS.values():
                cluster_classes(latents, make(), 3, 0, "")
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(torch.get_rng_state(), state)
