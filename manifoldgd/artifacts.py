"""What the stages hand to each other. Frozen; shapes and ranges are checked on construction.

Shape letters: ``N`` real images, ``P`` prototypes, ``n`` images of a set, ``C, H, W`` channels, height, width of a
latent or an image. Latents are *scaled* everywhere: multiplied by the autoencoder's ``scaling_factor``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_labels(name: str, labels: Tensor, count: int, num_classes: int) -> None:
    _check(labels.shape == (count,), f"{name}: expected shape ({count},), got {tuple(labels.shape)}")
    _check(labels.dtype == torch.int64, f"{name}: expected int64, got {labels.dtype}")
    if count:
        low, high = int(labels.min()), int(labels.max())
        _check(low >= 0 and high < num_classes, f"{name}: expected values in [0, {num_classes}), got [{low}, {high}]")


class Key(str):
    """A hash of what something depends on, and the hashes by which earlier versions knew the same content.

    It is the hash of today wherever text is wanted. What is found under a former hash counts as found: caches and
    finished folders stay valid when a version hashes more, or less, than the one before.
    """

    former: tuple[str, ...]

    def __new__(cls, value: str, former: Iterable[str] = ()) -> Key:
        key = super().__new__(cls, value)
        key.former = tuple(former)
        return key

    @property
    def names(self) -> tuple[str, ...]:
        """The hash of today, then the former ones."""
        return (str(self), *self.former)


@dataclass(frozen=True)
class LatentSet:
    """The real training images of a dataset as scaled latents."""

    latents: Tensor  # [N, C, H, W] float32, or float16 where they were computed in half precision; usually mapped
    labels: Tensor  # [N] int64, index into class_names
    class_names: tuple[str, ...]
    key: Key  # hash of dataset, prior and transform
    distinct: Tensor | None = None  # [m] int64 rows of images that are no copies within their class; None: not known

    def __post_init__(self) -> None:
        _check(self.latents.ndim == 4, f"latents: expected [N, C, H, W], got {tuple(self.latents.shape)}")
        _check_labels("labels", self.labels, len(self.latents), len(self.class_names))

    def of(self, rows: Tensor) -> Tensor:
        """The latents ``[..., C, H, W]`` float32 of rows ``[...]`` int64, however they are kept."""
        return self.latents[rows].float()

    def indices_of(self, label: int) -> Tensor:
        """Positions ``[N_c]`` (int64, ascending) of the images of one class."""
        return torch.nonzero(self.labels == label).flatten()


@dataclass(frozen=True)
class PrototypeSet:
    """``ipc`` prototypes for each class, class by class, coarse to fine where the clusterer has an order."""

    prototypes: Tensor  # [P, C, H, W] float32 scaled latents
    labels: Tensor  # [P] int64, index into class_names
    ranks: Tensor  # [P] int64, position within the class, 0 ... ipc - 1
    nearest: Tensor  # [P] int64, row of the closest real latent in the LatentSet
    depths: Tensor  # [P] int64, depth in the tree (0 for flat clusterers)
    sizes: Tensor  # [P] int64, real latents that the prototype stands for
    class_names: tuple[str, ...]
    key: Key

    def __post_init__(self) -> None:
        count = len(self.prototypes)
        _check(self.prototypes.ndim == 4, f"prototypes: expected [P, C, H, W], got {tuple(self.prototypes.shape)}")
        _check_labels("labels", self.labels, count, len(self.class_names))
        for name in ("ranks", "nearest", "depths", "sizes"):
            shape = tuple(getattr(self, name).shape)
            _check(shape == (count,), f"{name}: expected shape ({count},), got {shape}")

    @property
    def ipc(self) -> int:
        """Prototypes a class."""
        return len(self.prototypes) // len(self.class_names)


@dataclass(frozen=True)
class DistilledSet:
    """A small labelled image set, synthetic or real, and the folder that holds it."""

    images: Tensor  # [n, C, H, W] uint8, of a large set memory-mapped
    labels: Tensor  # [n] int64, index into class_names
    ranks: Tensor  # [n] int64, position within the class
    class_names: tuple[str, ...]
    folder: Path | None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.images.ndim == 4, f"images: expected [n, C, H, W], got {tuple(self.images.shape)}")
        _check(self.images.dtype == torch.uint8, f"images: expected uint8, got {self.images.dtype}")
        _check_labels("labels", self.labels, len(self.images), len(self.class_names))
        _check(self.ranks.shape == self.labels.shape, f"ranks: expected {tuple(self.labels.shape)}")

    @cached_property
    def fingerprint(self) -> str:
        """A 16-digit hexadecimal hash of images and labels in their order: equal for sets of equal pixels."""
        digest = hashlib.blake2b(str(tuple(self.images.shape)).encode(), digest_size=8)
        for tensor in (self.images, self.labels):
            digest.update(tensor.contiguous().numpy().data)  # in place: the images may be mapped
        return digest.hexdigest()


@dataclass(frozen=True)
class StudentResult:
    """One student trained from scratch on one set and tested on the real test split."""

    seed: int
    last_top1: float  # fraction in [0, 1] after the last epoch: the headline
    best_top1: float  # fraction in [0, 1], best of the evaluated epochs: shown apart, never ranked by
    last_epoch: int
    best_epoch: int
    train_accuracy: float  # fraction in [0, 1] on the set itself, last epoch
    per_class: tuple[float, ...]  # last-epoch accuracy of each class
    curve: tuple[tuple[int, float], ...]  # (epoch, test accuracy)
    seconds: float
