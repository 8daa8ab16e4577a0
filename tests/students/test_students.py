"""Students: training, its determinism, what it logs and refuses."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from student_parts import MEAN, STD, source, student

from manifoldgd.errors import UserError
from manifoldgd.students import HardLabel, Student
from manifoldgd.students.inference import Pixels, centre_view
from manifoldgd.students.training import ShuffledIndices


def train(digits, *overrides, seed=0, **arguments):
    learner = student("student.width=16", *overrides)
    return learner.train(*digits, num_classes=10, mean=MEAN, std=STD, seed=seed, ipc=10, progress=False,
                         accelerator="cpu", **arguments)  # fmt: skip


NO_FLIP = "student.protocol.augmentation.operations=[crop,scale,rotate]"


def test_a_hundred_digits_teach_far_more_than_chance(digits):
    numbers = ["epochs=30", "batch_size=20", "learning_rate=0.05"]
    result = train(digits, NO_FLIP, *(f"student.protocol.{each}" for each in numbers))
    assert result.last_top1 > 0.55
    assert result.train_accuracy > 0.8
    assert result.last_epoch == 30
    assert [epoch for epoch, _ in result.curve] == [10, 20, 30]
    assert result.curve[-1] == (30, result.last_top1)
    assert result.best_top1 == max(top1 for _, top1 in result.curve)
    sizes = torch.bincount(digits[3], minlength=10).double()
    mean = float((torch.tensor(result.per_class, dtype=torch.float64) * sizes).sum() / sizes.sum())
    assert mean == pytest.approx(result.last_top1)


def test_equal_seeds_give_equal_bits_and_others_do_not(digits):
    runs = []
    for seed in (1, 1, 2):
        losses = []
        torch.rand(seed)  # global state must not matter
        result = train(digits, "student.protocol.epochs=4", "student.protocol.batch_size=32", seed=seed,
                       on_epoch=lambda epoch, epochs, metrics, losses=losses: losses.append((epoch, epochs, metrics["loss"])))  # noqa: E501  # fmt: skip
        runs.append((losses, result.curve, result.per_class, result.train_accuracy))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]
    assert [(epoch, epochs) for epoch, epochs, _ in runs[0][0]] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_training_leaves_inputs_and_global_random_state_alone(digits):
    copies = [each.clone() for each in digits]
    before = torch.get_rng_state()
    train(digits, "student.protocol.epochs=2")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(copies, digits, strict=True))


def test_large_image_protocol_trains_with_cutmix_and_another_size(digits):
    images = torch.stack([F.pad(each, (2, 2, 2, 2)) for each in digits[0]])
    learner = student("student/protocol=hard_large", "student.width=8", "student.protocol.epochs=2",
                      "student.protocol.image_size=16")  # fmt: skip
    assert learner.input_shape((1, 12, 12)) == (1, 16, 16)
    test_images = torch.stack([F.pad(each, (2, 2, 2, 2)) for each in digits[2][:50]])
    result = learner.train(images, digits[1], test_images, digits[3][:50], num_classes=10, mean=MEAN, std=STD, seed=0,
                           ipc=10, progress=False, accelerator="cpu")  # fmt: skip
    assert [epoch for epoch, _ in result.curve] == [1, 2]


def test_a_logger_gets_loss_and_accuracy(digits, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    train(digits, "student.protocol.epochs=2", "student.protocol.evaluations=1", seed=7, logger=logger)
    text = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert "student/7/loss" in text
    assert "student/7/top1" in text


def test_training_checks_tensors_and_numbers_first(digits):
    images, labels, test_images, test_labels = digits
    learner = student()
    with pytest.raises(ValueError, match=r"images: expected uint8"):
        learner.train(
            images.float(), labels, test_images, test_labels, num_classes=10, mean=MEAN, std=STD, seed=0, ipc=1
        )
    with pytest.raises(ValueError, match=r"labels: expected int64 \(100,\)"):
        learner.train(images, labels[:5], test_images, test_labels, num_classes=10, mean=MEAN, std=STD, seed=0, ipc=1)
    with pytest.raises(UserError, match="at least 64 pixels, got 8x8"):
        student("student/protocol=hard_small", member="convnet6").check((1, 8, 8), 10, 10)
    numbers = {"architecture": "convnet", "width": 4, "depth": 3, "protocol": learner.protocol}
    with pytest.raises(UserError, match=r"architecture: expected one of .* got 'densenet'"):
        Student(**numbers | {"architecture": "densenet"})
    with pytest.raises(UserError, match=r"width: expected .*, got 0"):
        Student(**numbers | {"width": 0})


def test_names():
    assert student().name == "ConvNet-3"
    assert student("student.width=64").name == "ConvNet-3 (width 64)"
    assert student(member="resnetap10").name == "ResNetAP-10"
    assert isinstance(student().protocol, HardLabel)
    assert isinstance(student(), Student)


def test_every_index_comes_once_in_each_pass():
    loader = ShuffledIndices(10, 4, source())
    passes = [list(loader) for _ in range(2)]
    for batches in passes:
        assert [len(each) for each in batches] == [4, 4, 2]
        assert torch.cat(batches).sort().values.tolist() == list(range(10))
    assert not torch.equal(torch.cat(passes[0]), torch.cat(passes[1]))
    assert len(loader) == 3


def test_pixels_are_normalised_channel_by_channel():
    pixels = Pixels((0.5, 0.25), (0.5, 0.1))
    images = torch.tensor([[[[255]], [[0]]]], dtype=torch.uint8)
    assert pixels.normalised(pixels.unit(images)).flatten().tolist() == pytest.approx([1.0, -2.5])


def test_test_images_are_scaled_to_cover_and_cropped_at_the_centre():
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(centre_view(x, (28, 28), Fraction(8, 7)), x[:, :, 2:30, 2:30])
    assert centre_view(x, (32, 32), Fraction(8, 7)) is x
    assert centre_view(torch.rand(1, 1, 20, 40), (14, 14), Fraction(8, 7)).shape == (1, 1, 14, 14)


def test_a_cover_of_one_shows_the_whole_image():
    x = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    seen = centre_view(x, (28, 28), Fraction(1))
    torch.testing.assert_close(seen, F.interpolate(x, (28, 28), mode="bilinear", antialias=True))
    wide = centre_view(torch.linspace(0, 1, 64).expand(1, 1, 32, 64), (28, 28), Fraction(1))
    assert wide.shape == (1, 1, 28, 28)
    assert (float(wide.min()), float(wide.max())) == pytest.approx((0.25, 0.75), abs=0.02)  # the middle half


@pytest.mark.parametrize(
    ("protocol", "cover"),
    [("hard_small", 1), ("hard_large", 1), ("hard_many_classes", 1), ("soft_large", Fraction(8, 7))],
)
def test_how_much_of_a_test_image_students_see_is_the_protocols(protocol, cover):
    assert student(f"student/protocol={protocol}").protocol.test_cover == cover


def test_a_cover_below_one_is_refused():
    protocol = student("student/protocol=hard_large").protocol
    with pytest.raises(UserError, match=r"test_cover: expected .*, got 0.5"):
        dataclasses.replace(protocol, test_cover=0.5)
