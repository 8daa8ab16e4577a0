"""Geometry in other places than the paper's, and readings of the paper: closed forms and whole samples."""

import dataclasses

import numpy as np
import pytest
import torch
from guidance_parts import LINEAR, MANIFOLD, MODE, RELEASED, SAMPLERS, SHAPE, D, anchors, draw, keys, randn, step

from manifoldgd.diffusion import DDPM, Euler, FlowSchedule, sample
from manifoldgd.diffusion.protocol import Anchors, Step
from manifoldgd.errors import UserError
from manifoldgd.geometry.neighbourhoods import Neighbourhoods
from manifoldgd.geometry.posterior import posterior_weights
from manifoldgd.geometry.tangent import principal_axes, project, tangent_basis
from manifoldgd.guidance import (
    AtNoisyLatent,
    CombinedGuidance,
    DenoiserKalmanGuidance,
    KalmanGuidance,
    LateGuidance,
    ManifoldGuidance,
    ManifoldReleasedGuidance,
    MatchingGuidance,
    ModeGuidance,
    ProjectedTargetGuidance,
)
from manifoldgd.randomness import RowNoise

KALMAN = {"scale": 4.0, "neighbourhood": 24, "axes": 23, "t_stop": 0.0}


def mode_at_x_t(**changes):
    return AtNoisyLatent(method=ModeGuidance(**MODE | changes))


def mode_then_manifold(scale=0.1):
    late = LateGuidance(method=ManifoldGuidance(**MANIFOLD | {"scale": scale, "t_stop": 0.0}), t_start=0.5)
    return CombinedGuidance(first=ModeGuidance(**MODE | {"scale": scale, "t_stop": 0.5}), then=late)


def everything(**changes):
    """One of each, with the same changed scale."""
    return [
        ProjectedTargetGuidance(**MANIFOLD | changes),
        ProjectedTargetGuidance(**MANIFOLD | {"estimator": "clean"} | changes),
        KalmanGuidance(**KALMAN | changes),
        mode_at_x_t(**changes),
        AtNoisyLatent(method=ManifoldGuidance(**MANIFOLD | changes)),
        mode_then_manifold(**changes),
    ]


# The projected target


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_points_are_projected_on_the_plane_through_the_weighted_mean(share):
    """The twin takes the SVD of the weighted neighbours where the code works with their Gram matrix."""
    now, own = step(alpha_bar=0.1), anchors(5)
    neighbourhoods, x_t, points = own.neighbourhoods, now.x_t.flatten(1), own.prototypes.flatten(1)
    weights = (1 - share) * posterior_weights(x_t.double(), neighbourhoods.double(), 0.1) + share / 24
    mean = (weights[:, :, None] * neighbourhoods).sum(1)
    basis = tangent_basis(neighbourhoods.double(), 4, weights, method="svd")
    found = Neighbourhoods(neighbourhoods).project_points(
        points, x_t, 0.1, within=24, neighbours=24, rank=4, uniform_share=share
    )
    torch.testing.assert_close(found.double(), mean + project(points - mean, basis), rtol=1e-2, atol=2e-3)


def test_a_plane_that_holds_the_data_holds_the_target():
    """Neighbours and prototype on one plane: nothing is projected away, and the pull is mode guidance's."""
    plane, origin = torch.linalg.qr(randn(D, 4, seed=9))[0], 3 + randn(D, seed=11)
    points = origin + randn(3, 24, 4, seed=8) @ plane.T
    inside = Anchors((origin + randn(3, 4, seed=7) @ plane.T).view(-1, *SHAPE), points)
    numbers = MANIFOLD | {"estimator": "clean"}
    ours = ProjectedTargetGuidance(**numbers).bind(inside)(step(count=3)).scaled
    torch.testing.assert_close(ours, ModeGuidance(**MODE).bind(inside)(step(count=3)).scaled, rtol=1e-3, atol=1e-4)
    # A prototype off the plane is replaced by its foot; manifold guidance would cut the way to it instead.
    normal = torch.linalg.qr(torch.cat([plane, randn(D, 1, seed=12)], dim=1))[0][:, -1]
    above = Anchors((inside.prototypes.flatten(1) + 2 * normal).view(-1, *SHAPE), points)
    torch.testing.assert_close(
        ProjectedTargetGuidance(**numbers).bind(above)(step(count=3)).scaled, ours, rtol=1e-3, atol=1e-4
    )


