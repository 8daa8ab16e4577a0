"""The split to tune on: cut from the training images, the same for everyone, never taken for the test split."""

import pytest
import torch

from manifoldgd.data import digits
from manifoldgd.dataset import VALIDATION
from manifoldgd.errors import UserError


def rows(split):
    return {bytes(image.numpy().tobytes()) for image in split.images()}


def test_held_out_images_come_from_the_training_split_in_equal_numbers():
    whole, tuned = digits(train_per_class=None, validation=None), digits(train_per_class=None, validation=200)
    assert tuned.name == whole.name + VALIDATION
    assert len({tuned.train_fingerprint, tuned.test_fingerprint, whole.train_fingerprint, whole.test_fingerprint}) == 4
    assert tuned.test.labels.bincount().tolist() == [20] * 10
    assert len(tuned.train) + 200 == len(whole.train)
    assert rows(tuned.train) | rows(tuned.test) == rows(whole.train)
    assert not rows(tuned.test) & rows(whole.test)


def test_everyone_holds_out_the_same_images():
    one, two = (digits(train_per_class=None, validation=100).test for _ in range(2))
    assert torch.equal(one.images(), two.images())


@pytest.mark.parametrize("count", [0, -10, 15])
def test_counts_that_cannot_be_split_evenly_are_refused(count):
    with pytest.raises(UserError, match=r"validation: expected null or a positive multiple"):
        digits(train_per_class=None, validation=count)


def test_every_class_keeps_training_images():
    with pytest.raises(UserError, match=r"fewer than the 5 training images"):
        digits(train_per_class=5, validation=50)
