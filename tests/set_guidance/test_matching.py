"""Matching guidance: its energy, its random networks, and the descent inside the sampler."""

import dataclasses

import pytest
import torch
from guidance_parts import LINEAR, MANIFOLD, MODE, SAMPLERS, SHAPE, anchors, draw, randn
from guidance_parts import step as step_at
from matching_parts import pool
from tiny import cpu

from manifoldgd.data import digits
from manifoldgd.diffusion.protocol import Anchors, Pull, judges_in
from manifoldgd.diffusion.samplers import Prediction
from manifoldgd.errors import UserError
from manifoldgd.guidance import CombinedGuidance, ManifoldGuidance, MatchingGuidance, ModeGuidance, NoGuidance
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.priors.prior import as_pixels
from manifoldgd.set_guidance.matching import MatchingEnergy
from manifoldgd.set_guidance.networks import RandomNetworks, depth_for, real_means

MATCHING = {
    "rate": 0.1,
    "inner_steps": 3,
    "t_start": 0.5,
    "networks": 2,
    "width": 4,
    "real_per_class": 5,
    "pool_seed": None,
}


def energy_of(labels, networks=None, decode=lambda z: z, classes=3):
    networks = networks or pool()
    width = networks.embed(0, torch.zeros(1, 1, 8, 8)).shape[1]
    means = randn(len(networks), classes, width, seed=5)
    return MatchingEnergy(decode, torch.tensor(labels), networks, means)


def test_the_energy_is_the_sum_of_squared_distances_of_class_means():
    labels = [2, 0, 2, 0, 0]
    energy, z = energy_of(labels, decode=lambda z: 2 * z - 0.1), randn(5, 1, 8, 8)
    for turn in range(5):
        network = energy.networks.networks[turn % 2]
        features = network.features((((2 * z - 0.1) + 1) / 2 - 0.4) / 0.3).double()
        twin = 0.0
        for label in set(labels):
            mean = sum(features[row] for row in range(5) if labels[row] == label) / labels.count(label)
            twin += float(((mean - energy.means[turn % 2, sorted(set(labels)).index(label)].double()) ** 2).sum())
        assert float(energy(z, turn)) == pytest.approx(twin, rel=1e-5)


def test_the_energy_is_additive_over_classes_and_blind_to_the_order_of_rows():
    labels, z = [0, 0, 1, 1, 2], randn(5, 1, 8, 8)
    whole = float(energy_of(labels)(z, 1))
    parts = [float(energy_of([0, 0])(z[:2], 1)), float(energy_of([1, 1])(z[2:4], 1)), float(energy_of([2])(z[4:], 1))]
    assert min(parts) > 0
    assert whole == pytest.approx(sum(parts), rel=1e-5)
    for order in ([1, 0, 2, 3, 4], [4, 2, 0, 3, 1], [4, 3, 2, 1, 0]):
        assert float(energy_of([labels[row] for row in order])(z[order], 1)) == pytest.approx(whole, rel=1e-5)


def test_a_class_pulls_at_its_own_rows_only():
    z = randn(4, 1, 8, 8).requires_grad_(True)
    together = torch.autograd.grad(energy_of([0, 1, 0, 1])(z, 0), z)[0]
    alone = torch.autograd.grad(energy_of([0, 0])(z[[0, 2]], 0), z)[0]
    assert torch.equal(alone[[1, 3]], torch.zeros(2, 1, 8, 8))
    assert float(alone[[0, 2]].abs().min(0).values.max()) > 0
    torch.testing.assert_close(together[[0, 2]], alone[[0, 2]])


def test_the_energy_of_the_averaged_real_images_is_zero():
    dataset, networks = digits(train_per_class=3, validation=None), pool()
    means = real_means(networks, dataset, 3, torch.device("cpu"))
    real, labels = as_pixels(dataset.train.images()), dataset.train.labels
    energy = MatchingEnergy(lambda z: z, labels, networks, means)
    for turn in range(2):
        assert float(energy(real, turn)) < 1e-8 * float(energy(real.flip(0), turn))


def prepared(dataset, folder, **changes):
    """The energy of a batch with an image of each class: it holds the pool and the real means."""
    method = MatchingGuidance(**MATCHING | changes)
    return method.prepare(RealImages(dataset, cpu(), folder))(lambda z: z, torch.arange(10))


def test_real_means_are_means_of_training_images(tmp_path):
    def forbidden(positions):
        raise AssertionError("the test split was read")

    dataset = digits(train_per_class=6, validation=None)
    dataset = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, load=forbidden))
    found = prepared(dataset, tmp_path, real_per_class=100)
    assert found.means.shape == (2, 10, found.networks.embed(0, torch.zeros(1, 1, 8, 8)).shape[1])
    images = as_pixels(dataset.train.load(torch.nonzero(dataset.train.labels == 7).flatten()))
    torch.testing.assert_close(found.means[1, 7], found.networks.embed(1, images).mean(0))
    few = real_means(found.networks, dataset, 2, torch.device("cpu"))
    torch.testing.assert_close(few, real_means(found.networks, dataset, 2, torch.device("cpu")))
    assert not torch.allclose(few, found.means)
    again = prepared(dataset, tmp_path, real_per_class=100)  # from the cache
    assert torch.equal(again.means, found.means)
    assert len(list((tmp_path / "matching").glob("*.safetensors"))) == 1
    prepared(dataset, tmp_path, real_per_class=2)
    assert len(list((tmp_path / "matching").glob("*.safetensors"))) == 2


