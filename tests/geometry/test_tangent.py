"""Laws of tangent spaces: projectors, rotations, a circle, missing directions; numpy's covariance as a twin."""

import numpy as np
import pytest
import torch

from manifoldgd.geometry.posterior import covariance_factors
from manifoldgd.geometry.tangent import energy_kept, project, span_coefficients, tangent_basis, weighted_gram

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


def projectors(basis):
    return basis.mT @ basis


@pytest.mark.parametrize("method", ["gram", "svd"])
@pytest.mark.parametrize("weighted", [False, True])
def test_basis_spans_the_principal_directions(method, weighted):
    points = randn(B, K, D, dtype=torch.float64)
    weights = random_weights(B, K).double() if weighted else None
    basis = tangent_basis(points, R, weights, method=method)
    assert basis.shape == (B, R, D)
    for row in range(B):
        own = torch.full((K,), 1 / K) if weights is None else weights[row]
        np.testing.assert_allclose(projectors(basis)[row], covariance_projector(points[row], own, R), atol=1e-9)


@pytest.mark.parametrize("method", ["gram", "svd"])
def test_projector_is_symmetric_idempotent_and_of_trace_r(method):
    projector = projectors(tangent_basis(randn(B, K, D, dtype=torch.float64), R, method=method))
    torch.testing.assert_close(projector, projector.mT)
    torch.testing.assert_close(projector @ projector, projector)
    torch.testing.assert_close(projector.diagonal(dim1=1, dim2=2).sum(1), torch.full((B,), float(R)).double())


def test_projection_turns_with_the_points_and_ignores_shifts_and_scale():
    points, vectors = randn(B, K, D, dtype=torch.float64), randn(B, D, seed=1, dtype=torch.float64)
    rotation = torch.linalg.qr(randn(D, D, seed=2, dtype=torch.float64))[0]
    plain = project(vectors, tangent_basis(points, R))
    turned = project(vectors @ rotation, tangent_basis(5 * points @ rotation + 7, R))
    torch.testing.assert_close(turned, plain @ rotation)


@pytest.mark.parametrize("method", ["gram", "svd"])
def test_tangent_of_a_circle(method):
    angles = torch.tensor([0.0, 0.5, 2.0])[:, None] + torch.linspace(-0.1, 0.1, 9)
    plane = torch.linalg.qr(randn(6, 2, dtype=torch.float64))[0].mT
    circle = torch.stack([angles.cos(), angles.sin()], 2).double() @ plane
    tangent = torch.stack([-angles[:, 4].sin(), angles[:, 4].cos()], 1).double() @ plane
    basis = tangent_basis(circle, 1, method=method)
    assert ((basis[:, 0] * tangent).sum(1).abs() > 0.9999).all()
    normal = circle[:, 4]
    assert energy_kept(normal, project(normal, basis)).max() < 1e-6
    torch.testing.assert_close(energy_kept(tangent, project(tangent, basis)), torch.ones(3).double())


@pytest.mark.parametrize("method", ["gram", "svd"])
def test_missing_directions_are_zero_and_never_nan(method):
    line = randn(1, K, 1) * randn(1, 1, D, seed=1)
    basis = tangent_basis(torch.cat([line, torch.ones(1, K, D), randn(1, K, D)]), R, method=method)
    assert basis.isfinite().all()
    torch.testing.assert_close(basis.norm(dim=2).round(decimals=4), torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 1, 1]]))


@pytest.mark.parametrize("scale", [1e-25, 1e12])
def test_scale_does_not_matter(scale):
    points = randn(B, K, D)
    torch.testing.assert_close(
        projectors(tangent_basis(points.double() * scale, R)), projectors(tangent_basis(points.double(), R))
    )


def test_basis_rejects_impossible_ranks():
    for rank in (0, K):
        with pytest.raises(ValueError, match="1 <= rank < K"):
            tangent_basis(randn(B, K, D), rank)


def test_energy_kept_is_a_share_of_squares():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(energy_kept(vectors, torch.tensor([[3.0, 0], [0, 0]])), torch.tensor([9 / 25, 0.0]))


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_span_coefficients_give_the_same_projection(shift):
    """Without a D-sized array, and around any origin."""
    points, vectors = randn(B, K, D, dtype=torch.float64) + shift, randn(B, D, seed=1, dtype=torch.float64)
    weights = random_weights(B, K).double()
    products = (points @ vectors[:, :, None])[:, :, 0]
    coefficients = span_coefficients(points @ points.mT, products + 3, weights, R, torch.zeros(B).double())
    expected = project(vectors, tangent_basis(points, R, weights))
    torch.testing.assert_close((coefficients[:, None] @ points)[:, 0], expected)
    torch.testing.assert_close(coefficients.sum(1), torch.zeros(B).double())
    factors = covariance_factors(points, weights)
    torch.testing.assert_close(weighted_gram(points @ points.mT, weights), factors @ factors.mT)


def test_unknown_method_is_rejected():
    with pytest.raises(ValueError, match="method: expected"):
        tangent_basis(randn(B, K, D), R, method="qr")
