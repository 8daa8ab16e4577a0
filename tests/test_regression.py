"""Regression guidance: its closed form, its energy, its pool, and sets made with it."""

import json
import re

import numpy as np
import pytest
import torch
from command import quick
from sklearn.kernel_ridge import KernelRidge
from test_distill import DDPM, contents, mode, targets_of
from test_guidance import SHAPE, randn
from test_guidance import step as step_at
from test_matching import pool
from tiny import cpu

from manifoldgd.data import digits
from manifoldgd.diffusion.cfg import InParts
from manifoldgd.diffusion.protocol import Anchors, FeatureSpace, RegressionSpace
from manifoldgd.distill.items import work_items
from manifoldgd.distill.module import DistillModule
from manifoldgd.distill.synthesis import fixed_batches
from manifoldgd.errors import UserError
from manifoldgd.guidance import CombinedGuidance, MatchingGuidance, RegressionGuidance
from manifoldgd.matching import networks as networks_module
from manifoldgd.matching.networks import real_features, real_labels, real_means
from manifoldgd.matching.regression import Regression, RegressionEnergy, RegressionPool, ridge_outputs
from manifoldgd.priors import load_prior
from manifoldgd.priors.prior import as_pixels
from manifoldgd.stages.matching import prepare_matching
from manifoldgd.stages.sets import distil

NUMBERS = {"rate": 0.1, "inner_steps": 2, "t_start": 0.5, "networks": 2, "width": 4, "real_per_class": 5}
SPACE = RegressionSpace(networks=2, width=4, real_per_class=5, ridge=0.1, temperature=10.0)
SAMPLER = DDPM(steps=4, cfg_scale=2.0)


def guidance(**changes):
    regression = RegressionGuidance(**NUMBERS | {"ridge": 0.1, "temperature": 10.0} | changes)
    return CombinedGuidance(first=mode(), then=regression)


def real_pool(networks=None, classes=3, count=12):
    networks = networks or pool()
    width = networks.embed(0, torch.zeros(1, 1, 8, 8)).shape[1]
    features = randn(len(networks), count, width, seed=5).abs().half()
    return RegressionPool(networks, features, torch.arange(count) % classes, classes)


def energy_of(labels, *, networks=None, ridge=0.1, temperature=3.0):
    return RegressionEnergy(
        lambda z: z, real_pool(networks), torch.tensor(labels), ridge=ridge, temperature=temperature
    )


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
def test_the_regression_is_kernel_ridge_regression(ridge):
    synthetic, real = randn(9, 20, seed=1), randn(15, 20, seed=2)
    labels = torch.arange(9) % 4
    scale = float((synthetic.double() ** 2).sum(1).mean())
    twin = KernelRidge(alpha=ridge * scale, kernel="linear")
    twin.fit(synthetic.double().numpy(), np.eye(4)[labels.numpy()] - 1 / 4)
    found = ridge_outputs(synthetic, labels, real, 4, ridge)
    np.testing.assert_allclose(found.numpy(), twin.predict(real.double().numpy()), atol=1e-4, rtol=1e-4)


def test_outputs_do_not_depend_on_the_scale_of_features_or_the_order_of_rows():
    synthetic, real, labels = randn(9, 20, seed=1), randn(15, 20, seed=2), torch.arange(9) % 4
    wanted = ridge_outputs(synthetic, labels, real, 4, 0.1)
    torch.testing.assert_close(ridge_outputs(30 * synthetic, labels, 30 * real, 4, 0.1), wanted, atol=1e-4, rtol=1e-4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        ridge_outputs(synthetic[order], labels[order], real, 4, 0.1), wanted, atol=1e-5, rtol=1e-4
    )


def test_a_small_ridge_interpolates_and_a_large_one_says_nothing():
    synthetic, labels = randn(6, 20, seed=1), torch.arange(6) % 3
    exact = ridge_outputs(synthetic, labels, synthetic, 3, 1e-9)
    torch.testing.assert_close(exact, torch.eye(3)[labels] - 1 / 3, atol=1e-4, rtol=0)
    assert float(ridge_outputs(synthetic, labels, synthetic, 3, 1e9).abs().max()) < 1e-6


