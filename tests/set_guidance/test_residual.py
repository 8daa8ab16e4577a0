"""The pixel residual: its bound, its way down an energy, and what it leaves of a set's images."""

import pytest
import torch
from distill_parts import mode
from matching_runs_parts import make
from tiny import cpu

from manifoldgd.data import digits
from manifoldgd.diffusion.protocol import residuals_in
from manifoldgd.errors import UserError
from manifoldgd.finite import NotFinite
from manifoldgd.guidance import CombinedGuidance, MatchingGuidance, PixelResidual, RepulsionGuidance
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.priors import load_prior

LEVEL = 1 / 255


def images(seed=0):
    return torch.randint(0, 256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def to(goal):
    """An energy of pixels in [-1, 1] that is least where they are ``goal``."""
    return lambda pixels, draw: (pixels - goal).square().sum()


def test_images_go_to_the_least_energy_within_the_bound_and_no_further():
    goal = images(1).float() / 127.5 - 1
    found = PixelResidual(steps=400, rate=0.02, bound=16 * LEVEL)(images(), to(goal))
    nearest = images(1).float().clamp(images().float() - 16, images().float() + 16)
    assert (found.float() - nearest).abs().max() <= 1
    assert found.dtype == torch.uint8


def test_a_step_is_as_long_as_the_rate_says_and_falls_to_zero():
    ahead = PixelResidual(steps=1, rate=10 * LEVEL, bound=1.0)
    grey = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    assert torch.equal(ahead(grey, lambda pixels, draw: pixels.sum()), grey - 10)
    draws = []
    slow = PixelResidual(steps=4, rate=10 * LEVEL, bound=1.0)
    moved = slow(grey, lambda pixels, draw: draws.append(draw) or pixels.sum())
    assert draws == [0, 1, 2, 3]
    cosines = [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]  # half a cosine at quarters
    assert torch.equal(moved, grey - round(10 * sum(cosines)))


def test_an_energy_without_a_slope_leaves_every_image_as_it_was():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    residual = PixelResidual(steps=3, rate=0.1, bound=0.1)
    assert torch.equal(residual(every, lambda pixels, draw: 0 * pixels.sum()), every)


@pytest.mark.parametrize("slope", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_it_instead_of_turning_images_black(slope):
    def energy(pixels, draw):
        return (slope if draw == 1 else 1.0) * pixels[1].sum()

    with pytest.raises(NotFinite) as error:
        PixelResidual(steps=4, rate=0.01, bound=0.1)(images(), energy)
    assert error.value.rows == [1]


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"rate": 0.0}, {"bound": 0.0}, {"bound": float("nan")}, {"bound": 16}]
)
def test_wrong_numbers_are_named(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        PixelResidual(**{"steps": 5, "rate": 0.01, "bound": 0.1} | changes)


def test_a_set_keeps_its_images_but_for_the_bound_and_matches_better(tiny_prior, tmp_path):
    prior = load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    dataset = digits(train_per_class=12, validation=None)
    bound = 24 * LEVEL

    def made(name, rate, residual):
        then = MatchingGuidance(
            rate=rate, inner_steps=2, t_start=0.5, networks=2, width=8, real_per_class=6, pool_seed=None,
            residual=residual,
        )  # fmt: skip
        method = CombinedGuidance(first=mode(), then=then)
        known = then.prepare(RealImages(dataset, cpu(), tmp_path))
        found = make(tmp_path / name, dataset, prior, known, method=method)
        energy = known(lambda pixels: pixels, found.labels)
        return found.images, float(energy(found.images.float() / 127.5 - 1, 0))

    residual = PixelResidual(steps=20, rate=0.02, bound=bound)
    (plain, before), (moved, after) = made("plain", 0.05, None), made("moved", 0.05, residual)
    assert 0 < (moved.float() - plain.float()).abs().max() <= 24.5
    assert after < before
    alone, alone_after = made("alone", 0.0, residual)  # without a descent of latents it acts on its own
    assert not torch.equal(alone, moved)
    assert alone_after < before


def test_only_guidances_that_see_pixels_have_one():
    with pytest.raises(TypeError):
        RepulsionGuidance(rate=0.1, inner_steps=1, t_start=1.0, residual=PixelResidual(steps=1, rate=0.1, bound=0.1))
    assert residuals_in(mode()) == ()