def test_everyone_has_the_same_networks():
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = [float(sum(p.double().abs().sum() for p in network.parameters())) for network in pool(3).networks]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one == pytest.approx([14.995694, 15.384229, 15.181342], rel=1e-6)
    assert not any(p.requires_grad for network in pool(1).networks for p in network.parameters())


def test_a_pool_seed_draws_other_networks_and_other_real_images(tmp_path):
    dataset = digits(train_per_class=6, validation=None)
    pools = [None, 0, 1]
    found = [prepared(dataset, tmp_path, real_per_class=2, pool_seed=seed).networks for seed in pools]
    assert [one.seed for one in found] == pools
    assert len(list((tmp_path / "matching").glob("*.safetensors"))) == 3
    weights = [next(one.networks[0].parameters()) for one in found]
    again = next(RandomNetworks((1, 8, 8), count=1, width=4, mean=(0.4,), std=(0.3,), precision="32-true",
                                seed=1).networks[0].parameters())  # fmt: skip
    assert torch.equal(again, weights[2])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (weights[one] - weights[other]).abs().max() > 0.01
    # The same networks with other real images: only the draw differs.
    means = []
    for seed in pools:
        one = pool()
        one.seed = seed
        means.append(real_means(one, dataset, 2, torch.device("cpu")))
    assert not torch.allclose(means[0], means[1])
    assert not torch.allclose(means[1], means[2])


@pytest.mark.parametrize(("side", "depth"), [(8, 1), (28, 3), (32, 3), (64, 4), (224, 6), (256, 6)])
def test_depth_leaves_three_pixels_or_more(side, depth):
    assert depth_for((3, side, side)) == depth
    assert depth_for((3, 2 * side, side)) == depth


def test_features_are_differentiable_and_the_same_with_and_without_gradients():
    networks, pixels = pool(), randn(3, 1, 8, 8).requires_grad_(True)
    features = networks.embed(1, pixels)
    (gradient,) = torch.autograd.grad(features.square().sum(), pixels)
    assert float(gradient.abs().sum()) > 0
    torch.testing.assert_close(networks.embed(1, pixels.detach()), features.detach(), atol=1e-5, rtol=1e-5)


def test_half_precision_stays_close():
    pixels = randn(3, 1, 32, 32)
    full, half = (pool(precision=precision, shape=(1, 32, 32)) for precision in ("32-true", "bf16-mixed"))
    wanted = full.embed(0, pixels)
    for each in (pixels, pixels.clone().requires_grad_(True)):  # real and synthetic images
        found = half.embed(0, each).detach()
        assert found.dtype == torch.float32
        assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.02


class Quadratic:
    """``sum (x0 - goal)^2 * weight``; each draw is another weight."""

    def __init__(self, goal):
        self.goal, self.draws = goal, []

    def __call__(self, x0, draw):
        self.draws.append(draw)
        return ((x0 - self.goal).square() * (1 + draw % 3)).sum()


def test_the_descent_is_adams_and_goes_on_over_the_steps():
    start, energy = randn(2, *SHAPE), Quadratic(randn(2, *SHAPE, seed=1))
    bound = MatchingGuidance(**MATCHING).bind(Anchors(start, None, energy))
    twin = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([twin], lr=0.1, betas=(0.9, 0.99), eps=1e-12)
    for index in (4, 3, 2):
        x0 = randn(2, *SHAPE, seed=10 + index)  # the denoiser's word moves from step to step, Adam's averages stay
        with torch.no_grad():
            pull = bound(dataclasses.replace(step_at(index, 2, 10), x0=x0))
            twin.copy_(x0)
        for each in range(3):
            adam.zero_grad()
            ((twin - energy.goal).square() * (1 + (3 * (4 - index) + each) % 3)).sum().backward()
            adam.step()
        torch.testing.assert_close(x0 + pull.clean, twin.detach(), atol=1e-5, rtol=1e-5)
        assert (pull.scaled, pull.plain, pull.kept) == (None, None, None)
        assert not pull.clean.requires_grad
    assert energy.draws == list(range(9))


