"""The 8x8 handwritten digits that scikit-learn carries: 1,797 real images, no download."""

from __future__ import annotations

import torch

from manifoldgd.artifacts import Key
from manifoldgd.dataset import HeldOut, ImageDataset, Images, fingerprint_of, hold_out, in_memory_split, limit_per_class

# Every fifth image of a class, in the bundle's order, is a test image: 1,442 train, 355 test, the same for everyone.
TEST_EVERY = 5


def digits(*, train_per_class: Images | None, validation: HeldOut | None) -> ImageDataset:
    """scikit-learn's digits, grey values 0 ... 16 stretched to 0 ... 255, with a fixed stratified split.

    Args:
        train_per_class: keep only the first images of each class of the training split; ``None`` keeps all.
        validation: hold out this many training images, or this share, to tune on
            (:func:`manifoldgd.dataset.hold_out`).
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = torch.from_numpy(bundle.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bundle.target).to(torch.int64)
    position_in_class = torch.zeros_like(labels)
    for label in range(10):
        members = labels == label
        position_in_class[members] = torch.arange(int(members.sum()))
    is_test = position_in_class % TEST_EVERY == TEST_EVERY - 1
    class_names = tuple(str(label) for label in range(10))
    train = limit_per_class(in_memory_split(images[~is_test], labels[~is_test]), train_per_class)
    test = in_memory_split(images[is_test], labels[is_test])
    former = [f"digits-1797-test{TEST_EVERY}-first{train_per_class}"]
    whole = ImageDataset(
        name="digits",
        class_names=class_names,
        image_shape=(1, 8, 8),
        train=train,
        test=test,
        mean=(0.3052,),
        std=(0.3760,),
        flip=False,
        train_fingerprint=Key(fingerprint_of(train.labels, train.digests, class_names), former),
        test_fingerprint=Key(fingerprint_of(test.labels, test.digests, class_names), former),
    )
    return hold_out(whole, validation)
