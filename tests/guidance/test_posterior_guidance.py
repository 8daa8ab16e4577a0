"""Posterior guidance: its moving target, the projected vector, and whole samples."""

import dataclasses

import numpy
import pytest
import torch
from guidance_parts import SAMPLERS, SHAPE, D, anchors, draw, keys, randn, step
from scipy.special import softmax

from manifoldgd.diffusion import DDPM, NoiseSchedule
from manifoldgd.diffusion.protocol import Anchors
from manifoldgd.diffusion.toy import GaussianMixtureDenoiser
from manifoldgd.errors import UserError
from manifoldgd.geometry.tangent import energy_kept, project, tangent_basis
from manifoldgd.guidance import NoGuidance, OnPrediction, PosteriorGuidance

NUMBERS = {
    "scale": 0.1,
    "tangent_scale": 0.0,
    "neighbourhood": 24,
    "tangent_dim": 4,
    "neighbours": 24,
    "uniform_share": 0.01,
    "t_stop": 0.2,
}
PROJECTED = {"scale": 0.0, "tangent_scale": 0.3}


def posterior(**changes):
    return PosteriorGuidance(**NUMBERS | changes)


def weights_of(now, points):
    """The formula as it is printed, from distances, in double precision."""
    x_t, points = now.x_t.flatten(1).double().numpy(), points.double().numpy()
    squared = numpy.square(x_t[:, None] - now.alpha_bar**0.5 * points).sum(-1)
    return torch.from_numpy(softmax(-squared / (2 * (1 - now.alpha_bar)), axis=1))


@pytest.mark.parametrize("alpha_bar", [0.02, 0.4, 0.9])
def test_pull_leads_to_the_posterior_mean(alpha_bar):
    now, own = step(alpha_bar=alpha_bar), anchors(5)
    target = (weights_of(now, own.neighbourhoods)[:, :, None] * own.neighbourhoods).sum(1)
    pull = posterior(scale=0.3).bind(own)(now)
    expected = 0.3 * (target - now.x0.flatten(1)).float()
    torch.testing.assert_close(pull.scaled.flatten(1), expected, rtol=1e-3, atol=1e-4)
    assert pull.scaled.shape == now.x0.shape
    assert pull.plain is pull.clean is pull.kept is None