# Kalman


def covariance(points):
    centred = points.double().numpy() - points.double().numpy().mean(1, keepdims=True)
    return np.einsum("bkd,bke->bde", centred, centred) / points.shape[1]


@pytest.mark.parametrize("alpha_bar", [0.02, 0.4, 0.95])
def test_kalman_gain_is_the_printed_matrix(alpha_bar):
    now, own = step(alpha_bar=alpha_bar), anchors(5)
    pull, ratio, identity = KalmanGuidance(**KALMAN).bind(own)(now), (1 - alpha_bar) / alpha_bar, np.eye(D)
    for row, data in enumerate(covariance(own.neighbourhoods)):
        posterior = data @ np.linalg.inv(data + ratio * identity) * ratio
        gain = posterior @ np.linalg.inv(posterior + identity / 4.0)
        expected = gain @ (own.prototypes - now.x0)[row].flatten().double().numpy()
        np.testing.assert_allclose(pull.clean[row].flatten(), expected, rtol=1e-3, atol=1e-4)
    assert pull.scaled is pull.plain is None
    assert ((pull.kept > 0) & (pull.kept < 1)).all()


def test_kalman_conditions_a_gaussian_on_the_noisy_latent_and_the_prototype():
    """Data N(m, C), x_t and c observed: the twin conditions the joint Gaussian in one step, the guidance in two."""
    own, abar = anchors(4), 0.3
    for row, data in enumerate(covariance(own.neighbourhoods)):
        mean, prototype = (
            each[row].flatten().double().numpy() for each in (own.neighbourhoods.mean(1), own.prototypes)
        )
        x_t = mean + np.linspace(-1, 1, D)
        identity = np.eye(D)
        seen_through = np.concatenate([abar**0.5 * identity, identity])
        noise = np.diag(np.repeat([1 - abar, 1 / 4.0], D))
        surprise = np.concatenate([x_t, prototype]) - seen_through @ mean
        joint = seen_through @ data @ seen_through.T + noise
        expected = mean + data @ seen_through.T @ np.linalg.solve(joint, surprise)
        denoised = mean + abar**0.5 * data @ np.linalg.solve(
            abar * data + (1 - abar) * identity, x_t - abar**0.5 * mean
        )
        one = Anchors(own.prototypes[row : row + 1], own.neighbourhoods[row : row + 1])
        x0 = torch.tensor(denoised, dtype=torch.float32).view(1, *SHAPE)
        now = dataclasses.replace(step(count=1, alpha_bar=abar), x0=x0)
        found = x0 + KalmanGuidance(**KALMAN).bind(one)(now).clean
        np.testing.assert_allclose(found.flatten(), expected, rtol=1e-3, atol=1e-3)


def test_kalman_gain_falls_with_the_noise_and_rises_with_the_scale():
    own = anchors(5)

    def length(scale, alpha_bar):
        pull = KalmanGuidance(**KALMAN | {"scale": scale}).bind(own)(step(alpha_bar=alpha_bar)).clean
        return float(pull.flatten(1).norm(dim=1).mean())

    assert length(4.0, 0.05) > length(4.0, 0.5) > length(4.0, 0.99) > 0
    assert length(40.0, 0.5) > length(4.0, 0.5)
    assert length(4.0, 1 - 1e-9) < 1e-6


