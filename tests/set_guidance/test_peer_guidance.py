"""Guidances after other methods' descriptions: optimal transport to weighted centres, the denoiser's features."""

import numpy as np
import pytest
import torch
from guidance_parts import MODE, SAMPLERS, SHAPE, D, anchors, draw, randn, step
from scipy.optimize import linprog
from tiny import write_tiny_prior

from manifoldgd.diffusion.protocol import Anchors, judges_in
from manifoldgd.errors import UserError
from manifoldgd.guidance import (
    AtNoisyLatent,
    CombinedGuidance,
    DenoiserFeatureGuidance,
    ModeGuidance,
    OnPrediction,
    TransportGuidance,
)
from manifoldgd.latents.features import common_noise, noised_features
from manifoldgd.priors import load_prior
from manifoldgd.set_guidance.denoiser import DenoiserEnergy
from manifoldgd.set_guidance.transport import TransportEnergy, transport_plan

TRANSPORT = {"scale": 0.3, "clusterer": None, "centres": 3, "regularisation": 0.02, "t_stop": 0.2}
DENOISER = {"rate": 0.1, "inner_steps": 4, "t_start": 0.2, "space": None, "real_per_class": 5}
CENTRES, WEIGHTS = randn(2, 3, D, seed=5), torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1, 1, 0])


def energy(labels=LABELS):
    return TransportEnergy(CENTRES, WEIGHTS, labels, 0.02)


# Transport


def exact_plan(cost, source, target):
    """The unregularised plan, as a linear programme."""
    rows, columns = cost.shape
    marginals = np.concatenate([np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))])
    found = linprog(cost.ravel(), A_eq=marginals, b_eq=np.concatenate([source, target]))
    return found.x.reshape(rows, columns)


def test_plan_has_its_marginals_and_nearly_the_least_cost():
    cost = torch.cdist(randn(5, 3).double(), randn(7, 3, seed=1).double()).square()
    source, target = torch.full((5,), 0.2, dtype=torch.float64), torch.softmax(randn(7, seed=2).double(), 0)
    plan = transport_plan(cost, source, target, 0.02)
    torch.testing.assert_close(plan.sum(1), source)
    torch.testing.assert_close(plan.sum(0), target, atol=1e-3, rtol=0)
    least = exact_plan(cost.numpy(), source.numpy(), target.numpy())
    assert float((plan * cost).sum()) == pytest.approx(float((least * cost.numpy()).sum()), rel=0.02)


def test_plan_without_regularisation_in_sight_is_that_of_independence():
    cost, source, target = randn(4, 3).double().square(), torch.full((4,), 0.25).double(), WEIGHTS[0]
    torch.testing.assert_close(transport_plan(cost, source, target, 1e6), source[:, None] * target, atol=1e-6, rtol=0)


def test_gradient_is_the_way_to_what_an_image_was_given():
    variable = randn(6, *SHAPE).requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy()(variable, 0), variable)
    for label in (0, 1):
        rows = variable.detach().flatten(1)[label == LABELS]
        cost = torch.cdist(rows.double(), CENTRES[label].double()).square()
        plan = transport_plan(cost, torch.full((3,), 1 / 3, dtype=torch.float64), WEIGHTS[label], 0.02)
        target = plan @ CENTRES[label].double() * 3
        torch.testing.assert_close(gradient.flatten(1)[label == LABELS].double(), rows - target, rtol=1e-3, atol=1e-4)


def test_equal_weights_on_as_many_centres_are_an_assignment():
    """Each image gets one centre and none is given twice, though two images are nearest to the same."""
    centres = torch.zeros(1, 3, D)
    centres[0, :, 0] = torch.tensor([0.0, 4.0, 9.0])
    x0 = torch.zeros(3, *SHAPE)
    x0.flatten(1)[:, 0] = torch.tensor([10.0, 8.0, 1.0])
    x0.requires_grad_(True)
    even = TransportEnergy(centres, torch.full((1, 3), 1 / 3, dtype=torch.float64), torch.zeros(3).long(), 0.005)
    (gradient,) = torch.autograd.grad(even(x0, 0), x0)
    torch.testing.assert_close((x0 - gradient).detach().flatten(1), centres[0][[2, 1, 0]], rtol=0, atol=0.05)


def test_heavier_centres_get_more_images():
    weights = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    centres = torch.stack([torch.zeros(D), 3 * torch.ones(D)])[None]
    labels = torch.zeros(8).long()
    x0 = (1.5 + 0.1 * randn(8, *SHAPE)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(TransportEnergy(centres, weights, labels, 0.005)(x0, 0), x0)
    target = (x0 - gradient).detach().flatten(1).mean(1)
    assert (target < 0.5).sum() == 6
    assert (target > 2.5).sum() == 2


def test_classes_do_not_see_one_another():
    x0 = randn(6, *SHAPE)
    apart = sum(energy(LABELS[label == LABELS])(x0[label == LABELS], 0) for label in (0, 1))
    torch.testing.assert_close(energy()(x0, 0), apart)


def test_transport_pulls_until_it_stops():
    own = Anchors(anchors(6).prototypes, None, energy())
    bound, now = TransportGuidance(**TRANSPORT).bind(own), step(count=6)
    variable = now.x0.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy()(variable, 0), variable)
    torch.testing.assert_close(bound(now).scaled, -0.3 * gradient)
    assert bound(step(11, count=6)) is not None
    assert bound(step(10, count=6)) is None
    method = TransportGuidance(**TRANSPORT)
    assert method.together == "class"
    assert method.evaluations(50, 50) == sum(bound(step(index, count=6)) is not None for index in range(50))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_transported_samples_come_nearer_to_the_centres(sampler):
    labels = torch.zeros(6).long()

    def away(bound):
        return float(torch.cdist(draw(6, bound, sampler).flatten(1), CENTRES[0]).amin(1).mean())

    guided = TransportGuidance(**TRANSPORT).bind(Anchors(anchors(6).prototypes, None, energy(labels)))
    assert away(guided) < away(None) - 0.1


