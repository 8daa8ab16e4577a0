"""Metrics on embeddings: closed forms, brute force, scipy and torchmetrics as twins."""

import warnings

import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.spatial.distance import cdist, pdist
from sklearn.neighbors import NearestNeighbors
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from manifoldgd import metrics
from manifoldgd.errors import UserError
from manifoldgd.metrics import functional, set_metrics


def rows(count, dimensions=6, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.5, 2, dimensions, dtype=torch.float64)
    return shift + scale * torch.randn(count, dimensions, generator=generator, dtype=torch.float64)


SYNTHETIC, REAL = rows(30, seed=1, shift=0.3), rows(90, seed=2)
PAIRWISE = (
    functional.mean_l2,
    functional.mean_cosine,
    functional.rbf_mmd,
    functional.kid,
    functional.frechet_distance,
    functional.representativeness,
)


def identity(num_features):
    module = torch.nn.Identity()
    module.num_features = num_features
    return module


class TestMeans:
    def test_l2_is_not_squared(self):
        assert functional.mean_l2(SYNTHETIC, SYNTHETIC + 2) == pytest.approx(2 * 6**0.5)

    def test_cosine_is_a_distance_of_unnormalised_means(self):
        synthetic, real = torch.tensor([[10.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        assert functional.mean_cosine(synthetic, real) == pytest.approx(1 - 10 / 101**0.5)
        assert functional.mean_cosine(-real, real) == pytest.approx(2)


class TestKernels:
    def test_rbf_mmd_equals_the_definition(self):
        x, y = SYNTHETIC.numpy(), REAL.numpy()
        pooled = np.sort(pdist(np.concatenate([x, y]), "sqeuclidean"))
        median = pooled[(len(pooled) - 1) // 2]
        xx, yy, xy = (np.exp(-cdist(a, b, "sqeuclidean") / median) for a, b in ((x, x), (y, y), (x, y)))
        n, m = len(x), len(y)
        squared = (xx.sum() - n) / n / (n - 1) + (yy.sum() - m) / m / (m - 1) - 2 * xy.mean()
        assert functional.rbf_mmd(SYNTHETIC, REAL).item() == pytest.approx(squared**0.5, rel=1e-9)

    def test_rbf_mmd_of_one_distribution_is_small_and_never_negative(self):
        values = [float(functional.rbf_mmd(rows(40, seed=s), rows(40, seed=s + 99))) for s in range(12)]
        assert min(values) == 0
        assert max(values) < 0.5 * float(functional.rbf_mmd(rows(40), rows(40, seed=3, shift=1.0)))

    def test_rbf_mmd_has_no_unit(self):
        assert functional.rbf_mmd(7 * SYNTHETIC, 7 * REAL) == pytest.approx(functional.rbf_mmd(SYNTHETIC, REAL).item())

    def test_rbf_mmd_of_constant_sets_is_finite(self):
        assert functional.rbf_mmd(torch.ones(4, 2), torch.ones(5, 2)) == 0

    @pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
    def test_kid_equals_torchmetrics_on_whole_sets(self):
        real = REAL[:30]
        twin = KernelInceptionDistance(feature=identity(6), subsets=1, subset_size=30)
        twin.set_dtype(torch.float64)
        twin.update(real, real=True)
        twin.update(SYNTHETIC, real=False)
        assert functional.kid(SYNTHETIC, real).item() == pytest.approx(float(twin.compute()[0]), rel=1e-6)

    def test_kid_weighs_sets_of_different_size(self):
        def kernel(a, b):
            return (a @ b.T / 6 + 1) ** 3

        x, y = SYNTHETIC.numpy(), REAL.numpy()
        off = [k[~np.eye(len(k), dtype=bool)].mean() for k in (kernel(x, x), kernel(y, y))]
        expected = sum(off) - 2 * kernel(x, y).mean()
        assert functional.kid(SYNTHETIC, REAL).item() == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("metric", [functional.rbf_mmd, functional.kid])
    def test_chunks_do_not_matter(self, metric, monkeypatch):
        whole = metric(SYNTHETIC, REAL).item()
        monkeypatch.setattr(functional, "_CHUNK", 7)
        assert metric(SYNTHETIC, REAL).item() == pytest.approx(whole, rel=1e-9)

    def test_thinning_is_fixed_and_close(self):
        real = rows(3000, seed=5)
        whole = functional.kid(SYNTHETIC + 1, real).item()
        thin = [functional.kid(SYNTHETIC + 1, real, max_real=1000).item() for _ in range(2)]
        assert thin[0] == thin[1] != whole
        assert thin[0] == pytest.approx(whole, rel=0.1)


class TestClassKernel:
    """Thirty rows of three classes against ninety: small enough for the definition, pair by pair."""

    LABELS = torch.arange(30) % 3
    SETS = SYNTHETIC, LABELS, REAL, torch.arange(90) % 3

    def test_equals_the_definition(self):
        synthetic, labels, real, real_labels = (each.numpy() for each in self.SETS)
        estimates = []
        for label in range(3):
            x, y = synthetic[labels == label], real[real_labels == label]
            apart = np.sort(pdist(y, "sqeuclidean"))
            median = apart[(len(apart) - 1) // 2]

            def kernel(a, b, median=median):
                squared = cdist(a, b, "sqeuclidean")
                return np.mean([np.exp(-squared / (2 * s * s * median)) for s in (0.25, 0.5, 1, 2, 4)], axis=0)

            off = [k[~np.eye(len(k), dtype=bool)].mean() for k in (kernel(x, x), kernel(y, y))]
            estimates.append(sum(off) - 2 * kernel(x, y).mean())
        assert functional.class_mmd2(*self.SETS).item() == pytest.approx(np.mean(estimates), rel=1e-9)

    def test_separates_where_the_estimate_of_a_balanced_set_is_cut_off(self):
        """Real images against real ones, equally many of each class, as in every distilled set."""
        place = 6 * torch.eye(6, dtype=torch.float64)[:5]

        def balanced(count, seed):
            labels = torch.arange(count) % 5
            return place[labels] + rows(count, seed=seed), labels

        real, real_labels = balanced(500, 999)
        sets = [balanced(20, seed) for seed in range(60)]
        values = torch.stack([functional.class_mmd2(*each, real, real_labels) for each in sets])
        assert float(values.mean().abs()) < 3 * float(values.std()) / 60**0.5
        assert float(values.min()) < 0 < float(values.max())
        assert all(float(functional.rbf_mmd(images, real)) == 0 for images, _ in sets)
        shifted = [functional.class_mmd2(images + 2, labels, real, real_labels) for images, labels in sets]
        assert float(torch.stack(shifted).min()) > float(values.max())

    def test_has_no_unit_and_knows_classes(self):
        synthetic, labels, real, real_labels = self.SETS
        scaled = functional.class_mmd2(7 * synthetic, labels, 7 * real, real_labels)
        assert scaled.item() == pytest.approx(functional.class_mmd2(*self.SETS).item())
        apart, near = real + 9 * real_labels[:, None], synthetic + 9 * labels[:, None]
        assert functional.class_mmd2(near, labels, apart, real_labels) < 0.1
        assert functional.class_mmd2(near, (labels + 1) % 3, apart, real_labels) > 0.5

    def test_classes_without_images_are_left_out_and_single_images_undefined(self):
        synthetic, labels, real, real_labels = self.SETS
        some = labels > 0
        assert functional.class_mmd2(synthetic[some], labels[some], real, real_labels).isfinite()
        assert functional.class_mmd2(synthetic[:3], labels[:3], real, real_labels).isnan()
        assert functional.class_mmd2(synthetic[:0], labels[:0], real, real_labels).isnan()
        with pytest.raises(ValueError, match=r"real_labels: expected shape \(90,\), got \(30,\)"):
            functional.class_mmd2(synthetic, labels, real, labels)


class TestNearest:
    def test_equals_scikit_learn(self, monkeypatch):
        expected = NearestNeighbors(n_neighbors=1).fit(REAL.numpy()).kneighbors(SYNTHETIC.numpy())[0][:, 0]
        np.testing.assert_allclose(functional.nearest_distances(SYNTHETIC, REAL), expected, rtol=1e-12)
        monkeypatch.setattr(functional, "_CHUNK", 7)
        np.testing.assert_allclose(functional.nearest_distances(SYNTHETIC, REAL), expected, rtol=1e-12)

    def test_copies_are_at_zero_however_far_from_the_origin(self):
        real = 1e3 + REAL.float()
        found = functional.nearest_distances(torch.cat([real[:4], real[:1] + 1]), real)
        assert found[:4].tolist() == [0.0] * 4
        assert found[4] > 0.5

    def test_boundaries(self):
        assert functional.nearest_distances(SYNTHETIC[:0], REAL).shape == (0,)
        assert functional.nearest_distances(SYNTHETIC, REAL[:0]).isinf().all()
        with pytest.raises(ValueError, match="expected synthetic"):
            functional.nearest_distances(SYNTHETIC, REAL[:, :3])


class TestCosines:
    def test_representativeness_is_the_worst_of_the_best(self):
        unit = [part / part.norm(dim=1, keepdim=True) for part in (SYNTHETIC, REAL)]
        expected = min(max(float(s @ r) for r in unit[1]) for s in unit[0])
        assert functional.representativeness(SYNTHETIC, REAL).item() == pytest.approx(expected)
        assert functional.representativeness(REAL[:9] * 5, REAL).item() == pytest.approx(1)

    def test_diversity_is_the_distance_of_the_closest_pair(self):
        unit = SYNTHETIC / SYNTHETIC.norm(dim=1, keepdim=True)
        expected = min(1 - float(unit[i] @ unit[j]) for i in range(30) for j in range(i))
        assert functional.diversity(SYNTHETIC).item() == pytest.approx(expected)
        assert functional.diversity(torch.cat([SYNTHETIC, 3 * SYNTHETIC[:1]])).item() == pytest.approx(0, abs=1e-12)

    def test_diversity_taken_in_parts_is_the_same(self, monkeypatch):
        whole = functional.diversity(SYNTHETIC)
        monkeypatch.setattr(functional, "_CHUNK", 7)
        torch.testing.assert_close(functional.diversity(SYNTHETIC), whole)


class TestBalls:
    @pytest.mark.parametrize("k", [1, 3, 5])
    def test_equals_brute_force(self, k):
        x, y = SYNTHETIC.numpy(), REAL.numpy()
        across = cdist(x, y)
        ball_x, ball_y = (np.sort(cdist(a, a), axis=1)[:, k] for a in (x, y))
        found = functional.precision_recall_density_coverage(SYNTHETIC, REAL, k)
        assert found.precision == pytest.approx(np.mean([(row <= ball_y).any() for row in across]))
        assert found.recall == pytest.approx(np.mean([(column <= ball_x).any() for column in across.T]))
        assert found.density == pytest.approx((across <= ball_y).sum() / (k * len(x)))
        assert found.coverage == pytest.approx(np.mean([(across[:, j] <= ball_y[j]).any() for j in range(len(y))]))

    def test_a_set_against_itself(self):
        found = functional.precision_recall_density_coverage(REAL, REAL, 4)
        assert [float(v) for v in (found.precision, found.recall, found.coverage)] == [1, 1, 1]
        assert float(found.density) == pytest.approx(1.25)  # k neighbours and the image itself, over k

    def test_far_apart(self):
        assert [float(v) for v in functional.precision_recall_density_coverage(SYNTHETIC + 99, REAL, 3)] == [0] * 4

    def test_copies_lie_on_surfaces_whatever_the_origin(self):
        real = rows(200, 12, seed=7)
        near, far = (functional.precision_recall_density_coverage((real + o)[:40], real + o, 3) for o in (0.0, 1000.0))
        assert list(map(float, near)) == list(map(float, far))

    def test_more_neighbours_than_images(self):
        found = functional.precision_recall_density_coverage(SYNTHETIC[:3], REAL, 3)
        assert torch.isnan(found.recall)
        assert not torch.isnan(found.precision)
        found = functional.precision_recall_density_coverage(SYNTHETIC, REAL[:3], 3)
        assert [bool(torch.isnan(value)) for value in found] == [True, False, True, True]
        with pytest.raises(ValueError, match="k: expected 1 or more, got 0"):
            functional.precision_recall_density_coverage(SYNTHETIC, REAL, 0)


class TestFrechet:
    def test_equals_scipy_and_torchmetrics(self):
        x, y = SYNTHETIC.numpy(), REAL.numpy()
        cx, cy = np.cov(x.T), np.cov(y.T)
        shift = ((x.mean(0) - y.mean(0)) ** 2).sum()
        expected = shift + np.trace(cx + cy - 2 * linalg.sqrtm(cx @ cy).real)
        assert functional.frechet_distance(SYNTHETIC, REAL).item() == pytest.approx(expected, rel=1e-9)
        twin = FrechetInceptionDistance(feature=identity(6))
        twin.set_dtype(torch.float64)
        twin.update(REAL, real=True)
        twin.update(SYNTHETIC, real=False)
        assert functional.frechet_distance(SYNTHETIC, REAL).item() == pytest.approx(float(twin.compute()), rel=1e-5)

    def test_shift_and_scale_in_closed_form(self):
        centred = REAL - REAL.mean(0)
        assert functional.frechet_distance(REAL + 2, REAL).item() == pytest.approx(4 * 6)
        trace = float(centred.square().sum() / (len(REAL) - 1))
        assert functional.frechet_distance(3 * centred, centred).item() == pytest.approx(4 * trace)

    def test_fewer_images_than_dimensions(self):
        few = rows(5, 40)
        assert functional.frechet_distance(few, few).item() == pytest.approx(0, abs=1e-9)
        assert functional.frechet_distance(few + 1, few).item() == pytest.approx(40)

    def test_is_symmetric(self):
        there, back = functional.frechet_distance(SYNTHETIC, REAL), functional.frechet_distance(REAL, SYNTHETIC)
        assert there.item() == pytest.approx(back.item())

    def test_bias_falls_with_the_number_of_images(self):
        real = rows(4000, 32, seed=9)
        few, many = (functional.frechet_distance(rows(n, 32, seed=n), real).item() for n in (40, 1000))
        assert few > 5 * many > 0


class LargestTensor(TorchDispatchMode):
    """Counts the numbers of the largest tensor that any operation inside gives."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple) else (found,):
            self.numbers = max(self.numbers, each.numel() if isinstance(each, torch.Tensor) else 0)
        return found


class TestBlocks:
    """All pairs of 400 and 500 rows, 16 of a matrix at a time, against the plain form."""

    SETS = rows(400, seed=11, shift=0.3), rows(500, seed=12)
    LABELS = torch.arange(400) % 2, torch.arange(500) % 2
    MEASURES = (
        functional.rbf_mmd,
        functional.kid,
        functional.representativeness,
        lambda synthetic, real: functional.diversity(synthetic),
        functional.nearest_distances,
        lambda synthetic, real: functional.class_mmd2(synthetic, TestBlocks.LABELS[0], real, TestBlocks.LABELS[1]),
        lambda synthetic, real: torch.stack(list(functional.precision_recall_density_coverage(synthetic, real, 3))),
    )

    @pytest.mark.parametrize("measure", MEASURES)
    def test_equal_the_whole_and_bound_memory(self, measure, monkeypatch):
        whole = measure(*self.SETS)
        monkeypatch.setattr(functional, "_BLOCK", 16 * 500)
        monkeypatch.setattr(functional, "_PAIRS", 0)
        monkeypatch.setattr(functional, "_DIGIT", 8)
        with LargestTensor() as largest:
            found = measure(*self.SETS)
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-14)
        assert largest.numbers <= 20 * 500

    @pytest.mark.parametrize("count", [2, 3, 40, 41])
    def test_the_median_is_that_of_all_pairs(self, count, monkeypatch):
        points = rows(count, 2, seed=count).round()  # many distances are equal, some are 0
        expected = functional._median_squared(points)
        monkeypatch.setattr(functional, "_PAIRS", 0)
        assert functional._median_squared(points) == expected


class TestBoundaries:
    @pytest.mark.parametrize("metric", PAIRWISE)
    def test_results_are_float64_scalars_and_inputs_stay(self, metric):
        synthetic, real = SYNTHETIC.float(), REAL.float()
        copies = synthetic.clone(), real.clone()
        value = metric(synthetic, real)
        assert value.shape == ()
        assert value.dtype == torch.float64
        assert torch.equal(synthetic, copies[0])
        assert torch.equal(real, copies[1])

    @pytest.mark.parametrize("metric", PAIRWISE)
    def test_shapes_are_checked(self, metric):
        with pytest.raises(ValueError, match="expected equal E, got 6 and 5"):
            metric(SYNTHETIC, REAL[:, :5])
        with pytest.raises(ValueError, match=r"real: expected embeddings \[n, E\], got \(90,\)"):
            metric(SYNTHETIC, REAL[:, 0])

    @pytest.mark.parametrize("metric", [functional.rbf_mmd, functional.kid, functional.frechet_distance])
    def test_one_image_is_too_few(self, metric):
        assert torch.isnan(metric(SYNTHETIC[:1], REAL))
        assert torch.isnan(metric(SYNTHETIC, REAL[:1]))
        assert torch.isnan(functional.diversity(SYNTHETIC[:1]))


class TestClasses:
    CASES = (
        (metrics.MeanL2, functional.mean_l2),
        (metrics.MeanCosine, functional.mean_cosine),
        (metrics.RBFMMD, functional.rbf_mmd),
        (metrics.KernelDistance, functional.kid),
        (metrics.Representativeness, functional.representativeness),
        (metrics.Diversity, lambda synthetic, real: functional.diversity(synthetic)),
    )

    @pytest.mark.parametrize(("make", "function"), CASES)
    def test_batches_add_up_to_the_function(self, make, function):
        metric = make()
        for part in REAL.split(40):
            metric.update(part, real=True)
        for part in SYNTHETIC.split(7):
            metric.update(part, real=False)
        assert metric.compute().item() == pytest.approx(function(SYNTHETIC, REAL).item())
        metric.reset()
        metric.update(REAL, real=False)
        metric.update(SYNTHETIC, real=True)
        assert metric.compute().item() == pytest.approx(function(REAL, SYNTHETIC).item())

    def test_frechet_distance_comes_with_the_set_sizes(self):
        metric = metrics.FrechetDistance()
        metric.update(SYNTHETIC, real=False)
        metric.update(REAL, real=True)
        found = metric.compute()
        assert (int(found["num_synthetic"]), int(found["num_real"])) == (30, 90)
        assert found["frechet_distance"] == functional.frechet_distance(SYNTHETIC, REAL)

    def test_collection_gives_every_metric_and_names_do_not_mix(self):
        collection = set_metrics(k=3)
        labels, real_labels = TestClassKernel.LABELS, TestClassKernel.SETS[3]
        for part, classes in zip(SYNTHETIC.split(11), labels.split(11), strict=True):
            collection.update(embeddings=part, real=False, labels=classes)
        collection.update(embeddings=REAL, real=True, labels=real_labels)
        found = collection.compute()
        balls = functional.precision_recall_density_coverage(SYNTHETIC, REAL, 3)
        expected = {
            "mean_l2": functional.mean_l2(SYNTHETIC, REAL),
            "mean_cosine": functional.mean_cosine(SYNTHETIC, REAL),
            "rbf_mmd": functional.rbf_mmd(SYNTHETIC, REAL),
            "class_mmd2": functional.class_mmd2(SYNTHETIC, labels, REAL, real_labels),
            "kid": functional.kid(SYNTHETIC, REAL),
            "representativeness": functional.representativeness(SYNTHETIC, REAL),
            "diversity": functional.diversity(SYNTHETIC),
            "frechet_distance": functional.frechet_distance(SYNTHETIC, REAL),
            "num_synthetic": 30,
            "num_real": 90,
            **balls._asdict(),
        }
        assert {name: float(value) for name, value in found.items()} == pytest.approx(
            {name: float(value) for name, value in expected.items()}
        )

    @pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 90), (30, 0), (1, 1)])
    def test_too_few_images_give_nan_and_no_crash(self, n, m):
        collection = set_metrics(k=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics on compute before update
            if n:
                collection.update(embeddings=SYNTHETIC[:n], real=False, labels=torch.arange(n) % 3)
            if m:
                collection.update(embeddings=REAL[:m], real=True, labels=torch.arange(m) % 3)
            found = collection.compute()
        undefined = {"frechet_distance", "kid", "rbf_mmd", "class_mmd2", "recall", "precision", "density", "coverage"}
        if (n, m) != (1, 1):
            undefined |= {"mean_l2", "mean_cosine", "representativeness"}
        assert {name for name, value in found.items() if torch.isnan(value.double())} - {"diversity"} == undefined
        assert torch.isnan(found["diversity"]) == (n < 2)
        assert (int(found["num_synthetic"]), int(found["num_real"])) == (n, m)

    def test_nearest_distance_is_the_mean_and_the_smallest(self):
        metric = metrics.NearestDistance()
        metric.update(SYNTHETIC, real=False)
        metric.update(REAL, real=True)
        distances = functional.nearest_distances(SYNTHETIC, REAL)
        assert metric.compute() == {"nearest_mean": distances.mean(), "nearest_smallest": distances.min()}

    def test_arguments_are_checked(self):
        with pytest.raises(ValueError, match=r"labels: expected shape \(30,\), got \(90,\)"):
            metrics.ClassMMD2().update(SYNTHETIC, real=False, labels=torch.zeros(90))
        with pytest.raises(UserError, match=r"metrics\.k: expected an integer >= 1, got 0"):
            metrics.PrecisionRecallDensityCoverage(k=0)
        with pytest.raises(ValueError, match=r"embeddings: expected \[b, E\], got \(6,\)"):
            metrics.MeanL2().update(SYNTHETIC[0], real=False)