def test_kalman_in_one_direction_is_the_scalar_gain():
    line = torch.nn.functional.normalize(randn(D, seed=9), dim=0)
    points = (randn(2, 24, 1, seed=8) * 1.5) * line
    own = Anchors(randn(2, *SHAPE, seed=1), points)
    now = step(count=2, alpha_bar=0.5)
    pull = KalmanGuidance(**KALMAN | {"axes": 1}).bind(own)(now).clean.flatten(1)
    variance = (points @ line).var(1, correction=0)
    posterior = variance / (variance + 1)  # ratio 1
    along = (own.prototypes - now.x0).flatten(1) @ line
    torch.testing.assert_close(pull, (posterior / (posterior + 0.25) * along)[:, None] * line, rtol=1e-3, atol=1e-4)


def test_kalman_without_axes_is_the_gain_of_a_round_neighbourhood():
    """Random signs along every axis of a cube: its covariance is the identity, so both ways say the same."""
    corners = torch.eye(D).repeat(2, 1) * torch.cat([torch.ones(D), -torch.ones(D)])[:, None] * (D * 0.7) ** 0.5
    own, now = Anchors(randn(2, *SHAPE, seed=1), corners.expand(2, -1, -1)), step(count=2)
    numbers = KALMAN | {"neighbourhood": 2 * D}
    round_one, pull = (KalmanGuidance(**numbers | {"axes": axes}).bind(own)(now) for axes in (0, 2 * D - 1))
    torch.testing.assert_close(round_one.clean, pull.clean, rtol=1e-3, atol=1e-4)
    posterior = 0.7 * 1.5 / (0.7 + 1.5)
    torch.testing.assert_close(round_one.clean, posterior / (posterior + 0.25) * (own.prototypes - now.x0))


# Kalman by the denoiser's own covariance


def gaussian_step(covariance, mean, x_t, alpha_bar):
    """A step of the denoiser that knows the data to be N(mean, covariance)."""
    ratio = (1 - alpha_bar) / alpha_bar
    gain = covariance @ torch.linalg.inv(covariance + ratio * torch.eye(D))

    def x0_of(seen):
        flat = seen.flatten(1) / alpha_bar**0.5 - mean
        return (mean + flat @ gain.T).view_as(seen)

    def change_of(change):
        return x0_of(x_t + change) - x0_of(x_t)

    return Step(40, 50, x_t, x0_of(x_t), alpha_bar, RowNoise(0, keys(len(x_t))), change_of=change_of), gain * ratio


@pytest.mark.parametrize("alpha_bar", [1e-3, 0.4, 0.99])
def test_the_denoisers_jacobian_is_the_covariance_that_the_formula_names(alpha_bar):
    """Gaussian data, whose covariance given x_t is known; the gain is that of one step of conjugate gradients."""
    factor = randn(D, D, seed=9) / D**0.5
    now, posterior = gaussian_step(factor @ factor.T, randn(D, seed=11), randn(5, *SHAPE, seed=3), alpha_bar)
    prototypes = randn(5, *SHAPE, seed=1)
    pull = DenoiserKalmanGuidance(scale=4.0, t_stop=0.0).bind(Anchors(prototypes, None))(now)
    vectors = (prototypes - now.x0).flatten(1)
    along = vectors @ posterior.T
    rho = (along * vectors).sum(1) / vectors.square().sum(1)
    torch.testing.assert_close(pull.clean.flatten(1), along / (rho + 0.25)[:, None], rtol=2e-3, atol=2e-3)
    assert pull.scaled is pull.plain is None


def test_for_round_data_the_denoisers_gain_is_kalmans():
    """Where every direction varies alike, one step of conjugate gradients is the exact solution."""
    prototypes = randn(5, *SHAPE, seed=1)
    now, _ = gaussian_step(0.7 * torch.eye(D), randn(D, seed=11), randn(5, *SHAPE, seed=3), 0.4)
    pull = DenoiserKalmanGuidance(scale=4.0, t_stop=0.0).bind(Anchors(prototypes, None))(now)
    posterior = 0.7 * 1.5 / (0.7 + 1.5)
    torch.testing.assert_close(pull.clean, posterior / (posterior + 0.25) * (prototypes - now.x0), rtol=1e-3, atol=1e-4)


