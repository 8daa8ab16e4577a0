"""Networks that learn from the set: how they learn, how long they live, and what their regression is judged by."""

import dataclasses
from copy import deepcopy

import pytest
import torch
from command import quick
from distill_parts import contents
from guidance_parts import randn
from tiny import cpu
from torch.nn import functional

from manifoldgd.data import digits
from manifoldgd.errors import UserError
from manifoldgd.guidance import LearningRegressionGuidance
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.set_guidance import learning
from manifoldgd.set_guidance.learning import LearningNetworks
from manifoldgd.set_guidance.regression import ridge_outputs

POOL = {"count": 4, "width": 4, "mean": (0.4,), "std": (0.3,), "precision": "32-true"}
NUMBERS = {
    "rate": 0.1,
    "inner_steps": 2,
    "t_start": 0.5,
    "networks": 2,
    "width": 4,
    "real_per_class": 5,
    "pool_seed": None,
    "ridge": 0.1,
    "temperature": 10.0,
    "copies": 1,
    "lifetime": 3,
    "learning_rate": 0.1,
    "real_at_once": 20,
}


class AsTheyAre:
    """An augmentation that changes nothing."""

    space = "unit"

    def __call__(self, images, generator, size):
        return images

    def without_flip(self):
        return self


def pool(lifetime=8, **changes):
    return LearningNetworks((1, 8, 8), classes=3, lifetime=lifetime, learning_rate=0.1, **POOL | changes)


def lessons(networks, index, count=1, images=None):
    images = randn(6, 1, 8, 8, seed=2).sigmoid() if images is None else images
    for _ in range(count):
        networks.learn(index, images, torch.arange(6) % 3, AsTheyAre())


def guidance(**changes):
    return LearningRegressionGuidance(**NUMBERS | {"augmentation": AsTheyAre()} | changes)


def energy_of(dataset, tmp_path, decode=lambda z: z, ipc=1, **changes):
    prepared = guidance(**changes).prepare(RealImages(dataset, cpu(), tmp_path))
    return prepared(decode, torch.arange(10).repeat_interleave(ipc))


def test_a_lesson_is_a_step_of_gradient_descent_with_momentum():
    networks, images, labels = pool(), randn(6, 1, 8, 8, seed=2).sigmoid(), torch.arange(6) % 3
    lessons(networks, 0)
    twin = deepcopy(networks.networks[0]).requires_grad_(True)
    own, state = networks.networks[0].named_parameters(), networks.learners[0].optimizer.state
    pace = {name: state[weight]["momentum_buffer"].clone() for name, weight in own if weight in state}
    loss = functional.cross_entropy(twin((images - 0.4) / 0.3), labels)
    gradients = torch.autograd.grad(loss, list(twin.parameters()), allow_unused=True)
    lessons(networks, 0)
    weights = dict(networks.networks[0].named_parameters())
    for (name, before), gradient in zip(twin.named_parameters(), gradients, strict=True):
        if gradient is not None:  # a bias before an instance norm changes nothing
            expected = before - 0.1 * (0.9 * pace[name] + gradient)
            torch.testing.assert_close(weights[name], expected.detach(), rtol=1e-4, atol=1e-6)
    assert len(pace) >= 5
    assert not any(weight.requires_grad for weight in weights.values())


def test_networks_begin_at_ages_spread_over_a_lifetime_and_are_drawn_anew_at_its_end():
    networks = pool()
    for index in range(4):
        lessons(networks, index)
    assert [each.age for each in networks.learners] == [1, 3, 5, 7]
    old = networks.networks[3]
    lessons(networks, 3)
    assert networks.networks[3] is old
    assert networks.learners[3].age == 8
    lessons(networks, 3)
    assert networks.networks[3] is not old
    assert networks.learners[3].age == 1
    assert networks.drawn == 5
    fresh = pool(count=1)
    lessons(fresh, 0)
    assert not torch.equal(fresh.networks[0].classifier.weight, networks.networks[3].classifier.weight)


def test_they_learn_what_they_are_shown():
    """Three classes of plain brightness: a network of the pool tells them apart after its lessons, none before."""
    images = (torch.arange(6) % 3 / 2).view(-1, 1, 1, 1).expand(6, 1, 8, 8) * torch.rand(8, 8)
    networks = pool(lifetime=200, count=1, width=16)
    lessons(networks, 0, images=images)
    losses = []
    for _ in range(2):
        found = networks.networks[0](networks.normalised(images))
        losses.append(float(functional.cross_entropy(found, torch.arange(6) % 3)))
        lessons(networks, 0, count=100, images=images)
    assert losses[1] < 0.5 * losses[0]