def test_the_energy_is_the_cross_entropy_of_real_images():
    labels, z = [0, 1, 2, 0, 1, 2], randn(6, 1, 8, 8)
    energy = energy_of(labels)
    for turn in range(4):
        index = turn % 2
        synthetic = energy.pool.networks.embed(index, z)
        real = energy.pool.features[index].float()
        outputs = 3.0 * ridge_outputs(synthetic, torch.tensor(labels), real, 3, 0.1).double()
        right = outputs.log_softmax(1)[torch.arange(12), energy.pool.labels]
        assert float(energy(z, turn)) == pytest.approx(-float(right.mean()), rel=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    energy = energy_of([0, 1, 2])
    z, direction = randn(3, 1, 8, 8).requires_grad_(True), randn(3, 1, 8, 8, seed=9)
    (gradient,) = torch.autograd.grad(energy(z, 0), z)
    with torch.no_grad():
        step = 1e-2
        difference = float(energy(z + step * direction, 0) - energy(z - step * direction, 0)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=0.02)


def test_classes_are_told_apart_by_one_regression():
    """Unlike the distance of class means, a class's term moves the rows of other classes."""
    labels, z = [0, 1, 2], randn(3, 1, 8, 8).requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy_of(labels)(z, 0), z)
    moved = z.detach().clone()
    moved[2] += 1.0
    moved.requires_grad_(True)
    (other,) = torch.autograd.grad(energy_of(labels)(moved, 0), moved)
    assert float((gradient[0] - other[0]).abs().max()) > 1e-3 * float(gradient[0].abs().max())


def test_a_batch_that_lacks_a_class_is_refused():
    with pytest.raises(
        ValueError, match=re.escape("labels: expected rows of every class in the batch, got none of [1]")
    ):
        energy_of([0, 2])


def test_gradients_in_parts_are_those_of_the_whole(monkeypatch):
    z = randn(6, 1, 8, 8).requires_grad_(True)
    whole = energy_of([0, 1, 2, 0, 1, 2])
    (wanted,) = torch.autograd.grad(whole(z, 1), z)
    monkeypatch.setattr(networks_module, "GRADIENT_VALUES", 4 * 64)  # four images at once
    seen, networks = [], pool()
    assert networks.at_once == 4
    embed = networks.embed
    networks.embed = lambda index, pixels: seen.append(len(pixels)) or embed(index, pixels)
    parts = energy_of([0, 1, 2, 0, 1, 2], networks=networks)
    seen.clear()
    (found,) = torch.autograd.grad(parts(z, 1), z)
    assert sorted(seen) == [2, 2, 4, 4]  # forth, and again on the way back
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_real_features_average_to_the_real_means():
    dataset, networks = digits(train_per_class=6, validation=None), pool()
    features = real_features(networks, dataset, 4, torch.device("cpu"))
    labels = real_labels(dataset, 4)
    assert (features.shape[:2], features.dtype, labels.tolist()[3:5]) == ((2, 40), torch.float16, [0, 1])
    means = real_means(networks, dataset, 4, torch.device("cpu"))
    found = torch.stack([features[:, labels == label].float().mean(1) for label in range(10)], dim=1)
    torch.testing.assert_close(found, means, atol=2e-3, rtol=2e-3)


def test_labels_of_classes_with_few_images():
    dataset = digits(train_per_class=3, validation=None)
    assert real_labels(dataset, 100).bincount().tolist() == [3] * 10
    assert len(real_features(pool(), dataset, 100, torch.device("cpu"))[0]) == 30


def test_the_cache_knows_means_from_features(tmp_path):
    dataset = digits(train_per_class=6, validation=None)
    found = prepare_matching(dataset, SPACE, cpu(), tmp_path)
    assert isinstance(found, Regression)
    assert (found.ridge, found.temperature, found.pool.classes) == (0.1, 10.0, 10)
    other = RegressionSpace(networks=2, width=4, real_per_class=5, ridge=0.7, temperature=1.0)
    again = prepare_matching(dataset, other, cpu(), tmp_path)  # other numbers, the same features
    assert torch.equal(again.pool.features, found.pool.features)
    assert again.ridge == 0.7
    prepare_matching(dataset, FeatureSpace(2, 4, 5), cpu(), tmp_path)
    assert len(list((tmp_path / "matching").iterdir())) == 2


def test_a_large_batch_is_denoised_in_parts():
    seen = []

    def denoiser(x_t, timesteps, labels):
        seen.append(len(x_t))
        return x_t * labels.view(-1, 1, 1, 1) + timesteps.view(-1, 1, 1, 1)

    x_t, labels = randn(7, 1, 2, 2), torch.arange(7)
    found = InParts(denoiser, 3)(x_t, labels * 10, labels)
    assert seen == [3, 3, 1]
    assert torch.equal(found, denoiser(x_t, labels * 10, labels))


def test_a_set_is_one_batch():
    items = work_items(("a", "b", "c"), (0, 1, 2), 5)
    assert fixed_batches(items, 4, together="set") == [items]
    assert fixed_batches([], 4, together="set") == []