def test_a_prototype_that_is_reached_pulls_no_more_and_a_jacobian_below_zero_pulls_nothing():
    prototypes = randn(5, *SHAPE, seed=1)
    guidance = DenoiserKalmanGuidance(scale=4.0, t_stop=0.0).bind(Anchors(prototypes, None))
    there = dataclasses.replace(step(), x0=prototypes, change_of=lambda change: 0 * change)
    assert torch.equal(guidance(there).clean, torch.zeros_like(prototypes))
    now = step()
    backwards = dataclasses.replace(now, change_of=lambda change: -change)
    assert torch.equal(guidance(backwards).clean, torch.zeros_like(prototypes))


def test_numbers_of_the_denoiser_that_are_not_finite_are_not_hidden():
    now = step()
    broken = dataclasses.replace(now, change_of=lambda change: change * torch.nan)
    pull = DenoiserKalmanGuidance(scale=4.0, t_stop=0.0).bind(anchors(5))(broken)
    assert pull.clean.isnan().all()
    with pytest.raises(ValueError, match=r"^step.change_of"):
        DenoiserKalmanGuidance(scale=4.0, t_stop=0.0).bind(anchors(5))(now)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("schedule", ["diffusion", "flow"])
def test_the_loop_asks_the_denoiser_near_the_latent_that_guidance_sees(schedule, half):
    """Of a flow too, whose latents guidance sees at another scale, and with all digits where networks have few."""
    found = []

    def guidance(now):
        found.append(now.change_of(torch.zeros_like(now.x_t)).abs().max())
        change = now.change_of(1e-3 * torch.ones_like(now.x_t))
        found.append((change / slope(now) - 1).abs().max())

    def slope(now):  # of a network that gives 0.3 of what it sees
        if schedule == "flow":
            ratio = ((1 - now.alpha_bar) / now.alpha_bar) ** 0.5
            alpha, sigma = 1 / (1 + ratio), ratio / (1 + ratio)
            return 1e-3 * (1 - 0.3 * sigma) * (alpha**2 + sigma**2) ** 0.5
        return 1e-3 * (1 - 0.3 * (1 - now.alpha_bar) ** 0.5) / now.alpha_bar**0.5

    weight = torch.full((1, 1), 0.3)

    def denoiser(x_t, times, labels):
        return (x_t.reshape(-1, 1) @ weight).view_as(x_t)  # in half precision where networks work in it

    numbers = {"labels": torch.zeros(3).long(), "noise": RowNoise(0, keys(3)), "shape": SHAPE, "guidance": guidance}
    numbers |= {"variance": "fixed_small", "prediction": "flow" if schedule == "flow" else "epsilon"}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        if schedule == "flow":
            flow = FlowSchedule.training(num_timesteps=1000).respaced(6, "flow")
            sample(denoiser, flow, Euler(steps=6, eta=0.0, cfg_scale=None), **numbers)
        else:
            sample(denoiser, LINEAR.respaced(6, "ddpm"), DDPM(steps=6, cfg_scale=None), **numbers)
    assert len(found) == 12
    assert max(found[0::2]) < 1e-6
    assert max(found[1::2]) < 0.05


@pytest.mark.parametrize("method", ["gram", "svd"])
def test_axes_come_with_their_variances(method):
    points = randn(3, 12, D).double() * torch.linspace(2, 0.1, D)
    basis, variances = principal_axes(points, 11, method=method)
    for row, data in enumerate(covariance(points)):
        np.testing.assert_allclose(variances[row], np.linalg.eigvalsh(data)[::-1][:11], rtol=1e-6)
        along = basis[row].numpy() @ data @ basis[row].numpy().T
        np.testing.assert_allclose(along, np.diag(variances[row]), atol=1e-9)


# Readings of the paper


