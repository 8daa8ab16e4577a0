"""Noise schedules and respacing: diffusers as a twin, Bayes' rule as a closed form."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from manifoldgd.diffusion import NoiseSchedule
from manifoldgd.errors import UserError

LINEAR = NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="linear", num_timesteps=1000)
DITS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_training_schedules_equal_diffusers(kind):
    ours = NoiseSchedule.training(beta_start=2e-4, beta_end=0.03, kind=kind, num_timesteps=400)
    theirs = DDPMScheduler(num_train_timesteps=400, beta_start=2e-4, beta_end=0.03, beta_schedule=kind)
    torch.testing.assert_close(ours.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=2e-4, atol=1e-9)
    torch.testing.assert_close(ours.betas.float(), theirs.betas, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 100, 250, 1000])
def test_ddpm_spacing_equals_diffusers_linspace(steps):
    theirs = DDPMScheduler(**DITS, timestep_spacing="linspace")
    theirs.set_timesteps(steps)
    assert LINEAR.respaced(steps, "ddpm").timesteps.tolist() == theirs.timesteps.flip(0).tolist()


@pytest.mark.parametrize(("steps", "stride"), [(50, 20), (100, 10), (334, 3), (1000, 1), (1, 1000)])
def test_ddim_spacing_is_an_integer_stride(steps, stride):
    assert LINEAR.respaced(steps, "ddim").timesteps.tolist() == list(range(0, 1000, stride))


@pytest.mark.parametrize(
    ("steps", "spacing", "message"),
    [
        (
            300,
            "ddim",
            "^steps: no integer stride visits exactly 300 of 1000 timesteps; set it to 250",
        ),
        (0, "ddpm", r"^steps: needs to be in \[1, 1000\], got 0"),
        (1001, "ddim", r"^steps: needs to be in \[1, 1000\], got 1001"),
    ],
)
def test_impossible_respacing_says_what_to_change(steps, spacing, message):
    with pytest.raises(UserError, match=message):
        LINEAR.respaced(steps, spacing)


@pytest.mark.parametrize("spacing", ["ddpm", "ddim"])
def test_respacing_keeps_the_signal_of_the_kept_timesteps(spacing):
    respaced = LINEAR.respaced(20, spacing)
    torch.testing.assert_close(respaced.alphas_cumprod, LINEAR.alphas_cumprod[respaced.timesteps], rtol=1e-12, atol=0)
    torch.testing.assert_close(respaced.alphas_cumprod_prev[1:], respaced.alphas_cumprod[:-1])
    assert respaced.alphas_cumprod_prev[0] == 1


def test_respacing_to_all_steps_changes_nothing():
    torch.testing.assert_close(LINEAR.respaced(1000, "ddpm").betas, LINEAR.betas, rtol=1e-9, atol=0)


def test_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x0) as the product of the Gaussians q(x_t | x_{t-1}) and q(x_{t-1} | x0)."""
    schedule = LINEAR.respaced(50, "ddpm")
    for index in (1, 7, 49):
        beta, prev = float(schedule.betas[index]), float(schedule.alphas_cumprod_prev[index])
        precision = (1 - beta) / beta + 1 / (1 - prev)
        assert math.isclose(float(schedule.posterior_variance[index]), 1 / precision, rel_tol=1e-9)
        from_x0, from_xt = math.sqrt(prev) / (1 - prev) / precision, math.sqrt(1 - beta) / beta / precision
        assert math.isclose(float(schedule.posterior_mean_coef1[index]), from_x0, rel_tol=1e-9)
        assert math.isclose(float(schedule.posterior_mean_coef2[index]), from_xt, rel_tol=1e-9)
    clipped = schedule.posterior_log_variance_clipped
    assert clipped[0] == clipped[1] == schedule.posterior_variance[1].log()


def test_noising_is_undone():
    x0, noise, index = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1), torch.tensor([5, 5, 5])
    schedule = LINEAR.respaced(50, "ddpm")
    x_t = schedule.add_noise(x0, noise, index)
    torch.testing.assert_close(schedule.x0_from_noise(x_t, noise, 5), x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(schedule.noise_from_x0(x_t, x0, 5), noise, rtol=1e-4, atol=1e-4)
    mixed = schedule.add_noise(x0, noise, torch.tensor([0, 5, 49]))
    torch.testing.assert_close(mixed[1], x_t[1])
    assert float((mixed[2] - noise[2]).norm() / noise[2].norm()) < 0.015


def test_schedule_rejects_nonsense():
    with pytest.raises(ValueError, match="betas: expected values in"):
        NoiseSchedule.from_betas(torch.tensor([0.1, 1.0]))
    with pytest.raises(ValueError, match="expected int64 timesteps and float64 betas"):
        NoiseSchedule(torch.arange(2), torch.tensor([0.1, 0.2]))
    with pytest.raises(UserError, match="beta_schedule: expected linear"):
        NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="sigmoid", num_timesteps=10)
