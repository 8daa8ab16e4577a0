"""Regression guidance: its closed form, its energy, its pool, and sets made with it."""

import json
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from command import quick
from distill_parts import DDPM, contents, mode, targets_of
from guidance_parts import SHAPE, randn
from guidance_parts import step as step_at
from matching_parts import pool
from sklearn.kernel_ridge import KernelRidge
from tiny import cpu, distil

from manifoldgd.data import digits
from manifoldgd.diffusion.cfg import InParts
from manifoldgd.diffusion.protocol import Anchors, SetSize, judges_in
from manifoldgd.diffusion.start import PURE_NOISE, Start
from manifoldgd.distill.items import work_items
from manifoldgd.distill.module import DistillModule
from manifoldgd.distill.synthesis import fixed_batches
from manifoldgd.errors import UserError
from manifoldgd.guidance import (
    AugmentedRegressionGuidance,
    CombinedGuidance,
    MatchingGuidance,
    OnPrediction,
    RegressionGuidance,
)
from manifoldgd.pipeline import sets
from manifoldgd.pipeline.distillation import check_memory
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.priors import load_prior
from manifoldgd.priors.prior import as_pixels
from manifoldgd.set_guidance import networks as networks_module
from manifoldgd.set_guidance import regression as regression_module
from manifoldgd.set_guidance.networks import AugmentedCopies, real_features, real_labels, real_means
from manifoldgd.set_guidance.regression import RegressionEnergy, ridge_outputs
from manifoldgd.students.augmentation import DSA, DSA_OPERATIONS

SIZE = SetSize(
    ipc=10, real=(6,) * 10, image_shape=(1, 8, 8), latent_shape=(4, 4, 4), features=8, batch_size=64
)  # of digits
NUMBERS = {
    "rate": 0.1,
    "inner_steps": 2,
    "t_start": 0.5,
    "networks": 2,
    "width": 4,
    "real_per_class": 5,
    "pool_seed": None,
}
SAMPLER = DDPM(steps=4, cfg_scale=2.0)


def guidance(**changes):
    kind = AugmentedRegressionGuidance if "copies" in changes else RegressionGuidance
    regression = kind(**NUMBERS | {"ridge": 0.1, "temperature": 10.0} | changes)
    return CombinedGuidance(first=mode(), then=regression)


def real_pool(networks=None, classes=3, count=12):
    networks = networks or pool()
    width = networks.embed(0, torch.zeros(1, 1, 8, 8)).shape[1]
    features = randn(len(networks), count, width, seed=5).abs().half()
    return {"networks": networks, "real": features, "real_labels": torch.arange(count) % classes}


def energy_of(labels, *, networks=None, ridge=0.1, temperature=3.0):
    numbers = {"ridge": ridge, "temperature": temperature}
    return RegressionEnergy(lambda z: z, torch.tensor(labels), **real_pool(networks), **numbers)


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
        synthetic = energy.networks.embed(index, z)
        real = energy.real[index].float()
        outputs = 3.0 * ridge_outputs(synthetic, torch.tensor(labels), real, 3, 0.1).double()
        right = outputs.log_softmax(1)[torch.arange(12), energy.real_labels]
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