def test_the_printed_gradient_is_taken_at_the_noisy_latent():
    now, own = step(), anchors(5)
    pull = mode_at_x_t().bind(own)(now)
    torch.testing.assert_close(pull.scaled, 0.1 * (own.prototypes - now.x_t))
    manifold = ManifoldGuidance(**MANIFOLD)
    there = dataclasses.replace(now, x0=now.x_t)
    found = AtNoisyLatent(method=manifold).bind(own)(now)
    assert torch.equal(found.scaled, manifold.bind(own)(there).scaled)
    assert AtNoisyLatent(method=manifold).neighbourhood == 24


def test_one_method_follows_the_other():
    own = anchors(5)
    both = mode_then_manifold().bind(own)
    mode, manifold = (
        kind(**numbers).bind(own) for kind, numbers in ((ModeGuidance, MODE), (ManifoldGuidance, MANIFOLD))
    )
    for index, alone in ((49, mode), (26, mode), (25, manifold), (11, manifold)):
        assert torch.equal(both(step(index)).scaled, alone(step(index)).scaled), index
    assert both(step(1)) is not None
    assert both(step(0)) is None
    assert mode_then_manifold().neighbourhood == 24
    late = LateGuidance(method=ManifoldReleasedGuidance(**RELEASED | {"t_stop": 0.0}), t_start=1.0)
    assert late.bind(own)(step(49)) is not None


# Whole samples


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_zero_scale_is_the_unguided_run_bit_for_bit(sampler):
    free = draw(4, None, sampler)
    for method in everything(scale=0.0):
        assert torch.equal(draw(4, method.bind(anchors(4)), sampler), free), method


@pytest.mark.parametrize("number", range(6))
def test_rows_do_not_depend_on_their_batch(number):
    sampler, own, count, method = DDPM(steps=10, cfg_scale=None), anchors(9), 9, everything()[number]
    whole = draw(count, method.bind(own), sampler)
    for row in (0, 4, 8):
        alone = Anchors(own.prototypes[row : row + 1], own.neighbourhoods[row : row + 1])
        single = draw(1, method.bind(alone), sampler, keys(count)[row : row + 1])
        torch.testing.assert_close(single, whole[row : row + 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_guided_samples_come_nearer_to_their_prototypes(sampler):
    own = anchors(24)

    def away(method):
        ends = draw(24, method and method.bind(own), sampler)
        return float((ends - own.prototypes).flatten(1).norm(dim=1).mean())

    free = away(None)
    for method in [*everything(), DenoiserKalmanGuidance(scale=4.0, t_stop=0.0)]:
        assert away(method) < free - 0.01, method


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProjectedTargetGuidance(**MANIFOLD | {"estimator": "noised"}), r"^estimator: .* got noised"),
        (lambda: KalmanGuidance(**KALMAN | {"scale": -1.0}), r"KalmanGuidance\.scale: .*, got -1"),
        (lambda: KalmanGuidance(**KALMAN | {"axes": 24}), r"^axes: .* got axes=24, neighbourhood=24"),
        (lambda: KalmanGuidance(**KALMAN | {"t_stop": 2}), r"KalmanGuidance\.t_stop"),
        (lambda: LateGuidance(method=ModeGuidance(**MODE), t_start=25), r"LateGuidance\.t_start: .* got 25"),
        (lambda: AtNoisyLatent(method=matching()), r"^method"),
        (lambda: LateGuidance(method=matching(), t_start=0.5), r"^method"),
    ],
)
def test_bad_numbers_name_the_key(make, message):
    with pytest.raises(UserError, match=message):
        make()


def matching():
    numbers = {"inner_steps": 1, "t_start": 0.1, "networks": 1, "width": 1, "real_per_class": 1, "pool_seed": None}
    return MatchingGuidance(rate=0.1, **numbers)


@pytest.mark.parametrize("kind", [ProjectedTargetGuidance, KalmanGuidance])
def test_missing_neighbourhoods_are_a_programming_error(kind):
    numbers = MANIFOLD if kind is ProjectedTargetGuidance else KALMAN
    with pytest.raises(ValueError, match=r"neighbourhoods: expected \[B, 24, D\], got None"):
        kind(**numbers).bind(Anchors(randn(2, *SHAPE), None))
