"""A labelled image dataset with a training and a test split.

Distillation and prior training see the training split only; the test split is read once, to judge students.
Images are ``uint8`` everywhere; a consumer converts them to the range it wants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from manifoldgd.errors import require
from manifoldgd.randomness import generator

VALIDATION = "-validation"  # ends the name of a dataset whose judge is held out of the training split


def judging_split(name: str) -> Literal["validation", "test"]:
    """Which split judges students on the dataset of this name."""
    return "validation" if name.endswith(VALIDATION) else "test"


@dataclass(frozen=True)
class Split:
    """One split: labels at hand, images on request."""

    labels: Tensor  # [N] int64, index into the dataset's class_names
    load: Callable[[Tensor], Tensor]  # positions [n] int64 -> images [n, C, H, W] uint8

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, chunk: int = 1024) -> Tensor:
        """All images ``[N, C, H, W]`` uint8."""
        first, *others = torch.arange(len(self)).split(chunk)
        loaded = self.load(first)
        # Filled part by part: joining parts would hold every image twice.
        images = loaded.new_empty(len(self), *loaded.shape[1:])
        images[first] = loaded
        for part in others:
            images[part] = self.load(part)
        return images

    def subset(self, positions: Tensor) -> Split:
        """The split restricted to ``positions`` ``[n]``, in that order."""
        return Split(self.labels[positions], lambda index: self.load(positions[index]))


@dataclass(frozen=True)
class ImageDataset:
    """A dataset as the rest of the project sees it."""

    name: str  # includes the variant, so that two datasets of one family never share a name
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # C, H, W
    train: Split
    test: Split
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]: what students subtract
    std: tuple[float, ...]
    flip: bool  # whether a mirrored image keeps its class (a digit does not)
    fingerprint: str  # changes when the images or their order change
    prior_labels: dict[str, int] | None = None  # class name -> label of the prior; None: match by name
    treatment: tuple[Any, ...] = ()  # mean, std and flip, where the user chooses them; else the name stands for them

    @property
    def as_learned(self) -> tuple[Any, ...]:
        """What a key holds of the dataset where networks look at normalised, perhaps mirrored, images of it."""
        return self.name, self.fingerprint, *self.treatment

    def __post_init__(self) -> None:
        counts = torch.bincount(self.train.labels, minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, counts.tolist(), strict=True) if count == 0]
        require(
            not empty,
            f"dataset {self.name}: class {', '.join(map(repr, empty))} has no training image; "
            "add images to it or remove the class folder",
        )


def in_memory_split(images: Tensor, labels: Tensor) -> Split:
    """A split whose images ``[N, C, H, W]`` uint8 are already in memory."""
    return Split(labels.to(torch.int64), lambda index: images[index])


def limit_per_class(split: Split, count: int | None) -> Split:
    """The first ``count`` images of each class, in order; the whole split for ``None``."""
    if count is None:
        return split
    require(count >= 1, f"dataset.train_per_class: expected null or at least 1, got {count}")
    keep = [torch.nonzero(split.labels == label).flatten()[:count] for label in torch.unique(split.labels).tolist()]
    return split.subset(torch.cat(keep).sort().values)


def hold_out(dataset: ImageDataset, count: int | None) -> ImageDataset:
    """The dataset to tune on: ``count`` training images take the place of the test split, which is left unread.

    The same number of each class is held out, drawn by a fixed key, so that everyone tunes on the same images. The
    dataset's name gets the suffix ``-validation``: its results never pass for test results.

    Args:
        dataset: the whole.
        count: images to hold out, a multiple of the number of classes; ``None`` for the dataset as it is.

    Raises:
        UserError: the count is no multiple of the number of classes, or leaves a class without training images.
    """
    if count is None:
        return dataset
    per_class, rest = divmod(count, len(dataset.class_names))
    require(
        count > 0 and rest == 0,
        f"dataset.validation: expected null or a positive multiple of the {len(dataset.class_names)} classes, "
        f"got {count}; set {max(1, per_class) * len(dataset.class_names)}",
    )
    labels = dataset.train.labels
    smallest = int(labels.bincount(minlength=len(dataset.class_names)).min())
    require(
        per_class < smallest,
        f"dataset.validation: expected fewer than the {smallest} training images of the smallest class from each "
        f"class, got {per_class}; lower dataset.validation",
    )
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, name in enumerate(dataset.class_names):
        rows = torch.nonzero(labels == label).flatten()
        held[rows[torch.randperm(len(rows), generator=generator("validation", name))[:per_class]]] = True
    return replace(
        dataset,
        name=f"{dataset.name}{VALIDATION}",
        train=dataset.train.subset(torch.nonzero(~held).flatten()),
        test=dataset.train.subset(torch.nonzero(held).flatten()),
        fingerprint=f"{dataset.fingerprint}-validation{count}",
    )