def test_matching_acts_in_the_last_steps_only():
    energy = Quadratic(torch.zeros(2, *SHAPE))
    for t_start, first in ((0.5, 4), (0.2, 1), (1.0, 9), (0.0, -1)):
        bound = MatchingGuidance(**MATCHING | {"t_start": t_start}).bind(Anchors(randn(2, *SHAPE), None, energy))
        assert [index for index in range(10) if bound(step_at(index, 2, 10)) is not None] == list(range(first + 1))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_a_clean_pull_is_a_step_from_another_prediction(sampler):
    schedule, x_t, x0, clean = LINEAR.respaced(20, sampler.spacing), *(randn(2, *SHAPE, seed=seed) for seed in range(3))
    log_variance = torch.full((1, 1, 1, 1), -3.0)
    pull = Pull(scaled=None, plain=None, kept=None, clean=clean)
    for index in (0, 1, 10, 19):
        noise = randn(2, *SHAPE, seed=4)
        pulled = sampler.step(schedule, index, x_t, Prediction(x0, log_variance), pull, noise)
        wanted = sampler.step(schedule, index, x_t, Prediction(x0 + clean, log_variance), None, noise)
        free = sampler.step(schedule, index, x_t, Prediction(x0, log_variance), None, noise)
        torch.testing.assert_close(pulled.x_prev, wanted.x_prev, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pulled.guidance, wanted.x_prev - free.x_prev, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_the_energy_falls_over_a_run(sampler):
    energy = Quadratic(randn(4, *SHAPE, seed=7))
    target = Anchors(anchors(4).prototypes, None, energy)
    free = draw(4, None, sampler)
    found = draw(4, MatchingGuidance(**MATCHING).bind(target), sampler)
    assert float(energy(found, 0)) < 0.5 * float(energy(free, 0))
    assert torch.equal(draw(4, MatchingGuidance(**MATCHING | {"rate": 0}).bind(target), sampler), free)
    with torch.inference_mode(), pytest.raises(RuntimeError):
        draw(4, MatchingGuidance(**MATCHING).bind(target), sampler)


def test_without_a_rate_there_is_nothing_to_match():
    idle = MatchingGuidance(**MATCHING | {"rate": 0})
    assert not judges_in(idle)
    assert idle.bind(Anchors(randn(2, *SHAPE), None))(step_at(0, 2, 10)) is None
    with pytest.raises(ValueError, match="energy: expected the set energy of the batch, got None"):
        MatchingGuidance(**MATCHING).bind(Anchors(randn(2, *SHAPE), None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": -1}, "rate: expected .*"),
        ({"inner_steps": 0}, "inner_steps: expected .*, got 0"),
        ({"networks": 0}, "networks: expected .*"),
        ({"width": 0}, "width: expected .*"),
        ({"real_per_class": 0}, "real_per_class: expected .*"),
        ({"t_start": 10}, "t_start: expected .*, got 10"),
    ],
)
def test_bad_numbers_name_the_key(changes, message):
    with pytest.raises(UserError, match=message):
        MatchingGuidance(**MATCHING | changes)


def fixed(pull):
    return type("Fixed", (), {"neighbourhood": 0, "bind": lambda self, _: lambda step: pull})()


def test_combined_pulls_add_up():
    one, two = (randn(2, *SHAPE, seed=seed) for seed in (1, 2))
    kept = torch.tensor([0.5, 0.6])
    mode, match = Pull(scaled=one, plain=None, kept=kept), Pull(scaled=None, plain=None, kept=None, clean=two)
    at = step_at(3, 2, 10)

    def both(first, then):
        return CombinedGuidance(first=fixed(first), then=fixed(then)).bind(anchors(2))(at)

    assert both(None, None) is None
    assert both(mode, None) is mode
    assert both(None, match) is match
    for pull in (both(mode, match), both(match, mode)):
        assert (pull.scaled is one, pull.plain, pull.kept is kept, pull.clean is two) == (True, None, True, True)
    assert torch.equal(both(mode, mode).scaled, one + one)


def test_combined_wants_what_either_wants():
    mode, manifold, matching = ModeGuidance(**MODE), ManifoldGuidance(**MANIFOLD), MatchingGuidance(**MATCHING)
    for first, then in ((manifold, matching), (matching, manifold)):
        combined = CombinedGuidance(first=first, then=then)
        assert (combined.neighbourhood, judges_in(combined)) == (24, (matching,))
    assert not judges_in(CombinedGuidance(first=mode, then=NoGuidance()))
    with pytest.raises(UserError, match="guidance: first and then need to judge sets in the same features"):
        CombinedGuidance(first=matching, then=MatchingGuidance(**MATCHING | {"width": 8}))


def test_each_part_of_a_combination_gets_the_neighbours_it_wants():
    wide, narrow = (ManifoldGuidance(**MANIFOLD | {"neighbourhood": count}) for count in (24, 16))
    at = step_at(8, 2, 10)
    alone = wide.bind(anchors(2))(at).scaled, narrow.bind(anchors(2, size=16))(at).scaled
    assert not torch.allclose(*alone)
    for first, then in ((wide, narrow), (narrow, wide)):
        pull = CombinedGuidance(first=first, then=then).bind(anchors(2))(at)
        torch.testing.assert_close(pull.scaled, sum(alone))
