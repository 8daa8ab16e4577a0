"""Flows: diffusers as a twin, closed forms, and the same mixture as a diffusion and as a flow."""

import dataclasses
import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusion_parts import DITS, LINEAR, MEANS, STDS, TOY, randn, rows

from manifoldgd.diffusion import DDIM, DDPM, Euler, FlowSchedule, sample
from manifoldgd.diffusion.protocol import Pull
from manifoldgd.diffusion.samplers import Prediction, predict
from manifoldgd.errors import UserError

FLOW = FlowSchedule.training(num_timesteps=1000)
TOY_FLOW = dataclasses.replace(TOY, schedule=FLOW, prediction="flow")


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 28])
def test_times_and_steps_equal_diffusers(shift, steps):
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    theirs.set_timesteps(steps)
    ours = FlowSchedule.training(num_timesteps=1000, shift=shift).respaced(steps, "flow")
    torch.testing.assert_close(ours.timesteps, theirs.timesteps.flip(0), rtol=1e-5, atol=1e-3)
    sampler, theirs_x, ours_x = Euler(steps=steps, eta=0.0, cfg_scale=None), randn(2, 4, 3, 3), randn(2, 4, 3, 3)
    for index in reversed(range(steps)):
        velocity = randn(2, 4, 3, 3, seed=index)
        theirs_x = theirs.step(velocity, theirs.timesteps[steps - 1 - index], theirs_x).prev_sample
        prediction = predict(ours, index, ours_x, velocity, variance="fixed_small", prediction="flow")
        ours_x = sampler.step(ours, index, ours_x, prediction, None, None).x_prev
        torch.testing.assert_close(ours_x, theirs_x, rtol=1e-3, atol=1e-4)


def test_v_prediction_equals_diffusers():
    theirs = DDIMScheduler(**DITS, prediction_type="v_prediction", timestep_spacing="leading", steps_offset=0)
    theirs.set_timesteps(50)
    schedule, x_t, output = LINEAR.respaced(50, "ddim"), randn(2, 4, 3, 3), randn(2, 4, 3, 3, seed=1)
    for index in (1, 25, 49):
        found = predict(schedule, index, x_t, output, variance="fixed_small", prediction="v_prediction")
        expected = theirs.step(output, int(schedule.timesteps[index]), x_t)
        torch.testing.assert_close(found.x0, expected.pred_original_sample, rtol=1e-4, atol=1e-5)
        ours = DDIM(steps=50, eta=0.0, cfg_scale=None).step(schedule, index, x_t, found, None, None)
        torch.testing.assert_close(ours.x_prev, expected.prev_sample, rtol=1e-4, atol=1e-4)


