"""Guidances that act on the predicted clean latent: where their pull goes, how strong it is, and whole samples."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from guidance_parts import (
    LINEAR,
    MANIFOLD,
    MODE,
    RELEASED,
    SAMPLERS,
    SHAPE,
    TOY,
    anchors,
    draw,
    everything,
    keys,
    randn,
    step,
)

from manifoldgd.diffusion import DDIM, DDPM, sample
from manifoldgd.diffusion.protocol import Pull, judges_in
from manifoldgd.diffusion.samplers import Prediction
from manifoldgd.errors import UserError
from manifoldgd.guidance import ManifoldGuidance, ManifoldReleasedGuidance, MatchingGuidance, ModeGuidance, OnPrediction
from manifoldgd.randomness import RowNoise


def on_x0(method, power=0.0):
    return OnPrediction(method=method, noise_power=power)


@dataclass(frozen=True)
class Fixed:
    """Pulls what it is told to."""

    pull: Pull | None
    neighbourhood: int = 7

    def bind(self, anchors):
        return lambda step: self.pull


@pytest.mark.parametrize(("power", "factor"), [(0.0, 1.0), (1.0, 0.6), (0.5, 0.6**0.5)])
def test_pull_on_the_prediction_fades_with_the_noise(power, factor):
    now, own = step(alpha_bar=0.4), anchors(5)
    pull = on_x0(ModeGuidance(**MODE | {"scale": 0.3}), power).bind(own)(now)
    torch.testing.assert_close(pull.clean, factor * 0.3 * (own.prototypes - now.x0))
    assert pull.scaled is pull.plain is pull.kept is None


def test_both_parts_of_a_pull_move_and_what_is_clean_stays():
    one, two, three, kept = randn(2, *SHAPE), randn(2, *SHAPE, seed=1), randn(2, *SHAPE, seed=2), torch.tensor([0.1, 1])
    now, own = step(count=2, alpha_bar=0.75), anchors(2)
    moved = on_x0(Fixed(Pull(one, two, kept, three)), 1.0).bind(own)(now)
    torch.testing.assert_close(moved.clean, 0.25 * (one + two) + three)
    assert moved.scaled is moved.plain is None
    assert moved.kept is kept
    untouched = Pull(None, None, None, three)
    assert on_x0(Fixed(untouched), 1.0).bind(own)(now) is untouched
    assert on_x0(Fixed(None), 1.0).bind(own)(now) is None


def test_released_pull_keeps_both_its_terms():
    now, own = step(), anchors(5)
    method = ManifoldReleasedGuidance(**RELEASED)
    apart, moved = method.bind(own)(now), on_x0(method).bind(own)(now)
    torch.testing.assert_close(moved.clean, apart.scaled + apart.plain)


def test_needs_are_those_of_the_method():
    assert on_x0(Fixed(None)).neighbourhood == 7
    now, method = step(), ManifoldGuidance(**MANIFOLD)
    kept = on_x0(method).bind(anchors(5))(now).kept
    assert torch.equal(kept, method.bind(anchors(5))(now).kept)
    assert on_x0(method).neighbourhood == 24
    for rate in (0.0, 0.1):
        method = MatchingGuidance(rate=rate, inner_steps=1, t_start=0.1, networks=1, width=1, real_per_class=1,
                                  pool_seed=None)  # fmt: skip
        assert judges_in(on_x0(method)) == ((method,) if rate else ())


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_scale_1_steps_as_if_the_prototype_had_been_predicted(sampler):
    schedule, own, now = LINEAR.respaced(20, sampler.spacing), anchors(5), step(index=12, num_steps=20)
    pull = on_x0(ModeGuidance(**MODE | {"scale": 1.0})).bind(own)(now)
    log_variance, noise = torch.full((1, 1, 1, 1), -2.0), randn(5, *SHAPE, seed=7)
    steps = [
        sampler.step(schedule, 12, now.x_t, Prediction(x0, log_variance), given, noise).x_prev
        for x0, given in ((now.x0, pull), (own.prototypes, None))
    ]
    torch.testing.assert_close(*steps)


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_guidance_on_the_prediction_is_a_denoiser_that_predicts_so(sampler, power):
    """The twin knows no guidance: its network predicts the noise of ``x0`` moved towards the prototype."""
    own, schedule, count = anchors(6), LINEAR.respaced(sampler.steps, sampler.spacing), 6

    def moved(x_t, timesteps, labels):
        noise, abar = TOY(x_t, timesteps, labels), float(LINEAR.alphas_cumprod[timesteps[0]])
        if int(timesteps[0]) == int(schedule.timesteps[0]):
            return noise
        x0 = (x_t - (1 - abar) ** 0.5 * noise) / abar**0.5
        x0 = x0 + 0.4 * (1 - abar) ** power * (own.prototypes - x0)
        return (x_t - abar**0.5 * x0) / (1 - abar) ** 0.5

    twin = sample(
        moved,
        schedule,
        sampler,
        labels=torch.zeros(count).long(),
        noise=RowNoise(0, keys(count)),
        shape=SHAPE,
        variance="fixed_small",
    )
    method = on_x0(ModeGuidance(**MODE | {"scale": 0.4, "t_stop": 0.0}), power)
    torch.testing.assert_close(draw(count, method.bind(own), sampler), twin, rtol=1e-3, atol=1e-4)


def test_ddim_acts_there_anyway():
    sampler, own = SAMPLERS[1], anchors(4)
    for method in (ModeGuidance(**MODE), ManifoldGuidance(**MANIFOLD)):
        there, anyway = (draw(4, each.bind(own), sampler) for each in (on_x0(method), method))
        assert torch.equal(there, anyway)
    faded = draw(4, on_x0(ModeGuidance(**MODE), 1.0).bind(own), sampler)
    assert not torch.allclose(faded, draw(4, ModeGuidance(**MODE).bind(own), sampler), atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_zero_scale_is_the_unguided_run_bit_for_bit(sampler):
    free = draw(4, None, sampler)
    for method in everything(scale=0.0)[:-1]:
        assert torch.equal(draw(4, on_x0(method, 1.0).bind(anchors(4)), sampler), free)


def test_stronger_pulls_end_nearer_to_the_prototypes():
    own, distances = anchors(24), []
    for scale in (0.0, 0.2, 0.5, 1.0):
        ends = draw(24, on_x0(ModeGuidance(**MODE | {"scale": scale})).bind(own), SAMPLERS[0])
        distances.append(float((ends - own.prototypes).flatten(1).norm(dim=1).mean()))
    assert all(near < far - 0.05 for far, near in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("sampler", [DDPM(steps=10, cfg_scale=None), DDIM(steps=10, eta=0.0, cfg_scale=None)])
def test_rows_do_not_depend_on_their_batch(sampler):
    own, count = anchors(9), 9
    method = on_x0(ManifoldGuidance(**MANIFOLD), 1.0)
    whole = draw(count, method.bind(own), sampler)
    for row in (0, 4, 8):
        alone = type(own)(own.prototypes[row : row + 1], own.neighbourhoods[row : row + 1])
        single = draw(1, method.bind(alone), sampler, keys(count)[row : row + 1])
        torch.testing.assert_close(single, whole[row : row + 1], rtol=1e-3, atol=1e-3)


def test_a_negative_power_names_its_key():
    with pytest.raises(UserError, match=r"noise_power: expected .*, got -1"):
        on_x0(ModeGuidance(**MODE), -1)
