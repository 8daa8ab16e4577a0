"""A labelled image dataset with a training and a test split.

Distillation and prior training see the training split only; the test split is read once, to judge students. Each split
has a fingerprint of its own, so that what is made of training images stays valid whatever happens to test images.
Images are ``uint8`` everywhere; a consumer converts them to the range it wants.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from manifoldgd.artifacts import Key
from manifoldgd.errors import require
from manifoldgd.randomness import generator
from manifoldgd.ranges import Range

VALIDATION = "-validation"  # ends the name of a dataset whose judge is held out of the training split
Images = Annotated[int, Range("[1, 100000000]")]  # of a class, or of a split
HeldOut = Images | Annotated[float, Range("(0, 1)")]  # a number of images, or a share of them
LEAST_STD = 0.01  # two and a half grey levels: no dataset of pictures varies less
# A dataset's name becomes that of a folder, a line of YAML and a title.
NAME = re.compile(r"\w(?:[\w .,+=()\[\]'&~-]*[\w)\]])?")


def judging_split(name: str) -> Literal["validation", "test"]:
    """Which split judges students on the dataset of this name."""
    return "validation" if name.endswith(VALIDATION) else "test"


@dataclass(frozen=True)
class Split:
    """One split: labels at hand, images on request."""

    labels: Tensor  # [N] int64, index into the dataset's class_names
    load: Callable[[Tensor], Tensor]  # positions [n] int64 -> images [n, C, H, W] uint8
    pictures: Callable[[], Sequence[bytes]] | None = None  # gives the digests where they are known without loading

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """``N`` hashes of what the images show, 16 bytes each: equal for images of equal pixels."""
        if self.pictures is not None:
            return tuple(self.pictures())
        return tuple(
            hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            for part in torch.arange(len(self)).split(1024)
            for image in self.load(part).numpy()
        )

    @cached_property
    def distinct(self) -> Tensor:
        """Positions ``[m]`` int64, ascending, of all images but the copies of earlier ones of their class."""
        first: dict[tuple[int, bytes], int] = {}
        for position, content in enumerate(zip(self.labels.tolist(), self.digests, strict=True)):
            first.setdefault(content, position)
        return torch.tensor(sorted(first.values()), dtype=torch.int64)

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
        return Split(
            self.labels[positions],
            lambda index: self.load(positions[index]),
            lambda: [self.digests[position] for position in positions.tolist()],
        )


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
    # Each changes when the images of its split, their order, or what decides their pixels changes. Formerly one hash
    # covered both splits: it is a former name of each.
    train_fingerprint: Key
    test_fingerprint: Key
    prior_labels: dict[str, int] | None = None  # class name -> label of the prior; None: match by name
    treatment: tuple[Any, ...] = ()  # mean, std and flip, where the user chooses them; else the name stands for them

    @property
    def as_learned(self) -> tuple[Any, ...]:
        """What a key holds of the dataset where networks look at normalised, perhaps mirrored, images of it."""
        return self.name, self.train_fingerprint, *self.treatment

    @cached_property
    def leaked(self) -> int:
        """Test images that show, pixel for pixel, what a training image shows."""
        learned = set(self.train.digests)
        return sum(digest in learned for digest in self.test.digests)

    def __post_init__(self) -> None:
        check_name(self.name)
        check_statistics(self.mean, self.std, self.image_shape[0])
        counts = torch.bincount(self.train.labels, minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, counts.tolist(), strict=True) if count == 0]
        require(
            not empty,
            f"dataset {self.name}: class {', '.join(map(repr, empty))} has no training image; "
            "add images to it or remove the class folder",
        )


def check_name(name: str) -> None:
    """Raise :class:`UserError` unless ``name`` can name a folder, and stand in a line of YAML."""
    require(
        NAME.fullmatch(name) is not None and len(name) <= 100,
        f"expected at most 100 letters, digits, spaces and any of . , + = ( ) [ ] ' & ~ - _ between a "
        f"letter or digit and another, got {name!r}; set it to such a name",
        key="name",
    )


def check_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raise :class:`UserError` unless each channel has a mean and a deviation that pixels in [0, 1] can have."""
    for key, given, low, high in (("mean", mean, 0.0, 1.0), ("std", std, LEAST_STD, 1.0)):
        fits = len(given) == channels and all(math.isfinite(value) and low <= value <= high for value in given)
        grey_levels = all(math.isfinite(value) and 0 <= value <= 255 for value in given) and max(given, default=0) > 1
        require(
            fits,
            f"expected {channels} number{'s' if channels > 1 else ''} in [{low:g}, {high:g}], one a "
            f"channel, of pixels in [0, 1], got {list(given)}; "
            + ("divide by 255" if grey_levels else "correct it, or null where the dataset has a default"),
            key=key,
        )


