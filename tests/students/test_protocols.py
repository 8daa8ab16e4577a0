"""Protocols: epochs, learning rates, evaluations."""

import dataclasses

import pytest
from student_parts import student

from manifoldgd.errors import UserError


def test_hard_large_has_the_published_epochs():
    protocol = student(member="resnetap10").protocol
    table = {1: 3000, 2: 2000, 10: 2000, 11: 1500, 50: 1500, 51: 1000, 100: 1000, 200: 1000, 201: 500, 501: 300}
    assert {ipc: protocol.epochs_for(ipc, 10) for ipc in table} == table
    assert [protocol.epochs_for(ipc, 100) for ipc in (1, 10, 50, 100)] == [2000, 1300, 1000, 600]
    assert protocol.image_size == 224
    with pytest.raises(UserError, match=r"entry for ipc=11 or more, got entries up to 10"):
        dataclasses.replace(protocol, epochs={1: 30, 10: 20}).epochs_for(11, 10)
    with pytest.raises(UserError, match=r"at most 100 classes, got 101; choose student/protocol=hard_many_classes"):
        protocol.epochs_for(10, 101)
    many = student("student/protocol=hard_many_classes", member="resnetap10").protocol
    assert (many.learning_rate, many.weight_decay, many.batch_size) == (0.1, 1e-4, 128)
    assert [many.epochs_for(ipc, 1000) for ipc in (10, 1000)] == [2000, 300]  # shorter at 100 classes only


def test_learning_rate_drops_at_the_milestones():
    small, large = student().protocol, student(member="resnet18").protocol
    assert [small.rate_factor(epoch, 300) for epoch in (0, 149, 150, 299)] == [1, 1, 0.1, 0.1]
    assert [large.rate_factor(epoch, 1500) for epoch in (999, 1000, 1249, 1250)] == [
        1,
        0.2,
        0.2,
        pytest.approx(0.04),
    ]
    assert small.epochs_for(10, 10) == 300


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 300])
@pytest.mark.parametrize("evaluations", [1, 3, 10])
def test_the_last_epoch_is_always_evaluated(epochs, evaluations):
    protocol = dataclasses.replace(student().protocol, evaluations=evaluations)
    evaluated = protocol.evaluated_epochs(epochs)
    assert epochs in evaluated
    assert len(evaluated) == min(evaluations, epochs)
    assert min(evaluated) >= 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, "epochs: expected .*, got 0"),
        ("epochs", {1: 10, 5: 0}, r"epochs\.5: expected .*, got 0"),
        ("batch_size", 0, "batch_size: expected .*, got 0"),
        ("evaluations", 0, "evaluations: expected .*, got 0"),
        ("learning_rate", -1.0, "learning_rate: expected .*, got -1.0"),
        ("cutmix_alpha", -0.5, "cutmix_alpha: expected .*, got -0.5"),
        ("milestones", [200], r"milestones: expected .*, got \[200\]"),
    ],
)
def test_protocols_check_their_numbers(key, value, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(student().protocol, **{key: value})