@pytest.fixture(scope="module")
def prior(tiny_prior):
    return load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)


@pytest.fixture(scope="module")
def dataset():
    return digits(train_per_class=12, validation=None)


@pytest.fixture(scope="module")
def regression(dataset, tmp_path_factory):
    return prepare_matching(dataset, SPACE, cpu(), tmp_path_factory.mktemp("cache"))


def make(folder, dataset, prior, regression, *, batch_size=64, method=None):
    method = method or guidance()
    targets = targets_of(dataset, prior, method)
    facts = {"method": "test", "config": {}}
    known = regression if method.features else None
    machine = cpu(batch_size=batch_size)
    return distil(folder, dataset, prior, SAMPLER, method, targets, known, ipc=2, seed=0, machine=machine, facts=facts)


def test_sets_follow_the_regression_under_lightning(prior, dataset, regression, tmp_path):
    moved = make(tmp_path / "moved", dataset, prior, regression)
    plain = make(tmp_path / "plain", dataset, prior, regression, method=mode())
    idle = make(tmp_path / "idle", dataset, prior, regression, method=guidance(rate=0))
    assert torch.equal(idle.images, plain.images)

    def energy(made):
        pixels = as_pixels(made.images)
        return float(sum(regression.energy(lambda z: z, made.labels)(pixels, draw) for draw in range(2)))

    assert energy(moved) < energy(plain) - 0.01
    again = make(tmp_path / "again", dataset, prior, regression)
    assert contents(tmp_path / "again") == contents(tmp_path / "moved")
    assert torch.equal(again.images, moved.images)


def test_memory_bounds_change_nothing_beyond_rounding(prior, dataset, regression, tmp_path, monkeypatch):
    whole = make(tmp_path / "whole", dataset, prior, regression).images.int()
    monkeypatch.setattr(regression.networks, "at_once", 7)
    parts = make(tmp_path / "parts", dataset, prior, regression, batch_size=3).images.int()
    assert int((whole - parts).abs().max()) <= 1


def test_the_module_refuses_a_batch_that_is_no_set(prior, dataset, regression):
    module = DistillModule(
        prior,
        SAMPLER,
        guidance(),
        targets_of(dataset, prior, guidance()),
        regression,
        image_size=(8, 8),
        seed=0,
        at_once=64,
    )
    with pytest.raises(ValueError, match="expected rows of every class"):
        module.predict_step(work_items(dataset.class_names, range(10), 2)[:4])


RUN = ("guidance=regression", "guidance.then.inner_steps=1", "guidance.then.networks=1", "guidance.then.width=4")


def test_the_command_runs_and_names_the_method(tiny_prior, shared_cache, tmp_path, capsys):
    assert quick("run", tiny_prior, shared_cache, tmp_path / "r", *RUN, "guidance.then.t_start=1") == 0
    assert "digits, regression, ipc 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["method"] == "regression"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": -1}, "guidance.rate: needs to be >= 0"),
        ({"ridge": 0}, "guidance.ridge: needs to be > 0, got 0"),
        ({"temperature": -1.0}, "guidance.temperature: needs to be > 0, got -1.0"),
        ({"inner_steps": 0}, "guidance.inner_steps: needs to be > 0, got 0"),
    ],
)
def test_bad_numbers_name_the_key(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        guidance(**changes)


def test_matching_and_regression_do_not_share_a_pool():
    with pytest.raises(UserError, match="guidance: first and then need to judge sets in the same features"):
        CombinedGuidance(first=MatchingGuidance(**NUMBERS), then=guidance().then)
    assert guidance(rate=0).features is None
    assert guidance().features == SPACE


def test_the_rate_falls_along_half_a_cosine_over_all_steps():
    one = guidance(rate=0.4, inner_steps=5).then
    assert [one.rate_at(share) for share in (0, 0.5)] == pytest.approx([0.4, 0.2])
    assert one.rate_at(0.999) < 1e-5
    start, seen = randn(2, *SHAPE), []

    def slope(x0, draw):  # Adam's direction of a constant gradient is its sign
        return x0.sum()

    bound = one.bind(Anchors(start, None, slope))
    for index in (4, 3, 2, 1, 0):  # half of ten steps
        pull = bound(step_at(index, 2, 10))
        seen.append(float(pull.clean.mean()))
    wanted = [-sum(one.rate_at((5 * turn + inner) / 25) for inner in range(5)) for turn in range(5)]
    assert seen == pytest.approx(wanted, rel=1e-4)
