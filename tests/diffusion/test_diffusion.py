"""Steps and the loop: closed forms, diffusers as a twin, and a Gaussian mixture whose denoiser is exact."""

import inspect
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusion_parts import DITS, LINEAR, MEANS, STDS, TOY, randn, rows
from omegaconf import OmegaConf

from manifoldgd.cli.compose import compose
from manifoldgd.diffusion import DDIM, DDPM, Euler, sample
from manifoldgd.diffusion.protocol import Pull
from manifoldgd.diffusion.samplers import predict
from manifoldgd.errors import UserError
from manifoldgd.randomness import RowNoise

# Steps


@pytest.mark.parametrize("variance", ["learned_range", "fixed_small", "fixed_large"])
@pytest.mark.parametrize("index", [0, 1, 2, 25, 49])
def test_ddpm_step_equals_diffusers(variance, index):
    schedule = LINEAR.respaced(50, "ddpm")
    theirs = DDPMScheduler(**DITS, timestep_spacing="linspace", variance_type=variance)
    theirs.set_timesteps(50)
    x_t, output = randn(2, 4, 3, 5), randn(2, 8 if variance == "learned_range" else 4, 3, 5, seed=1)
    prediction = predict(schedule, index, x_t, output, variance=variance)
    draws = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3))
    ours = DDPM(steps=50, cfg_scale=None).step(schedule, index, x_t, prediction, None, draws)
    expected = theirs.step(output, int(schedule.timesteps[index]), x_t, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours.x_prev, expected.prev_sample, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prediction.x0, expected.pred_original_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("index", [1, 2, 25, 49])
def test_ddim_step_equals_diffusers_where_its_stride_is_right(eta, index):
    schedule = LINEAR.respaced(50, "ddim")
    theirs = DDIMScheduler(**DITS, timestep_spacing="leading", steps_offset=0, set_alpha_to_one=True)
    theirs.set_timesteps(50)
    x_t, output, draws = (randn(2, 4, 3, 5, seed=seed) for seed in range(3))
    prediction = predict(schedule, index, x_t, output, variance="fixed_small")
    ours = DDIM(steps=50, eta=eta, cfg_scale=None).step(schedule, index, x_t, prediction, None, draws)
    noise = draws if eta else None
    expected = theirs.step(output, int(schedule.timesteps[index]), x_t, eta=eta, variance_noise=noise).prev_sample
    torch.testing.assert_close(ours.x_prev, expected, rtol=1e-4, atol=1e-4)


def test_ddim_with_eta_one_has_the_posterior_of_ddpm():
    schedule = LINEAR.respaced(20, "ddim")
    x_t, output, draws = (randn(2, 4, 3, 3, seed=seed) for seed in range(3))
    prediction = predict(schedule, 9, x_t, output, variance="fixed_small")
    ancestral = DDPM(steps=20, cfg_scale=None).step(schedule, 9, x_t, prediction, None, draws).x_prev
    implicit = DDIM(steps=20, eta=1.0, cfg_scale=None).step(schedule, 9, x_t, prediction, None, draws).x_prev
    torch.testing.assert_close(ancestral, implicit, rtol=1e-4, atol=1e-5)


def test_last_step_adds_no_noise():
    schedule = LINEAR.respaced(50, "ddpm")
    x_t, output = randn(2, 4, 3, 3), randn(2, 4, 3, 3, seed=1)
    prediction = predict(schedule, 0, x_t, output, variance="fixed_small")
    for sampler in (DDPM(steps=50, cfg_scale=None), DDIM(steps=50, eta=1.0, cfg_scale=None)):
        assert not sampler.draws_noise(0)
        transition = sampler.step(schedule, 0, x_t, prediction, None, None)
        torch.testing.assert_close(transition.x_prev, prediction.x0, rtol=1e-5, atol=1e-5)


def test_ddpm_adds_sigma_times_scaled_plus_plain():
    schedule, sampler = LINEAR.respaced(50, "ddpm"), DDPM(steps=50, cfg_scale=None)
    x_t, output, draws, scaled, plain = (randn(2, 8 if seed == 1 else 4, 3, 3, seed=seed) for seed in range(5))
    prediction = predict(schedule, 30, x_t, output, variance="learned_range")
    free = sampler.step(schedule, 30, x_t, prediction, None, draws)
    sigma = prediction.log_variance.exp().sqrt()
    for pull, expected in (
        (Pull(scaled, plain, None), sigma * scaled + plain),
        (Pull(scaled, None, None), sigma * scaled),
        (Pull(None, plain, None), plain),
    ):
        guided = sampler.step(schedule, 30, x_t, prediction, pull, draws)
        torch.testing.assert_close(guided.x_prev - free.x_prev, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(guided.guidance, expected)
    torch.testing.assert_close(free.noise, sigma * draws)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_adds_the_pull_to_x0_before_the_noise_is_recomputed(eta):
    schedule, sampler = LINEAR.respaced(50, "ddim"), DDIM(steps=50, eta=eta, cfg_scale=None)
    x_t, output, draws, scaled, plain = (randn(2, 4, 3, 3, seed=seed) for seed in range(5))
    prediction = predict(schedule, 30, x_t, output, variance="fixed_small")
    guided = sampler.step(schedule, 30, x_t, prediction, Pull(scaled, plain, None), draws)
    moved = type(prediction)(prediction.x0 + scaled + plain, prediction.log_variance)
    torch.testing.assert_close(guided.x_prev, sampler.step(schedule, 30, x_t, moved, None, draws).x_prev)
    free = sampler.step(schedule, 30, x_t, prediction, None, draws)
    torch.testing.assert_close(guided.x_prev - free.x_prev, guided.guidance, rtol=1e-4, atol=1e-5)


def test_clipping_and_wrong_channels():
    schedule = LINEAR.respaced(50, "ddpm")
    x_t, output = randn(2, 4, 3, 3), randn(2, 4, 3, 3, seed=1)
    assert predict(schedule, 49, x_t, output, variance="fixed_small", clip_x0=1.0).x0.abs().max() == 1
    assert predict(schedule, 49, x_t, output, variance="fixed_small").x0.abs().max() > 10
    with pytest.raises(ValueError, match=r"output: expected \(8,\) channels"):
        predict(schedule, 49, x_t, output, variance="learned_range")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDPM(steps=0, cfg_scale=1.0), "steps: expected .*, got 0"),
        (lambda: DDPM(steps=5, cfg_scale=-1.0), "cfg_scale: expected .*"),
        (lambda: DDIM(steps=5, eta=1.5, cfg_scale=None), r"eta: expected .*, got 1.5"),
    ],
)
def test_samplers_check_their_numbers(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("made", [DDPM, DDIM, Euler])
def test_sampler_yaml_holds_exactly_the_constructors_numbers(made):
    numbers = OmegaConf.to_container(compose([f"sampler={made.__name__.lower()}"]).values.sampler)
    assert numbers.pop("_target_") == f"manifoldgd.diffusion.{made.__name__}"
    assert set(numbers) == set(inspect.signature(made).parameters)
    assert all(p.default is p.empty for p in inspect.signature(made).parameters.values())
    assert made(**numbers).steps == 50


# The loop, on a prior whose denoiser is exact


def draw(count, label, sampler=None, guidance=None, **kwargs):
    sampler = sampler or DDIM(steps=50, eta=0.0, cfg_scale=None)
    schedule = LINEAR.respaced(sampler.steps, sampler.spacing)
    labels = torch.full((count,), label)
    return sample(
        TOY,
        schedule,
        sampler,
        labels=labels,
        noise=kwargs.pop("noise", None) or rows(count),
        shape=(2, 1, 1),
        variance="fixed_small",
        guidance=guidance,
        **kwargs,
    )


def test_toy_denoiser_is_the_score_of_the_noised_mixture():
    x_t, timesteps, labels = (
        randn(6, 2, 1, 1),
        torch.tensor([0, 100, 300, 500, 900, 999]),
        torch.tensor([0, 0, 1, 2, 2, 0]),
    )
    x = x_t.flatten(1).double().requires_grad_()
    abar = LINEAR.alphas_cumprod[timesteps][:, None]
    parts = []
    for mean, std, weight, own in zip(MEANS.flatten(1), STDS, TOY.weights, TOY.labels, strict=True):
        scale = (abar * std**2 + 1 - abar).sqrt()
        density = torch.distributions.Normal(abar.sqrt() * mean, scale).log_prob(x).sum(1) + weight.log()
        parts.append(torch.where((labels == own) | (labels == 2), density, -torch.inf))
    torch.logsumexp(torch.stack(parts), 0).sum().backward()
    expected = -(1 - abar).sqrt() * x.grad
    torch.testing.assert_close(TOY(x_t, timesteps, labels).flatten(1).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "sampler",
    [
        DDPM(steps=100, cfg_scale=None),
        DDIM(steps=50, eta=0.0, cfg_scale=None),
        DDIM(steps=100, eta=0.6, cfg_scale=None),
    ],
    ids=["ddpm", "ddim", "ddim-eta"],
)
def test_unguided_samples_follow_the_mixture(sampler):
    single = draw(400, 1, sampler).flatten(1)
    assert (single.mean(0) - MEANS[2].flatten()).abs().max() < 0.08
    assert (single.std(0) - STDS[2]).abs().max() < 0.08
    double = draw(600, 0, sampler).flatten(1)
    second = double[:, 0] > 0
    assert abs(float(second.float().mean()) - 0.75) < 0.06
    for part, which in ((double[~second], 0), (double[second], 1)):
        assert (part.mean(0) - MEANS[which].flatten()).abs().max() < 0.12
        assert (part.std(0) - STDS[which]).abs().max() < 0.12


def test_original_timesteps_reach_the_network_noisiest_first():
    seen = []

    def network(x_t, timesteps, labels):
        seen.append(timesteps.tolist())
        return x_t

    sampler = DDPM(steps=4, cfg_scale=None)
    sample(
        network,
        LINEAR.respaced(4, "ddpm"),
        sampler,
        labels=torch.tensor([3, 3]),
        noise=rows(2),
        shape=(1, 2, 2),
        variance="fixed_large",
    )
    assert seen == [[t, t] for t in (999, 666, 333, 0)]


def test_a_guidance_that_does_not_act_leaves_every_bit():
    assert torch.equal(draw(5, 0), draw(5, 0, guidance=lambda step: None))
    ancestral = DDPM(steps=10, cfg_scale=None)
    assert torch.equal(draw(5, 0, ancestral), draw(5, 0, ancestral, guidance=lambda step: None))


@pytest.mark.parametrize("sampler", [DDPM(steps=10, cfg_scale=None), DDIM(steps=10, eta=0.5, cfg_scale=None)])
def test_rows_do_not_depend_on_their_batch(sampler):
    whole = draw(64, 0, sampler)
    keys = rows(64).rows
    for size in (1, 7):
        parts = [
            draw(len(keys[i : i + size]), 0, sampler, noise=RowNoise(0, keys[i : i + size])) for i in range(0, 64, size)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)
    assert not torch.equal(whole[0], whole[1])


def test_records_say_what_was_added():
    records, steps = [], []

    def guidance(step):
        steps.append(step)
        if step.index < 5:
            return None
        return Pull(None, torch.full_like(step.x0, 0.25), torch.full((len(step.x0),), 0.5))

    draw(3, 0, DDPM(steps=10, cfg_scale=None), guidance, on_step=records.append)
    assert [record.index for record in records] == [step.index for step in steps] == list(range(9, -1, -1))
    schedule = LINEAR.respaced(10, "ddpm")
    for record, step in zip(records, steps, strict=True):
        acts, length = record.index >= 5, 0.25 * math.sqrt(2)
        assert np.allclose(record.guidance_norm, length if acts else 0)
        assert record.kept is None or acts
        assert step.num_steps == 10
        assert step.alpha_bar == float(schedule.alphas_cumprod[step.index])
        sigma = math.sqrt(float(schedule.posterior_variance[record.index]))
        drawn = rows(3).normal("step", record.index, (2, 1, 1)).flatten(1).norm(dim=1)
        assert np.allclose(record.noise_norm, sigma * drawn, rtol=1e-5)


def test_deterministic_steps_report_the_noise_ddpm_would_add():
    records = []
    draw(3, 0, DDIM(steps=10, eta=0.0, cfg_scale=None), on_step=records.append)
    variances = LINEAR.respaced(10, "ddim").posterior_variance.flip(0)
    for record, variance in zip(records, variances, strict=True):
        assert np.allclose(record.noise_norm, math.sqrt(2 * float(variance)))
    assert records[-1].noise_norm.sum() == 0


def test_labels_and_rows_must_match():
    with pytest.raises(ValueError, match=r"labels: expected shape \(3,\)"):
        draw(2, 0, noise=rows(3))