def fingerprint_of(labels: Tensor, contents: Iterable[bytes], *settings: Any) -> str:
    """A 32-digit hexadecimal hash of a split: its contents in their order, labels, and what else decides its pixels.

    Args:
        labels: ``[N]`` int64.
        contents: a hash of each image or its file.
        settings: of equal ``repr`` where they are equal.
    """
    digest = hashlib.blake2b(repr(settings).encode("utf-8", "surrogateescape"), digest_size=16)
    for label, content in zip(labels.tolist(), contents, strict=True):
        digest.update(b"\0%d\0%s" % (label, content))
    return digest.hexdigest()


def in_memory_split(images: Tensor, labels: Tensor) -> Split:
    """A split whose images ``[N, C, H, W]`` uint8 are already in memory."""
    return Split(labels.to(torch.int64), lambda index: images[index])


def limit_per_class(split: Split, count: int | None) -> Split:
    """The first ``count`` images of each class, in order; the whole split for ``None``."""
    if count is None:
        return split
    require(count >= 1, f"expected null or at least 1, got {count}", key="train_per_class")
    keep = [torch.nonzero(split.labels == label).flatten()[:count] for label in torch.unique(split.labels).tolist()]
    return split.subset(torch.cat(keep).sort().values)


def hold_out(dataset: ImageDataset, validation: float | None) -> ImageDataset:
    """The dataset to tune on: some training images take the place of the test split, which is left unread.

    They are drawn from each class by a fixed key, so that everyone tunes on the same images. The dataset's name gets
    the suffix ``-validation``: its results never pass for test results.

    Args:
        dataset: the whole.
        validation: images to hold out, a multiple of the number of classes, as many of each; a fraction between 0 and
            1 for that share of each class, at least one image; ``None`` for the dataset as it is.

    Raises:
        UserError: the count is no multiple of the number of classes, or a class is left without training images.
    """
    if validation is None:
        return dataset
    labels = dataset.train.labels
    counts = labels.bincount(minlength=len(dataset.class_names)).tolist()
    per_class = _held_per_class(validation, counts)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, name in enumerate(dataset.class_names):
        rows = torch.nonzero(labels == label).flatten()
        held[rows[torch.randperm(len(rows), generator=generator("validation", name))[: per_class[label]]]] = True
    whole = dataset.train_fingerprint
    former = [f"{name}-validation{validation}" for name in whole.former]
    return replace(
        dataset,
        name=f"{dataset.name}{VALIDATION}",
        train=dataset.train.subset(torch.nonzero(~held).flatten()),
        test=dataset.train.subset(torch.nonzero(held).flatten()),
        train_fingerprint=Key(f"{whole}-validation{validation}", former),
        test_fingerprint=Key(f"{whole}-held{validation}", former),
    )


def _held_per_class(validation: float, counts: Sequence[int]) -> list[int]:
    """How many of the ``counts`` training images of each class are held out."""
    if isinstance(validation, float):
        require(
            0 < validation < 1,
            f"expected null, a whole number of images, or a share in (0, 1), got {validation}; "
            "set it to 0.2 to hold a fifth out",
            key="validation",
        )
        per_class = [max(1, round(validation * count)) for count in counts]
        lower = "lower it, or add images"
    else:
        each, rest = divmod(validation, len(counts))
        require(
            validation > 0 and rest == 0,
            f"expected null or a positive multiple of the {len(counts)} classes, got {validation}; "
            f"set {max(1, each) * len(counts)}, or a share of each class such as 0.2",
            key="validation",
        )
        per_class = [each] * len(counts)
        lower = "lower it, or set a share of each class such as 0.2"
    held, smallest = min(zip(per_class, counts, strict=True), key=lambda pair: pair[1])
    require(
        held < smallest,
        f"expected fewer than the {smallest} training images of the smallest class from each "
        f"class, got {held}; {lower}",
        key="validation",
    )
    return per_class
