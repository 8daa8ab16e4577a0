"""Soft labels: the loss, the schedule, what the protocol checks, and whole runs."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from command import quick
from soft_parts import SOFT, few_digits, small_student, student

from manifoldgd.errors import UserError
from manifoldgd.pipeline import classifiers
from manifoldgd.students import Student
from manifoldgd.students.inference import Pixels
from manifoldgd.students.objectives import Batch, TeacherOutputs, class_labels, softened_divergence
from manifoldgd.students.training import Supervised


@pytest.fixture(scope="module")
def small():
    return small_student()


@pytest.fixture(scope="module")
def dataset():
    return few_digits()


def logits(seed, count=7, classes=5):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * 9


# The loss


def softmax(values):
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_divergence_agrees_with_its_twin(temperature):
    found, wanted = logits(0), logits(1)
    p, q = (softmax(each.double().numpy() / temperature) for each in (wanted, found))
    twin = (p * np.log(p / q)).sum(1).mean()
    assert float(softened_divergence(found, wanted, temperature)) == pytest.approx(twin, rel=2e-4)


def test_the_divergence_is_zero_for_equal_outputs_and_blind_to_a_shift():
    assert float(softened_divergence(logits(0), logits(0) + 3, 20.0)) == pytest.approx(0, abs=1e-7)
    assert float(softened_divergence(logits(0), logits(1), 20.0)) > 1e-3


def test_the_gradient_has_no_factor_of_the_squared_temperature():
    found = logits(0).requires_grad_()
    softened_divergence(found, logits(1), 20.0).backward()
    p, q = (softmax(each.detach().double().numpy() / 20) for each in (logits(1), found))
    np.testing.assert_allclose(found.grad, (q - p) / 20 / len(p), atol=1e-7)


def test_class_labels_of_a_mixed_batch_count_by_their_pixels():
    labels, partners = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])
    scores = logits(2, count=3)
    probabilities = softmax(scores.double().numpy())
    own, other = (-np.log(probabilities[range(3), each]).mean() for each in (labels, partners))
    batch = Batch(torch.zeros(3), labels, partners, 0.7)
    assert float(class_labels(scores, batch)) == pytest.approx(0.7 * own + 0.3 * other, rel=1e-5)
    assert float(class_labels(scores, Batch(torch.zeros(3), labels))) == pytest.approx(own, rel=1e-5)


class Recorder(torch.nn.Module):
    """A linear network that remembers what it was shown."""

    def __init__(self, seed):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(64, 10, generator=torch.Generator().manual_seed(seed)))
        self.shown = []

    def forward(self, images):
        self.shown.append((images, torch.is_grad_enabled()))
        return images.flatten(1) @ self.weight


def test_the_teacher_sees_the_very_batch_of_the_student_and_learns_nothing(small, dataset):
    learner, teacher = Recorder(0), Recorder(1)
    module = Supervised(
        learner,
        dataset.train.images(),
        dataset.train.labels,
        Pixels(dataset.mean, dataset.std),
        augmentation=small.protocol.augmentation,
        size=(8, 8),
        cutmix_alpha=small.protocol.cutmix_alpha,
        generator=torch.Generator().manual_seed(0),
        objective=TeacherOutputs(teacher, 20.0),
        optimisation=lambda network: None,
        after_epoch=lambda epoch, loss: {},
        name="student",
    )
    indices = torch.arange(40)
    loss = module.training_step(indices, 0)
    loss.backward()
    (seen, with_gradient), (taught, teacher_with_gradient) = learner.shown[0], teacher.shown[0]
    assert taught is seen
    assert with_gradient
    assert not teacher_with_gradient
    assert teacher.weight.grad is None
    assert learner.weight.grad.abs().sum() > 0
    plain = Pixels(dataset.mean, dataset.std).normalised(dataset.train.load(indices).float() / 255)
    assert not torch.allclose(seen, plain)  # augmented and mixed
    assert loss.item() == pytest.approx(softened_divergence(learner(seen), teacher(seen), 20.0).item())


# The protocol


def test_the_schedule_is_rededs_half_of_a_cosine(small):
    protocol = small.protocol
    assert protocol.rate_factor(0, 300) == 1
    assert protocol.rate_factor(150, 300) == pytest.approx((1 + np.cos(np.pi / 4)) / 2)
    assert protocol.rate_factor(300, 300) == pytest.approx(0.5)
    whole = dataclasses.replace(protocol, cosine_span=1.0)
    assert [whole.rate_factor(epoch, 4) for epoch in range(5)] == pytest.approx([1, 0.85355, 0.5, 0.14645, 0], abs=1e-5)
    network = torch.nn.Linear(3, 2)
    parts = protocol.optimisation(network, 10)
    rates = []
    for _ in range(10):
        rates.append(parts["optimizer"].param_groups[0]["lr"])
        parts["optimizer"].step()
        parts["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([1e-3 * (1 + np.cos(np.pi * epoch / 20)) / 2 for epoch in range(10)])


@pytest.mark.parametrize("name", ["hard_small", "hard_many_classes"])
def test_without_a_teacher_labels_are_hard(name):
    assert student(protocol=name).protocol.labels == "hard"


def test_the_numbers_are_rededs():
    for name in ("soft_small", "soft_large"):
        protocol = student(protocol=name).protocol
        assert (protocol.name, protocol.labels) == (name, "soft")
        assert protocol.epochs_for(10, 10) == protocol.epochs_for(50, 100) == 300
        assert [protocol.batch_for(ipc, 10) for ipc in (1, 2, 10, 50)] == [10, 50, 50, 100]
        assert [protocol.batch_for(ipc, 100) for ipc in (1, 10, 50)] == [20, 100, 200]
        assert (protocol.temperature, protocol.cutmix_alpha, protocol.learning_rate) == (20.0, 1.0, 1e-3)


def test_biases_and_norms_are_not_decayed(small):
    network = small.network((1, 8, 8), 10, seed=0)
    optimizer = small.protocol.optimizer(network)
    assert type(optimizer) is torch.optim.AdamW
    decay = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    assert {name: decay[id(each)] for name, each in network.named_parameters()} == {
        name: 0.01 if name.endswith(("conv.weight", "classifier.weight")) else 0.0
        for name, _ in network.named_parameters()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected .*, got 0.0"),
        ({"cosine_span": 1.5}, r"cosine_span: expected .*, got 1.5"),
        ({"batch_size": {10: 0}}, r"batch_size\.10: expected .*, got 0"),
    ],
)
def test_the_protocol_checks_its_numbers(small, changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(small.protocol, **changes)


def test_a_table_of_batch_sizes_ends_somewhere(small):
    with pytest.raises(UserError, match=r"batch_size: expected an entry for ipc=1001 or more, got entries up to 1000"):
        small.check((1, 8, 8), 10, 1001)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "densenet"}, r"architecture: expected one of .* got 'densenet'"),
        ({"architecture": "convnet"}, r"architecture: null is the student's own .* got convnet, width None"),
        ({"depth": 3}, r"architecture: null is the student's own .* got None, width None, depth 3"),
        ({"epochs": 3}, "epochs: expected either epochs or images_shown, got 3 and 15000"),
        ({"images_shown": None}, "epochs: expected either epochs or images_shown, got None and None"),
        ({"epochs": 0, "images_shown": None}, "epochs: expected .*, got 0"),
        ({"batch_size": 0}, "batch_size: expected .*, got 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected .*, got 0.0"),
    ],
)
def test_recipes_check_their_numbers(small, changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(small.protocol.teacher, **changes)


def test_passes_over_the_training_split(small):
    assert [small.protocol.teacher.passes(count) for count in (100, 1000, 10**6)] == [150, 15, 1]
    assert dataclasses.replace(small.protocol.teacher, epochs=7, images_shown=None).passes(123) == 7


def test_a_teacher_that_does_not_fit_the_images_is_found_out_early():
    deep = student(
        "student.protocol.teacher.architecture=resnet",
        "student.protocol.teacher.width=8",
        "student.protocol.teacher.depth=18",
    )
    assert deep.teacher_recipe.architecture == "resnet"
    with pytest.raises(UserError, match=r"a ResNet needs sides of at least 16 pixels here, got 8x8"):
        deep.check((1, 8, 8), 10, 10)


def test_soft_labels_without_a_teacher_are_refused(small, dataset):
    images, labels = dataset.train.images(), dataset.train.labels
    with pytest.raises(ValueError, match="teacher: soft_small takes its labels from one, got None"):
        small.train(images, labels, images, labels, num_classes=10, mean=(0.3,), std=(0.4,), seed=0, ipc=30)


# Runs


@pytest.fixture
def somewhere_else(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_whole_run(capsys, monkeypatch, somewhere_else, tiny_prior, shared_cache, tmp_path):
    folder = tmp_path / "out"
    changes = [*SOFT, "source=random"]
    assert quick("run", tiny_prior, shared_cache, folder, *changes) == 0
    result = metrics(folder)
    accuracy = result["teacher"].pop("test_accuracy")
    assert result["teacher"] == {"name": "ConvNet-3 (width 8)"}
    assert 0.3 < accuracy < 1
    assert (result["label_protocol"], result["epochs"]) == ("soft_small", 1)
    assert set(result["seconds"]) >= {"teacher", "students", "metrics"}
    out = capsys.readouterr().out
    assert f"teacher: ConvNet-3 (width 8), {100 * accuracy:.1f} % on real test images" in out
    page = (folder / "report.html").read_text()
    assert f"with the outputs of a ConvNet-3 (width 8) ({100 * accuracy:.1f} % on real test images) as labels" in page

    def never(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(Student, "train", never)
    monkeypatch.setattr(classifiers, "train_classifier", never)
    assert quick("run", tiny_prior, shared_cache, folder, *changes) == 0
    other = [each.replace("=15000", "=16000") for each in changes]
    assert quick("run", tiny_prior, shared_cache, folder, *other) == 2  # another teacher, another result
    assert "student.protocol.teacher.images_shown is 15000 there, 16000 here" in capsys.readouterr().err