@pytest.mark.parametrize(("kept", "forwards"), [(1, [2, 2, 4, 4]), (2, [2, 4])], ids=["forth and again back", "kept"])
def test_gradients_in_parts_are_those_of_the_whole(kept, forwards, monkeypatch):
    z = randn(6, 1, 8, 8).requires_grad_(True)
    whole = energy_of([0, 1, 2, 0, 1, 2])
    (wanted,) = torch.autograd.grad(whole(z, 1), z)
    monkeypatch.setattr(networks_module, "GRADIENT_VALUES", 4 * 64)  # four images at once
    monkeypatch.setattr(networks_module, "KEPT_PARTS", kept)
    seen, networks = [], pool()
    assert networks.at_once == 4
    embed = networks.embed
    networks.embed = lambda index, pixels: seen.append(len(pixels)) or embed(index, pixels)
    parts = energy_of([0, 1, 2, 0, 1, 2], networks=networks)
    seen.clear()
    (found,) = torch.autograd.grad(parts(z, 1), z)
    assert sorted(seen) == forwards
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("part", [1, 5, 3 * 12])
def test_real_images_in_parts_give_the_energy_of_the_whole(part, monkeypatch):
    z, labels = randn(6, 1, 8, 8).requires_grad_(True), [0, 1, 2, 0, 1, 2]
    energy = energy_of(labels)
    value = energy(z, 1)
    (wanted,) = torch.autograd.grad(value, z)
    monkeypatch.setattr(regression_module, "LARGEST_PART", part * energy.real.shape[2])
    largest = []
    loss = RegressionEnergy._loss
    monkeypatch.setattr(
        RegressionEnergy, "_loss", lambda self, w, real, *more: largest.append(len(real)) or loss(self, w, real, *more)
    )
    found = energy(z, 1)
    (gradient,) = torch.autograd.grad(found, z)
    assert max(largest) == min(part, 12)
    torch.testing.assert_close(found, value, atol=0, rtol=1e-6)
    torch.testing.assert_close(gradient, wanted, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("compute", [real_features, real_means])
def test_real_images_are_in_memory_a_part_at_a_time_and_read_once(compute, monkeypatch):
    dataset, networks, loaded = digits(train_per_class=6, validation=None), pool(), []
    whole = compute(networks, dataset, 4, torch.device("cpu"))
    monkeypatch.setattr(networks_module, "CHUNK", 7)
    split = replace(dataset.train, load=lambda rows: loaded.append(len(rows)) or dataset.train.load(rows))
    parts = []
    found = compute(networks, replace(dataset, train=split), 4, torch.device("cpu"), lambda: parts.append(1))
    torch.testing.assert_close(found, whole, atol=2e-3, rtol=2e-3)
    assert sum(loaded) == 10 * 4
    assert max(loaded) <= 7
    assert len(parts) == len(loaded)


@pytest.mark.parametrize(
    ("ipc", "gib", "told"),
    [
        (100, 1, None),
        (10_000, 1, r"240\.1 GB of it for a regression on 100,000 images, and this machine has 1\.1 GB; lower ipc$"),
    ],
)
def test_a_set_that_no_memory_holds_is_refused_before_any_work(ipc, gib, told, tiny_prior, monkeypatch):
    dataset, method = digits(train_per_class=6, validation=None), guidance()
    prior = load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    monkeypatch.setattr("manifoldgd.machine.memory", lambda: int(gib * 2**30))
    numbers = {"guidance": method, "ipc": ipc, "machine": cpu()}
    if told is None:
        check_memory(dataset, prior, **numbers)
        return
    with pytest.raises(UserError, match=told):
        check_memory(dataset, prior, **numbers)


def test_copies_count_among_the_images_that_a_regression_takes():
    (judge,) = judges_in(guidance(copies=2, augmentation=Shift()))
    needs = judge.memory(SIZE)
    kernel = needs["a regression on 300 images"]
    assert kernel.num_bytes == 8 * 300 * (3 * 300 + networks_module.feature_size(SIZE.image_shape, 4))
    assert "copies" in kernel.remedy
    assert "features of 50 real images in 2 networks" in needs


def test_the_size_of_features_is_known_before_there_are_networks():
    for shape in ((1, 8, 8), (3, 32, 48), (3, 64, 64)):
        numbers = {"count": 1, "width": 4, "mean": (0.5,) * shape[0], "std": (0.5,) * shape[0], "precision": "32-true"}
        found = networks_module.RandomNetworks(shape, **numbers).embed(0, torch.zeros(1, *shape))
        assert found.shape[1] == networks_module.feature_size(shape, 4)


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
    real = RealImages(dataset, cpu(), tmp_path)

    def prepared(**changes):
        return guidance(**changes).then.prepare(real)(lambda z: z, torch.arange(10))

    found = prepared()
    assert (found.ridge, found.temperature, found.classes) == (0.1, 10.0, 10)
    again = prepared(ridge=0.7, temperature=1.0)  # other numbers, the same features
    assert torch.equal(again.real, found.real)
    assert again.ridge == 0.7
    MatchingGuidance(**NUMBERS).prepare(real)
    assert len(list((tmp_path / "matching").glob("*.safetensors"))) == 2


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
def regression(dataset, tmp_path_factory):
    return guidance().then.prepare(RealImages(dataset, cpu(), tmp_path_factory.mktemp("cache")))


def make(folder, dataset, prior, regression, *, batch_size=64, method=None, start=PURE_NOISE):
    method = method or guidance()
    targets = targets_of(dataset, prior, method)
    facts = {"method": "test", "config": {}}
    known = regression if judges_in(method) else None
    machine = cpu(batch_size=batch_size)
    rest = {"ipc": 2, "seed": 0, "machine": machine, "facts": facts, "start": start}
    return distil(folder, dataset, prior, SAMPLER, method, targets, known, **rest)


def test_sets_follow_the_regression_under_lightning(prior, dataset, regression, tmp_path):
    moved = make(tmp_path / "moved", dataset, prior, regression)
    plain = make(tmp_path / "plain", dataset, prior, regression, method=mode())
    idle = make(tmp_path / "idle", dataset, prior, regression, method=guidance(rate=0))
    assert torch.equal(idle.images, plain.images)

    def energy(made):
        pixels = as_pixels(made.images)
        return float(sum(regression(lambda z: z, made.labels)(pixels, draw) for draw in range(2)))

    assert energy(moved) < energy(plain) - 0.01
    again = make(tmp_path / "again", dataset, prior, regression)
    assert contents(tmp_path / "again") == contents(tmp_path / "moved")
    assert torch.equal(again.images, moved.images)


@pytest.mark.parametrize("start", [PURE_NOISE, Start(strength=0.25)])
@pytest.mark.parametrize("wrap", [lambda method: method, lambda method: OnPrediction(method=method, noise_power=1.0)])
def test_the_bar_counts_gradient_steps_too(prior, dataset, regression, tmp_path, monkeypatch, start, wrap):
    bars = []

    @contextmanager
    def bar(title, total, *, enabled):
        bars.append([total, 0])

        def advance():
            bars[-1][1] += 1

        yield advance

    monkeypatch.setattr(sets, "progress_bar", bar)
    make(tmp_path, dataset, prior, regression, method=wrap(guidance(inner_steps=3)), start=start)
    # Half of four steps are guided, unless only the last one is taken.
    assert bars == [[10, 10] if start is PURE_NOISE else [4, 4]]


def test_memory_bounds_change_nothing_beyond_rounding(prior, dataset, regression, tmp_path, monkeypatch):
    whole = make(tmp_path / "whole", dataset, prior, regression).images.int()
    monkeypatch.setattr(regression.keywords["networks"], "at_once", 7)
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


class Shift:
    """An augmentation that shows what it was given: it adds a number, another one for each call."""

    space = "normalised"

    def __init__(self):
        self.given = []

    def __call__(self, images, generator, size):
        self.given.append(images.detach().clone())
        return images + 10.0 * len(self.given)

    def without_flip(self):
        return Shift()


def dsa(**changes):
    numbers = {
        "operations": list(DSA_OPERATIONS),
        "mode": "single",
        "flip_probability": 0.5,
        "scale_ratio": 1.2,
        "rotate_degrees": 15.0,
        "crop_ratio": 0.125,
        "cutout_ratio": 0.5,
        "brightness": 1.0,
        "saturation": 2.0,
        "contrast": 0.5,
    }
    return DSA(**numbers | changes)


def augmented_energy(labels, copies=2, augmentation=None, networks=None):
    augmentation = augmentation or dsa()
    rest = {"ridge": 0.1, "temperature": 3.0, "copies": copies, "augmentation": augmentation}
    return RegressionEnergy(lambda z: z, torch.tensor(labels), **real_pool(networks), **rest)


def test_copies_are_the_images_again_in_their_order(monkeypatch):
    monkeypatch.setattr(networks_module, "ALIKE", 3)
    shift, pixels = Shift(), randn(4, 1, 8, 8)
    found = AugmentedCopies(2, shift, draw=5)(pool(), pixels, 0).view(3, 4, 1, 8, 8)
    torch.testing.assert_close(found[0], pool().normalised(pixels.add(1).div(2)))
    assert [len(each) for each in shift.given] == [3, 1, 3, 1]  # few at a time, all of them in each copy
    added = (found[1:] - found[0]).mean((2, 3, 4)) / 10
    torch.testing.assert_close(added, added.round())
    assert sorted(added.flatten().round().int().tolist()) == [1, 1, 1, 2, 3, 3, 3, 4]


def test_copies_in_the_unit_interval_are_normalised_afterwards():
    class Grey:
        space = "unit"

        def __call__(self, images, generator, size):
            assert images.min() >= 0
            assert images.max() <= 1
            return torch.zeros_like(images)

    networks = pool()
    found = AugmentedCopies(1, Grey(), draw=0)(networks, torch.rand(2, 1, 8, 8) * 2 - 1, 0)
    torch.testing.assert_close(found[2:], networks.normalised(torch.zeros(2, 1, 8, 8)))


def test_copies_depend_on_the_draw_alone():
    networks, pixels = pool(), randn(6, 1, 8, 8)
    first, again, other = (AugmentedCopies(2, dsa(), draw)(networks, pixels, 0) for draw in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[:6], other[:6])


def test_the_regression_learns_from_images_and_copies_with_their_labels():
    """Each class's copies carry its label: the twin puts all rows into one ridge regression by hand."""
    labels, z = torch.tensor([2, 0, 1, 0]), randn(4, 1, 8, 8)
    energy = augmented_energy(labels.tolist(), copies=3)
    rows = AugmentedCopies(3, energy.augmentation, draw=1)(energy.networks, z, 0)
    features = energy.networks.embed_normalised(1, rows)
    outputs = 3.0 * ridge_outputs(features, labels.repeat(4), energy.real[1].float(), 3, 0.1)
    right = outputs.double().log_softmax(1)[torch.arange(12), energy.real_labels]
    assert float(energy(z, 1)) == pytest.approx(-float(right.mean()), rel=1e-5)


def test_without_copies_the_energy_is_the_plain_one():
    labels, z = [0, 1, 2, 0], randn(4, 1, 8, 8)
    assert torch.equal(augmented_energy(labels, copies=0)(z, 1), energy_of(labels)(z, 1))


def test_gradients_through_copies_in_parts_are_exact(monkeypatch):
    """Parts draw copies of their own, so they are compared with finite differences and not with the whole."""
    monkeypatch.setattr(networks_module, "GRADIENT_VALUES", 6 * 64)  # two images with two copies each at once
    energy = augmented_energy([0, 1, 2, 0, 1], copies=2, networks=pool())
    z, direction = randn(5, 1, 8, 8).requires_grad_(True), randn(5, 1, 8, 8, seed=9)
    (gradient,) = torch.autograd.grad(energy(z, 0), z)
    with torch.no_grad():
        difference = float(energy(z + 1e-2 * direction, 0) - energy(z - 1e-2 * direction, 0)) / 2e-2
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=0.03)
    assert energy(z, 0).item() == energy(z, 0).item()