def test_the_energy_is_a_regression_in_the_features_of_a_network_that_has_learnt(tmp_path):
    dataset, z = digits(train_per_class=None, validation=None), randn(10, 1, 8, 8).tanh()
    energy = energy_of(dataset, tmp_path, copies=1)
    for draw in range(5):
        value = energy(z, draw)
        index, networks = draw % 2, energy.pool
        chosen = torch.randperm(50, generator=networks.source("judges", draw))[:20]
        features, labels = energy.judges(index, draw)
        real = dataset.train.load(energy.rows[chosen])
        assert torch.equal(labels, dataset.train.labels[energy.rows[chosen]])
        torch.testing.assert_close(features, networks.embed(index, real.float() / 127.5 - 1))
        synthetic = networks.embed(index, z)  # copies are the images themselves
        twice = torch.cat([synthetic, synthetic]), torch.arange(10).repeat(2)
        outputs = 10.0 * ridge_outputs(*twice, features, 10, 0.1)
        assert float(value) == pytest.approx(float(functional.cross_entropy(outputs, labels)), rel=1e-4)


def test_gradients_flow_to_the_set_and_not_through_the_lessons(tmp_path, monkeypatch):
    dataset = digits(train_per_class=None, validation=None)
    z, direction = randn(10, 1, 8, 8).tanh().requires_grad_(True), randn(10, 1, 8, 8, seed=9)
    energy = energy_of(dataset, tmp_path)
    energy(z, 0)
    monkeypatch.setattr(energy.pool, "learn", lambda *given: None)  # the network as it stands
    (gradient,) = torch.autograd.grad(energy(z, 0), z)
    with torch.no_grad():
        step = 1e-2
        difference = float(energy(z + step * direction, 0) - energy(z - step * direction, 0)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=0.05, abs=1e-4)


def test_no_real_image_trains_a_network(tmp_path):
    """Other real images change what a set is judged by, and no weight."""
    dataset = digits(train_per_class=None, validation=None)
    other = dataclasses.replace(dataset, train=dataset.test)
    z = randn(10, 1, 8, 8).tanh()
    values, weights = [], []
    for each in (dataset, other):
        energy = energy_of(each, tmp_path)
        values.append([float(energy(z, draw)) for draw in range(4)])
        weights.append([weight for network in energy.pool.networks for weight in network.parameters()])
    assert values[0] != values[1]
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))


def test_every_batch_begins_with_networks_that_have_learnt_nothing(tmp_path):
    dataset, z = digits(train_per_class=None, validation=None), randn(10, 1, 8, 8).tanh()
    prepared = guidance().prepare(RealImages(dataset, cpu(), tmp_path))
    runs = []
    for _ in range(2):
        energy = prepared(lambda latents: latents, torch.arange(10))
        runs.append([float(energy(z, draw)) for draw in range(7)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 7


def test_memory_is_stated_for_what_judges_at_once(tmp_path):
    from manifoldgd.diffusion.protocol import SetSize

    size = SetSize(ipc=10, real=(100,) * 10, image_shape=(1, 8, 8), latent_shape=(4, 4, 4), features=8, batch_size=64)
    few, many = (guidance(real_at_once=count).memory(size) for count in (20, 2000))
    assert few["features of 20 real images"].num_bytes * 50 == many["features of 1,000 real images"].num_bytes


@pytest.mark.parametrize(
    ("key", "value"), [("lifetime", 0), ("learning_rate", 0.0), ("real_at_once", 0), ("copies", 0)]
)
def test_bad_numbers_name_the_key(key, value):
    with pytest.raises(UserError, match=key):
        guidance(**{key: value})


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_set_is_made_in_either_precision(tmp_path, tiny_prior, shared_cache, precision):
    """Twice with the same bits, by the command."""
    words = ["guidance=regression_learning", "guidance.then.inner_steps=2", "guidance.then.t_start=0.4"]
    words += ["guidance.then.networks=2", "guidance.then.width=4", "guidance.then.real_per_class=20"]
    words += [f"machine.student_precision={precision}"]
    for name in "ab":
        assert quick("distill", tiny_prior, shared_cache, tmp_path / name, *words) == 0
    one, two = (contents(tmp_path / name / "set") for name in "ab")
    assert one == two


def test_a_large_set_teaches_by_parts(tmp_path, monkeypatch):
    """Only as many images as an update of students sees, drawn anew each time."""
    monkeypatch.setattr(learning, "BATCH", 4)
    seen = []

    class Seen(AsTheyAre):
        def __call__(self, images, generator, size):
            seen.append(images.flatten(1).mean(1))
            return images

    networks, images = pool(count=1), torch.rand(6, 1, 8, 8)
    for _ in range(3):
        networks.learn(0, images, torch.arange(6) % 3, Seen())
    assert [len(each) for each in seen] == [4, 4, 4]
    assert len({tuple(each.tolist()) for each in seen}) == 3