def test_all_predictions_of_one_network_mean_the_same_image():
    """What is predicted is a choice: eps and v of x_t, and the velocity of the flow's latent that holds the same."""
    x_t, labels = randn(6, 2, 1, 1), torch.tensor([0, 0, 1, 2, 2, 0])
    schedule = LINEAR.respaced(50, "ddpm")
    for index in (0, 20, 49):
        at = torch.full((6,), int(schedule.timesteps[index]))
        found = []
        for kind in ("epsilon", "v_prediction"):
            output = dataclasses.replace(TOY, prediction=kind)(x_t, at, labels)
            found.append(predict(schedule, index, x_t, output, variance="fixed_small", prediction=kind).x0)
        alpha, sigma = float(schedule.alphas[index]), float(schedule.sigmas[index])
        time = sigma / (alpha + sigma)
        flow = FlowSchedule(torch.tensor([time], dtype=torch.float64), 0.0, 1000.0, 1.0)
        seen = x_t / (alpha + sigma)
        output = TOY_FLOW(seen, torch.full((6,), 1000 * time), labels)
        found.append(predict(flow, 0, seen, output, variance="fixed_small", prediction="flow").x0)
        for each in found[1:]:
            torch.testing.assert_close(each, found[0], rtol=1e-3, atol=1e-3)
        latent, alpha_bar = flow.as_diffusion(seen, 0)
        torch.testing.assert_close(latent, x_t, rtol=1e-5, atol=1e-6)
        assert math.isclose(alpha_bar, float(schedule.alphas_cumprod[index]), rel_tol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_an_euler_step_is_ddim_of_the_diffusion_that_holds_the_same(eta):
    """Also where a guidance pulls; ``x_t`` differs by the scale of each time alone."""
    diffusion = LINEAR.respaced(20, "ddim")
    total = diffusion.alphas + diffusion.sigmas
    flow = FlowSchedule(diffusion.sigmas / total, 0.0, 1000.0, 1.0)
    x_t, x0, draws, shift = (randn(2, 4, 3, 3, seed=seed) for seed in range(4))
    prediction, pull = Prediction(x0, None), Pull(shift, None, None)
    for index in (0, 1, 9, 19):
        ddim = DDIM(steps=20, eta=eta, cfg_scale=None).step(diffusion, index, x_t, prediction, pull, draws)
        seen = x_t / float(total[index])
        euler = Euler(steps=20, eta=eta, cfg_scale=None).step(flow, index, seen, prediction, pull, draws)
        scale = float(total[index - 1]) if index else 1.0
        torch.testing.assert_close(euler.x_prev * scale, ddim.x_prev, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(euler.guidance * scale, ddim.guidance, rtol=1e-4, atol=1e-4)
        assert math.isclose(
            float(flow.posterior_variance[index]) * scale**2, float(diffusion.posterior_variance[index]), abs_tol=1e-9
        )


def draw(count, label, sampler, toy=TOY_FLOW, guidance=None):
    return sample(
        toy,
        toy.schedule.respaced(sampler.steps, sampler.spacing),
        sampler,
        labels=torch.full((count,), label),
        noise=rows(count),
        shape=(2, 1, 1),
        variance="fixed_small",
        prediction=toy.prediction,
        guidance=guidance,
    )


TOY_V = dataclasses.replace(TOY, prediction="v_prediction")
LAWS = {
    "euler": (Euler(steps=50, eta=0.0, cfg_scale=None), TOY_FLOW),
    "euler-noise": (Euler(steps=100, eta=1.0, cfg_scale=None), TOY_FLOW),
    "ddim-v": (DDIM(steps=50, eta=0.0, cfg_scale=None), TOY_V),
    "ddpm-v": (DDPM(steps=100, cfg_scale=None), TOY_V),
}


@pytest.mark.parametrize("name", LAWS)
def test_samples_follow_the_mixture_whatever_is_predicted(name):
    sampler, toy = LAWS[name]
    double = draw(600, 0, sampler, toy).flatten(1)
    second = double[:, 0] > 0
    assert abs(float(second.float().mean()) - 0.75) < 0.06
    for part, which in ((double[~second], 0), (double[second], 1)):
        assert (part.mean(0) - MEANS[which].flatten()).abs().max() < 0.12
        assert (part.std(0) - STDS[which]).abs().max() < 0.12


def test_flow_and_diffusion_carry_the_same_noise_to_the_same_images():
    """Both follow the one deterministic map between noise and mixture, up to the size of their steps."""
    one = draw(200, 1, Euler(steps=250, eta=0.0, cfg_scale=None))
    other = draw(200, 1, DDIM(steps=250, eta=0.0, cfg_scale=None), TOY)
    assert float((one - other).norm() / other.norm()) < 0.05


def test_a_guidance_sees_a_diffusion_of_a_flow():
    seen = []

    def guidance(step):
        seen.append(step)
        return None

    plain = draw(5, 0, Euler(steps=10, eta=0.5, cfg_scale=None))
    assert torch.equal(plain, draw(5, 0, Euler(steps=10, eta=0.5, cfg_scale=None), guidance=guidance))
    levels = [step.alpha_bar for step in seen]
    assert levels == sorted(levels)
    assert 0 < levels[0] < 1e-4
    assert levels[-1] < 1
    for step in seen[1:]:  # exact predictions: x_t is the mean image and noise of variance 1 - abar at the most
        spread = (step.x_t - math.sqrt(step.alpha_bar) * step.x0).flatten(1).std()
        assert float(spread) < 3 * math.sqrt(1 - step.alpha_bar)


def test_a_sampler_of_the_other_kind_is_refused_with_the_one_to_take():
    with pytest.raises(UserError, match=r"^sampler: ddpm .* flow; set sampler=euler"):
        FLOW.respaced(10, "ddpm")
    with pytest.raises(UserError, match=r"^sampler: euler .* diffusion; set sampler=ddim"):
        LINEAR.respaced(10, "flow")
    with pytest.raises(UserError, match=r"^steps: needs to be in \[1, 1000\], got 1001"):
        FLOW.respaced(1001, "flow")
