"""A training that was stopped goes on from its last saved epoch, and ends as if nothing had happened."""

from dataclasses import replace

import pytest
import torch
from student_parts import MEAN, STD, student

from manifoldgd.store.keys import key_of
from manifoldgd.students import Recipe, ShiftFlip, train_classifier, training
from manifoldgd.students.unfinished import Unfinished

THESE = key_of("these images")  # as the pipeline calls them
FEW = ("student.protocol.epochs=4", "student.protocol.batch_size=32", "student.protocol.evaluations=4")
NETWORKS = {
    "norms": ("convnet3", ("student.width=8", "student.depth=1")),
    "dropout": ("alexnet", ("student.width=8",)),
    "mixed": ("convnet3", ("student.width=8", "student.depth=1", "student.protocol.cutmix_alpha=1.0")),
}


class Stopped(Exception):
    pass


class Logger:
    """What a Lightning logger is told."""

    def __init__(self):
        from lightning.pytorch.loggers import CSVLogger

        self.told = {}

        class Told(CSVLogger):
            def log_metrics(_, metrics, step=None):
                self.told[step] = dict(metrics)

            def save(_):
                pass

        self.lightning = Told("nowhere")


@pytest.fixture(autouse=True)
def saved_at_each_epoch(monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)


def train(learner, digits, unfinished, *, until=None, teacher=None):
    """Result, weights, and what a logger was told; stopped in epoch ``until``."""
    logger, kept = Logger(), []

    def on_epoch(epoch, epochs, metrics):
        if epoch == until:
            raise Stopped

    result = learner.train(*digits, num_classes=10, mean=MEAN, std=STD, seed=3, ipc=10, progress=False,
                           accelerator="cpu", on_epoch=on_epoch, on_trained=kept.append, logger=logger.lightning,
                           teacher=teacher, unfinished=unfinished)  # fmt: skip
    weights = {name: each.clone() for name, each in kept[0].network.state_dict().items()}
    return replace(result, seconds=0.0), weights, logger.told


def equal(one, other):
    weights = all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    return weights and one[0] == other[0] and one[2] == other[2]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_student_that_was_stopped_ends_with_the_same_bits(digits, tmp_path, network):
    member, changes = NETWORKS[network]
    learner, unfinished = student(*changes, *FEW, member=member), Unfinished(tmp_path / "0.ckpt", THESE)
    if network == "dropout":
        digits = [torch.nn.functional.pad(each, (12, 12, 12, 12)) if each.ndim == 4 else each for each in digits]
    digits = [each[:100] for each in digits]
    whole = train(learner, digits, None)
    for until in (1, 2, 4):  # before anything was saved, and again and again
        with pytest.raises(Stopped):
            train(learner, digits, unfinished, until=until)
        assert unfinished.is_there() == (until > 1)
    assert equal(train(learner, digits, unfinished), whole)
    unfinished.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["of another set", "damaged", "absent"])
def test_what_cannot_be_continued_is_begun_anew(digits, tmp_path, what):
    learner, digits = student("student.width=8", "student.depth=1", *FEW), [each[:100] for each in digits]
    whole, unfinished = train(learner, digits, None), Unfinished(tmp_path / "0.ckpt", THESE)
    with pytest.raises(Stopped):
        train(learner, digits, unfinished, until=3)
    if what == "damaged":
        data = bytearray(unfinished.file.read_bytes())
        data[len(data) // 2] ^= 0x01
        unfinished.file.write_bytes(data)
    if what == "absent":
        unfinished.remove()
    again = Unfinished(unfinished.file, "others" if what == "of another set" else THESE)
    assert not again.is_there()
    assert equal(train(learner, digits, again), whole)


def test_a_state_does_not_hold_the_teacher(digits, tmp_path):
    digits = [each[:100] for each in digits]
    recipe = Recipe(architecture="convnet", width=8, depth=1, epochs=1, images_shown=None, batch_size=50, momentum=0.9,
                    learning_rate=0.05, weight_decay=0.0, augmentation=ShiftFlip(shift=0.1, flip=False))  # fmt: skip
    numbers = {"num_classes": 10, "mean": MEAN, "std": STD, "seed": 0, "flip": False, "progress": False}
    teacher = train_classifier(*digits[:2], **numbers, recipe=recipe, accelerator="cpu")
    learner = student("student/protocol=soft_small", "student.width=8", "student.depth=1", *FEW)
    whole, unfinished = train(learner, digits, None, teacher=teacher), Unfinished(tmp_path / "0.ckpt", THESE)
    with pytest.raises(Stopped):
        train(learner, digits, unfinished, until=3, teacher=teacher)
    held = torch.load(unfinished.file, weights_only=True)["state_dict"]
    assert held
    assert all(name.startswith("network.") for name in held)
    assert equal(train(learner, digits, unfinished, teacher=teacher), whole)


def test_a_classifier_goes_on_too(digits, tmp_path, monkeypatch):
    images, labels = digits[0], digits[1]
    recipe = Recipe(architecture="convnet", width=8, depth=1, epochs=3, images_shown=None, batch_size=20, momentum=0.9,
                    learning_rate=0.05, weight_decay=1e-4, augmentation=ShiftFlip(shift=0.1, flip=True))  # fmt: skip
    numbers = {"num_classes": 10, "mean": MEAN, "std": STD, "seed": 0, "flip": True, "progress": False,
               "recipe": recipe, "accelerator": "cpu"}  # fmt: skip
    whole, unfinished = train_classifier(images, labels, **numbers), Unfinished(tmp_path / "it.ckpt", "it")
    steps, step = [], training.Supervised.training_step

    def stopped(self, indices, batch_idx):
        steps.append(batch_idx)
        if len(steps) == 8:  # in the second epoch of five batches
            raise Stopped
        return step(self, indices, batch_idx)

    monkeypatch.setattr(training.Supervised, "training_step", stopped)
    with pytest.raises(Stopped):
        train_classifier(images, labels, **numbers, unfinished=unfinished)
    assert unfinished.is_there()
    again = train_classifier(images, labels, **numbers, unfinished=unfinished)
    assert len(steps) == 8 + 10  # the first epoch was not trained again
    for name, each in whole.network.state_dict().items():
        assert torch.equal(each, again.network.state_dict()[name])
