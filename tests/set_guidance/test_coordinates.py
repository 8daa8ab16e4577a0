"""Coordinates of a neighbourhood: the map written out as a matrix, lengths, limits, and sets made in them."""

import pytest
import torch
from distill_parts import mode
from guidance_parts import randn
from matching_runs_parts import make
from tiny import cpu

from manifoldgd.data import digits
from manifoldgd.diffusion.protocol import Anchors, Step
from manifoldgd.errors import UserError
from manifoldgd.guidance import CombinedGuidance, NeighbourhoodCoordinates, RepulsionGuidance
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.priors import load_prior
from manifoldgd.randomness import RowKey, RowNoise

B, M, SHAPE = 3, 5, (2, 3, 2)  # D = 12, and five neighbours span four directions
D = 12


def neighbours(seed=0):
    return randn(B, M, D, seed=seed) * torch.linspace(0.2, 3, D)


def bound(floor, points=None):
    points = neighbours() if points is None else points
    anchors = Anchors(torch.zeros(B, *SHAPE), points)
    return NeighbourhoodCoordinates(neighbourhood=M, floor=floor).bind(anchors)


def matrix(points, floor):
    """``A`` of one image from the whole covariance: ``(C + floor * mean)^(1/2)`` with a mean square length of 1."""
    centred = (points - points.mean(0)).double()
    covariance = centred.T @ centred / len(points)
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0) + floor * covariance.trace() / D
    return vectors @ torch.diag((values / values.mean()).sqrt()) @ vectors.T


@pytest.mark.parametrize("floor", [0.0, 0.1, 3.0])
def test_there_and_back_is_the_square_of_the_covariances_root(floor):
    """``A A^T g`` is the step down a gradient that is linear in ``y``; signs and order of the axes cancel in it."""
    coordinates, gradient = bound(floor), randn(B, *SHAPE, seed=1)
    found = coordinates.moved(coordinates.gradient(gradient), gradient.shape)
    for points, one, moved in zip(neighbours(), gradient, found, strict=True):
        twin = matrix(points, floor) @ matrix(points, floor) @ one.flatten().double()
        torch.testing.assert_close(moved.flatten().double(), twin, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("floor", [0.0, 0.1, 3.0])
def test_lengths_have_a_mean_square_of_one(floor):
    coordinates = bound(floor)
    outside = D - (M - 1)
    squares = coordinates.lengths.square().sum(1) + outside * coordinates.outside[:, 0].square()
    torch.testing.assert_close(squares, torch.full((B,), float(D)))


def test_without_a_floor_nothing_leaves_the_tangent_space_and_a_high_one_makes_all_alike():
    step = randn(B, M - 1 + D, seed=2)
    moved = bound(0.0).moved(step, torch.Size((B, *SHAPE))).flatten(1)
    for points, one in zip(neighbours(), moved, strict=True):
        span = (points - points.mean(0)).T
        left = one - span @ torch.linalg.pinv(span) @ one
        assert float(left.norm()) < 1e-4 * float(one.norm())
    gradient = randn(B, *SHAPE, seed=3)
    same = bound(1e6)
    torch.testing.assert_close(same.moved(same.gradient(gradient), gradient.shape), gradient, rtol=1e-3, atol=1e-3)


def test_copies_of_one_image_have_no_directions_and_nothing_moves():
    copies = neighbours()[:, :1].expand(B, M, D).contiguous()
    moved = bound(0.1, copies).moved(randn(B, M - 1 + D), torch.Size((B, *SHAPE)))
    assert torch.equal(moved, torch.zeros_like(moved))


def test_the_descent_steps_in_them():
    """One Adam step of a linear energy: a sign in every coordinate, times the rate, written in latents."""
    slope = randn(B, *SHAPE, seed=4)
    guidance = RepulsionGuidance(
        rate=0.1, inner_steps=1, t_start=1.0, coordinates=NeighbourhoodCoordinates(neighbourhood=M, floor=0.5)
    )
    anchors = Anchors(torch.zeros(B, *SHAPE), neighbours(), energy=lambda x0, draw: (slope * x0).sum())
    x0 = randn(B, *SHAPE, seed=5)
    noise = RowNoise(0, [RowKey("zero", 0, row) for row in range(B)])
    pull = guidance.bind(anchors)(Step(0, 1, x0, x0, 0.9, noise))
    coordinates = bound(0.5)
    twin = -0.1 * coordinates.moved(coordinates.gradient(slope).sign(), slope.shape)
    torch.testing.assert_close(pull.clean, twin, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{"neighbourhood": 1}, {"floor": -0.1}, {"floor": float("nan")}])
def test_wrong_numbers_are_named(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        NeighbourhoodCoordinates(**{"neighbourhood": 5, "floor": 0.1} | changes)


def test_a_set_in_them_is_another_one_and_without_a_rate_asks_for_no_neighbours(tiny_prior, tmp_path):
    prior = load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    dataset = digits(train_per_class=12, validation=None)
    own = NeighbourhoodCoordinates(neighbourhood=8, floor=0.1)

    def made(name, coordinates, rate=0.05):
        then = RepulsionGuidance(rate=rate, inner_steps=2, t_start=0.5, coordinates=coordinates)
        method = CombinedGuidance(first=mode(), then=then)
        known = then.prepare(RealImages(dataset, cpu(), tmp_path))
        return make(tmp_path / name, dataset, prior, known, method=method)

    plain, moved = made("plain", None), made("moved", own)
    assert not torch.equal(plain.images, moved.images)
    assert RepulsionGuidance(rate=0.0, inner_steps=2, t_start=0.5, coordinates=own).neighbourhood == 0
    assert RepulsionGuidance(rate=0.1, inner_steps=2, t_start=0.5, coordinates=own).neighbourhood == 8