# The denoiser's features


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior")
    write_tiny_prior(folder)
    return load_prior(path=str(folder), autoencoder=None, cfg_scale=None, cfg_channels=None)


def test_energy_is_a_kernel_distance_and_its_gradient_the_printed_one():
    real, z = randn(2, 9, 4, seed=1).double(), randn(6, 4, seed=2).double().requires_grad_(True)
    judge = DenoiserEnergy(lambda x0, labels: x0, real, LABELS)
    (gradient,) = torch.autograd.grad(judge(z, 0), z)
    for row, label in enumerate(LABELS.tolist()):
        apart = np.sort(torch.nn.functional.pdist(real[label]).numpy() ** 2)
        width = apart[(len(apart) - 1) // 2]
        difference = z[row].detach().numpy() - real[label].numpy()
        kernel = np.exp(-np.square(difference).sum(1) / width)
        np.testing.assert_allclose(gradient[row], (4 / width * kernel[:, None] * difference).mean(0), rtol=1e-6)
    alone = DenoiserEnergy(lambda x0, labels: x0, real, LABELS[:1])(z[:1], 0)
    rest = DenoiserEnergy(lambda x0, labels: x0, real, LABELS[1:])(z[1:], 0)
    torch.testing.assert_close(judge(z, 0), alone + rest)


def test_descent_brings_latents_nearer_in_the_denoisers_features(prior):
    noise, shape = common_noise(prior, 5), prior.latent_shape
    labels = torch.zeros(4).long()

    def embed(x0, classes):
        return noised_features(prior, x0, classes, noise, 5, 1)

    with torch.no_grad():
        real = embed(randn(9, *shape, seed=3), torch.zeros(9).long())[None]
    judge = DenoiserEnergy(embed, real, labels)
    method = DenoiserFeatureGuidance(**DENOISER)
    x0 = 3 * randn(4, *shape, seed=4)
    now = step(5, count=4)
    now = type(now)(5, 50, x0, x0, 0.9, now.noise)
    moved = x0 + method.bind(Anchors(x0, None, judge))(now).clean
    assert float(judge(moved, 0)) < float(judge(x0, 0))
    assert judges_in(method) == (method,)
    assert method.together is None


# All


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_no_strength_is_the_unguided_run_bit_for_bit(sampler):
    free, own = draw(4, None, sampler), Anchors(anchors(4).prototypes, None)
    for method in (
        TransportGuidance(**TRANSPORT | {"scale": 0.0}),
        DenoiserFeatureGuidance(**DENOISER | {"rate": 0.0}),
    ):
        assert not judges_in(method)
        assert torch.equal(draw(4, method.bind(own), sampler), free)


def test_wrappers_pass_on_what_a_guidance_needs():
    transport = TransportGuidance(**TRANSPORT)
    assert judges_in(OnPrediction(method=transport, noise_power=1.0)) == (transport,)
    both = CombinedGuidance(first=ModeGuidance(**MODE), then=transport)
    assert judges_in(both) == (transport,)
    assert transport.evaluations(50, 50) == 39
    with pytest.raises(UserError, match=r"^method"):
        AtNoisyLatent(method=transport)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (TransportGuidance, {"scale": -1}, r"TransportGuidance\.scale: .* got -1"),
        (TransportGuidance, {"centres": 0}, r"TransportGuidance\.centres: .* got 0"),
        (TransportGuidance, {"regularisation": 0.0}, r"TransportGuidance\.regularisation: .* got 0"),
        (TransportGuidance, {"t_stop": 3}, r"TransportGuidance\.t_stop"),
        (DenoiserFeatureGuidance, {"real_per_class": 1}, r"DenoiserFeatureGuidance\.real_per_class: .* got 1"),
    ],
)
def test_bad_numbers_name_the_key(kind, changes, message):
    numbers = TRANSPORT if kind is TransportGuidance else DENOISER
    with pytest.raises(UserError, match=message):
        kind(**numbers | changes)


@pytest.mark.parametrize("kind", [TransportGuidance, DenoiserFeatureGuidance])
def test_a_missing_energy_is_a_programming_error(kind):
    numbers = TRANSPORT if kind is TransportGuidance else DENOISER
    with pytest.raises(ValueError, match="energy: expected"):
        kind(**numbers).bind(anchors(4))