def test_target_is_coarse_in_noise_and_the_nearest_real_latent_without():
    own = anchors(5)
    for alpha_bar, target in ((1e-7, own.neighbourhoods.mean(1)), (1 - 1e-5, own.neighbourhoods[:, 9])):
        near = own.neighbourhoods[:, 9] + 0.01 * randn(5, D)
        now = dataclasses.replace(step(alpha_bar=alpha_bar), x_t=near.view(-1, *SHAPE))
        moved = now.x0 + posterior(scale=1.0).bind(own)(now).scaled
        torch.testing.assert_close(moved.flatten(1), target, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_projected_vector_has_a_strength_of_its_own(share):
    now, own = step(alpha_bar=0.1), anchors(5)
    whole = posterior(scale=1.0).bind(own)(now).scaled.flatten(1).double()
    weights = (1 - share) * weights_of(now, own.neighbourhoods) + share / 24
    # The twin takes the SVD of the weighted neighbours where the code works with their Gram matrix.
    projected = project(whole, tangent_basis(own.neighbourhoods.double(), 4, weights, method="svd"))
    alone = posterior(**PROJECTED, uniform_share=share).bind(own)(now)
    torch.testing.assert_close(alone.scaled.flatten(1), 0.3 * projected.float(), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(alone.kept, energy_kept(whole, projected).float(), rtol=1e-2, atol=1e-3)
    assert ((alone.kept > 0) & (alone.kept < 1)).all()
    both = posterior(scale=0.5, tangent_scale=0.3, uniform_share=share).bind(own)(now)
    torch.testing.assert_close(both.scaled.flatten(1), 0.5 * whole.float() + alone.scaled.flatten(1))


def test_neighbours_cut_the_tangent_space_and_not_the_mean():
    now, own = step(alpha_bar=0.05), anchors(5)
    few, all_of_them = (posterior(neighbours=count).bind(own)(now).scaled for count in (6, 24))
    assert torch.equal(few, all_of_them)
    few, all_of_them = (posterior(**PROJECTED, neighbours=count).bind(own)(now).scaled for count in (6, 24))
    assert not torch.allclose(few, all_of_them, atol=1e-3)


def test_prototypes_speak_through_their_neighbourhoods_alone():
    now, own = step(), anchors(5)
    elsewhere = Anchors(own.prototypes + 5, own.neighbourhoods)
    assert torch.equal(posterior().bind(own)(now).scaled, posterior().bind(elsewhere)(now).scaled)


def test_a_prior_that_knows_the_neighbourhood_is_not_pulled():
    """Under a prior of narrow Gaussians at the neighbours, the denoiser's ``x0`` is the target."""
    schedule = NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="linear", num_timesteps=1000)
    own, x_t = anchors(1), randn(1, *SHAPE, seed=3)
    means = own.neighbourhoods[0].view(-1, *SHAPE)
    prior = GaussianMixtureDenoiser(
        means, torch.full((24,), 1e-4), torch.ones(24), torch.zeros(24).long(), schedule, null_class=1
    )
    for timestep in (300, 600, 900):
        abar = float(schedule.alphas_cumprod[timestep])
        noise = prior(x_t, torch.tensor([timestep]), torch.tensor([0]))
        x0 = (x_t - (1 - abar) ** 0.5 * noise) / abar**0.5
        now = dataclasses.replace(step(count=1, alpha_bar=abar), x_t=x_t, x0=x0)
        assert float(posterior(scale=1.0).bind(own)(now).scaled.norm()) < 1e-2
        assert float(posterior(scale=1.0).bind(anchors(2))(step(count=2, alpha_bar=abar)).scaled.norm()) > 1


def test_acts_above_the_stop_index():
    for changes in ({}, PROJECTED):
        bound = posterior(t_stop=0.5, **changes).bind(anchors(2))
        assert bound(step(index=26, count=2)) is not None
        assert bound(step(index=25, count=2)) is None


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_zero_scales_are_the_unguided_run_bit_for_bit(sampler):
    assert torch.equal(draw(4, posterior(scale=0.0).bind(anchors(4)), sampler), draw(4, None, sampler))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_guided_samples_come_nearer_to_real_latents(sampler):
    own = anchors(24)

    def away(method):
        ends = draw(24, method.bind(own), sampler).flatten(1)
        return float((own.neighbourhoods - ends[:, None]).norm(dim=2).amin(1).mean())

    free = away(NoGuidance())
    assert away(posterior()) < free - 0.01
    assert away(posterior(**PROJECTED)) < free - 0.01
    # All of the way at all steps but the last: what is sampled is the neighbourhood's own distribution.
    assert away(OnPrediction(method=posterior(scale=1.0, t_stop=0.0), noise_power=0.0)) < 0.1 * free


@pytest.mark.parametrize("changes", [{}, PROJECTED], ids=["whole", "projected"])
def test_rows_do_not_depend_on_their_batch(changes):
    sampler, own, count = DDPM(steps=10, cfg_scale=None), anchors(9), 9
    whole = draw(count, posterior(**changes).bind(own), sampler)
    for row in (0, 4, 8):
        alone = Anchors(own.prototypes[row : row + 1], own.neighbourhoods[row : row + 1])
        single = draw(1, posterior(**changes).bind(alone), sampler, keys(count)[row : row + 1])
        torch.testing.assert_close(single, whole[row : row + 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": -1}, r"scale: expected .*, got -1"),
        ({"tangent_scale": -0.1}, r"tangent_scale: expected .*, got -0.1"),
        ({"tangent_dim": 24}, r"^tangent_dim: needs to be smaller than neighbours"),
        ({"neighbours": 25}, r"^neighbours: needs to be at most neighbourhood"),
        ({"uniform_share": 2}, r"uniform_share: expected .*, got 2"),
        ({"t_stop": 25}, r"t_stop: expected .*"),
    ],
)
def test_bad_numbers_name_the_key(changes, message):
    with pytest.raises(UserError, match=message):
        posterior(**changes)


def test_missing_neighbourhoods_are_a_programming_error():
    with pytest.raises(ValueError, match=r"neighbourhoods: expected \[B, 24, D\], got None"):
        posterior().bind(Anchors(randn(2, *SHAPE), None))
    with pytest.raises(ValueError, match=r"got \(2, 23, 24\)"):
        posterior().bind(anchors(2, size=23))
