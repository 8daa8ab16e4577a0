"""Laws of neighbourhoods, posterior weights, kernels and annealing, with brute force as a twin."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from scipy.special import softmax

from manifoldgd.diffusion import NoiseSchedule
from manifoldgd.diffusion.toy import GaussianMixtureDenoiser
from manifoldgd.errors import UserError
from manifoldgd.geometry.annealing import annealing_multiplier
from manifoldgd.geometry.kernels import kernel_factor
from manifoldgd.geometry.neighbourhoods import Neighbourhoods
from manifoldgd.geometry.neighbours import nearest, nearest_in_cloud, neighbourhood_indices
from manifoldgd.geometry.posterior import covariance_factors, posterior_mean, posterior_weights
from manifoldgd.geometry.tangent import energy_kept, tangent_basis
from manifoldgd.geometry.transport import carry

B, K, D, R = 4, 12, 20, 3


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_weights(*shape, seed=0):
    return torch.softmax(3 * randn(*shape, seed=seed), dim=-1)


def covariance_projector(points, weights, rank):
    """Twin: full D x D weighted covariance and its eigenvectors, in numpy."""
    points, weights = points.double().numpy(), weights.double().numpy()
    covariance = np.cov(points.T, aweights=weights, ddof=0)
    vectors = np.linalg.eigh(covariance)[1][:, ::-1][:, :rank]
    return vectors @ vectors.T


# Neighbours


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("backend", ["faiss", "exact"])
def test_nearest_equals_brute_force(backend, offset):
    bank, queries = randn(200, 16) + offset, randn(7, 16, seed=1) + offset
    found = nearest(queries, bank, 10, backend=backend)
    distances = ((queries[:, None].double() - bank.double()) ** 2).sum(-1).numpy()
    order = np.argsort(distances, axis=1)[:, :10]
    assert found.indices.tolist() == order.tolist()
    np.testing.assert_allclose(found.squared_distances, np.take_along_axis(distances, order, 1), rtol=1e-5)


def test_backends_agree_on_ties():
    bank = torch.cat([randn(6, 5)] * 3)
    for count in (3, 4, 18):
        ours, theirs = (nearest(bank[:6], bank, count, backend=name) for name in ("faiss", "exact"))
        assert torch.equal(ours.indices, theirs.indices)
    assert ours.indices[0, :3].tolist() == [0, 6, 12]


@pytest.mark.parametrize(
    ("queries", "bank", "count", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4, 5), 1, r"queries \[Q, D\], bank \[N, D\]"),
        (torch.zeros(2, 3).double(), torch.zeros(4, 3), 1, "expected float32"),
        (torch.zeros(2, 3), torch.zeros(4, 3), 5, "count: expected 1 to 4"),
        (torch.zeros(2, 3), torch.zeros(4, 3), 0, "count: expected 1 to 4"),
    ],
)
def test_nearest_checks_what_faiss_does_not(queries, bank, count, message):
    with pytest.raises(ValueError, match=message):
        nearest(queries, bank, count)


@pytest.mark.parametrize("backend", ["faiss", "exact"])
def test_neighbourhoods_stay_in_their_class(backend):
    latents, labels = randn(40, 2, 3, 3), torch.arange(40) % 2
    prototypes, own = randn(5, 2, 3, 3, seed=1), torch.tensor([1, 0, 1, 1, 0])
    found = neighbourhood_indices(prototypes, own, latents, labels, 6, class_names=("a", "b"), backend=backend)
    for prototype, label, indices in zip(prototypes, own, found, strict=True):
        distances = (latents - prototype).flatten(1).norm(dim=1).masked_fill(labels != label, torch.inf)
        assert indices.tolist() == distances.argsort()[:6].tolist()


def test_too_small_class_is_named():
    labels = torch.tensor([0] * 9 + [1] * 3)
    with pytest.raises(UserError, match=r"^size.*got 5 with 3 images in class 'boots'; lower"):
        neighbourhood_indices(
            randn(2, 4), torch.tensor([0, 1]), randn(12, 4), labels, 5, class_names=("shirts", "boots")
        )


def test_nearest_in_cloud_is_brute_force_for_each_row():
    x, cloud = randn(B, D), randn(B, 30, D, seed=1)
    near, distances = nearest_in_cloud(x, cloud, 5)
    for row in range(B):
        own = (cloud[row] - x[row]).norm(dim=1)
        torch.testing.assert_close(near[row], cloud[row][own.argsort()[:5]])
        torch.testing.assert_close(distances[row], own.sort().values[:5])


# Posterior weights


def test_posterior_weights_are_gaussian_likelihoods():
    x_t, points, abar = randn(B, D), randn(B, K, D, seed=1), 0.6
    squared = ((x_t[:, None] - math.sqrt(abar) * points) ** 2).sum(-1).numpy()
    np.testing.assert_allclose(
        posterior_weights(x_t, points, abar), softmax(-squared / (2 * (1 - abar)), axis=1), rtol=1e-4
    )


@pytest.mark.parametrize("abar", [1e-5, 0.5, 0.9999])
def test_posterior_weights_are_stable(abar):
    weights = posterior_weights(randn(B, D) + 1000, randn(B, K, D, seed=1) + 1000, abar)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(1), torch.ones(B))


def test_posterior_mean_is_tweedie_for_the_empirical_mixture():
    """The exact denoiser of a mixture of (nearly) points at the neighbours gives the same clean latent."""
    schedule = NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="linear", num_timesteps=1000)
    points, x_t, index = randn(K, 2, 3, 3), randn(B, 2, 3, 3, seed=1), 300
    denoiser = GaussianMixtureDenoiser(
        points, torch.full((K,), 1e-4), torch.ones(K), torch.zeros(K).long(), schedule, null_class=1
    )
    noise = denoiser(x_t, torch.full((B,), index), torch.zeros(B).long())
    tweedie = schedule.x0_from_noise(x_t, noise, index)
    repeated = points.flatten(1).expand(B, -1, -1)
    weights = posterior_weights(x_t.flatten(1), repeated, float(schedule.alphas_cumprod[index]))
    torch.testing.assert_close(posterior_mean(repeated, weights), tweedie.flatten(1), rtol=1e-3, atol=1e-3)


def test_covariance_factors():
    points, weights = randn(B, K, D), random_weights(B, K)
    factors = covariance_factors(points, weights)
    for row in range(B):
        expected = np.cov(points[row].T, aweights=weights[row], ddof=0)
        np.testing.assert_allclose(factors[row].T @ factors[row], expected, atol=1e-5)


# Prepared neighbourhoods


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
@pytest.mark.parametrize(("within", "count"), [(30, 30), (30, 12), (20, 12)])
def test_prepared_neighbourhoods_equal_the_plain_route(within, count, share):
    points, vectors, abar = randn(B, 30, D) + 2, randn(B, D, seed=1), 0.3
    x_t = carry(points[:, 0], abar, randn(B, D, seed=2))
    got = Neighbourhoods(points).project(
        vectors, x_t, abar, within=within, neighbours=count, rank=R, uniform_share=share
    )
    for row in range(B):
        own = points[row, :within]
        order = (x_t[row] - carry(own, abar)).norm(dim=1).argsort()[:count]
        weights = (1 - share) * posterior_weights(x_t[row : row + 1], own[None, order], abar)[0] + share / count
        projector = covariance_projector(own[order], weights, R)
        np.testing.assert_allclose(got[row], projector @ vectors[row].double().numpy(), atol=2e-3)


def test_a_collapsed_posterior_leaves_no_direction_unless_some_weight_is_spread():
    points, vectors = randn(B, 30, D), randn(B, D, seed=1)
    prepared, x_t = Neighbourhoods(points), 50 * points[:, 3]
    common = {"within": 30, "neighbours": 20, "rank": R}
    alone = prepared.project(vectors, x_t, 0.999, uniform_share=0.0, **common)
    assert alone.isfinite().all()
    spread = prepared.project(vectors, x_t, 0.999, uniform_share=0.01, **common)
    assert (energy_kept(vectors, spread) > 0.01).all()


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_copies_of_one_image_span_nothing(share):
    points = torch.cat([randn(1, 1, D, seed=4).expand(1, 20, D) + 1e-9, randn(1, 10, D)], dim=1)
    got = Neighbourhoods(points).project(
        randn(1, D, seed=1), points[:, 0], 0.9, within=20, neighbours=12, rank=R, uniform_share=share
    )
    assert torch.equal(got, torch.zeros(1, D))


def test_inputs_are_not_modified():
    points, vectors, x_t = randn(B, 30, D), randn(B, D, seed=1), randn(B, D, seed=2)
    copies = points.clone(), vectors.clone(), x_t.clone()
    Neighbourhoods(points).project(vectors, x_t, 0.5, within=30, neighbours=9, rank=R, uniform_share=0.0)
    tangent_basis(points, R)
    assert all(map(torch.equal, (points, vectors, x_t), copies))


# Transport, kernels, annealing


def test_carrying_has_the_moments_of_the_forward_process():
    clean = torch.full((200_000,), 2.0)
    noisy = carry(clean, 0.36, randn(200_000))
    assert abs(float(noisy.mean()) - 1.2) < 0.01
    assert abs(float(noisy.std()) - 0.8) < 0.01
    assert torch.equal(carry(clean, 0.36), 0.6 * clean)


@pytest.mark.parametrize("bandwidth", [0.7, 1.0, 3.0])
@pytest.mark.parametrize(
    ("kind", "log_affinity"),
    [
        ("rbf", lambda r, s: -r.square() / (2 * s**2)),
        ("laplace", lambda r, s: -r / s),
        ("imq", lambda r, s: -0.5 * (r.square() + s**2).log()),
    ],
)
def test_kernel_factor_is_the_gradient_of_the_log_affinity(kind, log_affinity, bandwidth):
    difference = randn(3, 2, 4).double().requires_grad_()
    log_affinity(difference.flatten(1).norm(dim=1), bandwidth).sum().backward()
    phi = kernel_factor(kind, difference.detach(), bandwidth)
    torch.testing.assert_close(phi[:, None, None] * difference.detach(), difference.grad, rtol=1e-6, atol=1e-9)


def test_kernels_are_finite_at_the_prototype():
    for kind in ("rbf", "laplace", "imq"):
        assert (kernel_factor(kind, torch.zeros(2, 3), 1.0)[:, None] * torch.zeros(2, 3) == 0).all()


@pytest.mark.parametrize("kind", ["exponential", "cosine", "linear"])
def test_annealing_falls_from_the_multiplier_to_one(kind):
    values = [annealing_multiplier(kind, index, 30, warmup_steps=8, max_multiplier=3.0) for index in range(30)]
    assert values[29] == 3
    assert values[:22] == [1] * 22
    assert sorted(set(values)) == values[21:]
    assert annealing_multiplier(kind, 29, 30, warmup_steps=0, max_multiplier=3.0) == 1


def test_unknown_names_are_rejected():
    with pytest.raises(ValueError, match="kind: expected one of"):
        annealing_multiplier("step", 3, 5, warmup_steps=2, max_multiplier=2.0)
    with pytest.raises(ValueError, match="kind: expected one of"):
        kernel_factor("box", torch.ones(1, 2), 1.0)


def test_directions_found_beside_the_denoiser_are_the_same():
    points, vectors, x_t = randn(5, 30, 40), randn(5, 40, seed=1), randn(5, 40, seed=2)
    near, entered = Neighbourhoods(points), []

    @contextmanager
    def beside():
        entered.append(True)
        yield

    for share in (0.0, 0.01, 1.0):
        numbers = {"within": 25, "neighbours": 12, "rank": 4, "uniform_share": share}
        here = near.project(vectors, x_t, 0.3, **numbers)
        there = near.project(vectors, x_t, 0.3, **numbers, beside=beside)
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)
    assert len(entered) == 3
