"""Prototypes: what stands for a cluster, every clusterer, classes one after the other."""

import numpy as np
import pytest
import torch
from clusters import blobs, draws, sse_of
from prototypes_parts import CLUSTERERS, RAW, latents_of
from sklearn.cluster import AgglomerativeClustering
from sklearn.cluster import KMeans as SklearnKMeans

from manifoldgd.artifacts import LatentSet
from manifoldgd.errors import UserError
from manifoldgd.prototypes import Agglomerative, Random, cluster_classes
from manifoldgd.prototypes.flat import kmeans_labels
from manifoldgd.prototypes.representatives import distinct_nearest, represent
from manifoldgd.prototypes.spaces import PooledLatents, RawLatents


class TestRepresentatives:
    def test_raw_space_is_the_flattened_latent(self):
        latents = torch.randn(3, 2, 4, 4)
        assert torch.equal(RawLatents()(latents), latents.flatten(1))

    def test_pooled_space_averages_windows(self):
        latents = torch.arange(32.0).reshape(1, 2, 4, 4)
        expected = latents.reshape(1, 2, 2, 2, 2, 2).mean((3, 5)).flatten(1)
        torch.testing.assert_close(PooledLatents(pool=2)(latents), expected)

    def test_pool_has_to_divide_the_latent(self):
        with pytest.raises(UserError, match=r"space\.pool: needs to divide .* height 4 and width 4, got 3"):
            PooledLatents(pool=3)(torch.zeros(1, 1, 4, 4))

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
        assert groups(PooledLatents(pool=2)) == [0.0, 1.0]
        assert groups(RawLatents()) == [0.5, 0.5]

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
            ({"representative": "medoid"}, r"representative: expected .*, got 'medoid'"),
            ({"space": "pixels"}, r"space: expected .*, got 'pixels'"),
        ],
    )
    def test_constructor_names_the_key(self, name, change, message):
        with pytest.raises(UserError, match=message) as caught:
            CLUSTERERS[name](**change)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("divisive", {"criterion": "var"}, r"criterion: expected .*, got 'var'"),
        ("divisive", {"restarts": 0}, r"restarts: expected .*, got 0"),
        ("levelwise", {"start_level": -1}, r"start_level: expected .*, got -1"),
        ("levelwise", {"leaves_per_prototype": 0}, r"leaves_per_prototype: expected .*, got 0"),
        ("kmeans", {"iterations": 0}, r"iterations: expected .*, got 0"),
        ("kmeans", {"restarts": 1.5}, r"restarts: expected .*, got 1.5"),
    ],
)
def test_constructor_names_its_own_keys(name, change, message):
    with pytest.raises(UserError, match=message):
        CLUSTERERS[name](**change)


@pytest.mark.parametrize("make", [*CLUSTERERS.values(), Random], ids=[*CLUSTERERS, "random"])
class TestCopies:
    def test_fewer_different_images_than_ipc(self, make):
        latents = torch.randn(3, 1, 4, 4, generator=draws()).repeat(5, 1, 1, 1)
        assert len(make()(latents, 3, draws()).nearest.unique()) == 3
        with pytest.raises(UserError, match=r"^ipc: .* got ipc=4 with 3 different among 15 images"):
            make()(latents, 4, draws())

    def test_no_two_prototypes_are_of_one_image(self, make):
        """Although copies encoded in different batches may differ in a last bit."""
        images = torch.randn(6, 1, 4, 4, generator=draws())
        copies = images.repeat_interleave(4, 0) + 1e-7 * torch.randn(24, 1, 4, 4, generator=draws(1))
        labels, distinct = torch.zeros(24, dtype=torch.int64), torch.arange(0, 24, 4)
        latents = LatentSet(latents=copies, labels=labels, class_names=("a",), key="k")
        found = cluster_classes(latents, make(), 6, 0, "key", distinct=distinct)
        assert sorted(found.nearest.tolist()) == distinct.tolist()
        with pytest.raises(UserError, match=r"ipc=7 with 6 images.*\(class 'a', 6 images\)"):
            cluster_classes(latents, make(), 7, 0, "key", distinct=distinct)

    def test_without_copies_nothing_changes(self, make):
        latents = latent_set(("cat", "dog", "emu"), ("emu", "cat", "dog"))
        whole = cluster_classes(latents, make(), 5, 0, "key")
        told = cluster_classes(latents, make(), 5, 0, "key", distinct=torch.arange(len(latents.labels)))
        assert torch.equal(whole.prototypes, told.prototypes)
        assert torch.equal(whole.nearest, told.nearest)


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