def test_copies_of_digits_are_not_mirrored(dataset, tmp_path):
    method = guidance(copies=1, augmentation=dsa()).then
    for images, mirrored in ((dataset, False), (replace(dataset, flip=True), True)):
        energy = method.prepare(RealImages(images, cpu(), tmp_path))(lambda z: z, torch.arange(10))
        assert ("flip" in energy.augmentation.operations) is mirrored


def test_the_augmented_guidance_sees_its_images_through_the_students_augmentation(prior, dataset, tmp_path):
    method = guidance(copies=1, augmentation=dsa())
    known = method.then.prepare(RealImages(dataset, cpu(), tmp_path / "cache"))
    moved = make(tmp_path / "moved", dataset, prior, known, method=method)
    plain = make(tmp_path / "plain", dataset, prior, known, method=mode())

    def energy(made):
        pixels = as_pixels(made.images)
        return float(sum(known(lambda z: z, made.labels)(pixels, draw) for draw in range(8)))

    assert energy(moved) < energy(plain) - 0.01
    assert torch.equal(make(tmp_path / "again", dataset, prior, known, method=method).images, moved.images)


RUN = ("guidance.then.inner_steps=1", "guidance.then.networks=1", "guidance.then.width=4")


@pytest.mark.parametrize("name", ["regression", "regression_augmented"])
def test_the_command_runs_and_names_the_method(tiny_prior, shared_cache, tmp_path, capsys, name):
    chosen = (f"guidance={name}", *RUN, "guidance.then.t_start=1")
    assert quick("run", tiny_prior, shared_cache, tmp_path / "r", *chosen) == 0
    assert f"digits, {name}, ipc 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["method"] == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": -1}, "rate: expected .*"),
        ({"ridge": 0}, "ridge: expected .*, got 0"),
        ({"temperature": -1.0}, "temperature: expected .*, got -1.0"),
        ({"inner_steps": 0}, "inner_steps: expected .*, got 0"),
        ({"copies": 0, "augmentation": None}, "copies: expected .*, got 0"),
        ({"copies": 2, "augmentation": None}, "augmentation: expected what makes the copies, got null"),
    ],
)
def test_bad_numbers_name_the_key(changes, message):
    with pytest.raises(UserError, match=message):
        guidance(**changes)


def test_matching_and_regression_do_not_share_a_pool():
    with pytest.raises(UserError, match="guidance: first and then need to judge sets in the same features"):
        CombinedGuidance(first=MatchingGuidance(**NUMBERS), then=guidance().then)
    with pytest.raises(UserError, match="first and then"):
        CombinedGuidance(first=guidance(ridge=0.2).then, then=guidance().then)
    assert not judges_in(guidance(rate=0))
    paced = CombinedGuidance(first=guidance(rate=0.2, inner_steps=7, t_start=0.8).then, then=guidance().then)
    assert judges_in(paced) == (paced.first, paced.then)


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


def test_the_rate_falls_to_zero_where_sampling_starts_late():
    """From prototypes, fewer steps may be taken than ``t_start`` allows."""
    one = guidance(rate=0.4, inner_steps=5).then
    bound = one.bind(Anchors(randn(2, *SHAPE), None, lambda x0, draw: x0.sum()))
    seen = [float(bound(step_at(index, 2, 10)).clean.mean()) for index in (1, 0)]
    wanted = [-sum(one.rate_at((5 * turn + inner) / 10) for inner in range(5)) for turn in range(2)]
    assert seen == pytest.approx(wanted, rel=1e-4)
