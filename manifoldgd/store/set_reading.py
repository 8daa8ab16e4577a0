"""What a set from elsewhere does not say itself, stated: the units of its pixels, its labels, sizes and classes.

Nothing of it is guessed in silence. What was done is a remark of the set, what is missing an error that names the
argument of :class:`Reading` that says it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manifoldgd.data.image_dataset import some
from manifoldgd.data.transforms import Fit, Treatment
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import UserError, argument, require
from manifoldgd.store.sets import to_picture

SLACK = 1e-3  # of [0, 1]: what arithmetic leaves outside is no other unit
SHOWN_CLASSES = 20


@dataclass(frozen=True)
class Reading:
    """What a set from elsewhere does not say itself; nothing of it may be given for one that does.

    Args:
        classes: the dataset's class of each class of the set, in the order of the set's labels; ``None`` to match by
            name where the set names its classes, and by number where it does not.
        mean: per channel, that was subtracted from pixels in [0, 1] ...
        std: ... before they were divided by this; ``None`` for pixels that were not normalised.
        labels: ``"argmax"`` takes the most probable class of images with soft labels, ``None`` refuses them.
        run: which of the runs in a file that holds several, from 0 on.
        fit: how pictures of another size than the dataset's come to it: their ``"centre"``, ``"pad"`` or
            ``"stretch"``; ``None`` refuses them.
    """

    classes: Sequence[str | int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    labels: Literal["argmax"] | None = None
    run: int | None = None
    fit: Literal["centre", "pad", "stretch"] | None = None

    def __post_init__(self) -> None:
        require(
            (self.mean is None) == (self.std is None),
            f"go together, got {self.mean} and {argument('std')}={self.std}; give both, one number a channel",
            key="mean",
        )
        require(
            self.classes is None or len(self.classes) > 0,
            "expected null or the dataset's class of each class of the set, got []; set it to null",
            key="classes",
        )
        for key in ("mean", "std"):
            given = getattr(self, key)
            usable = given is None or (len(given) > 0 and all(math.isfinite(each) for each in given))
            require(usable, f"expected a finite number for each channel, got {given}; correct it", key=key)
        require(
            self.std is None or all(each > 0 for each in self.std),
            f"expected positive numbers, one a channel, got {self.std}; correct it",
            key="std",
        )
        for key, known in (("labels", ("argmax",)), ("fit", ("centre", "pad", "stretch"))):
            given = getattr(self, key)
            require(
                given is None or given in known,
                f"expected null or {' or '.join(known)}, got {given!r}; correct it",
                key,
            )
        require(self.run is None or self.run >= 0, f"expected null or 0, 1, ..., got {self.run}; correct it", "run")

    @property
    def given(self) -> dict[str, Any]:
        """What is not left open."""
        held = {name: value for name, value in vars(self).items() if value is not None}
        return {name: list(value) if isinstance(value, list | tuple) else value for name, value in held.items()}


AS_IT_IS = Reading()


@dataclass(frozen=True)
class Found:
    """What a source holds, in its own order, sizes and classes."""

    images: Sequence[Tensor]  # [C, H, W] uint8 each
    labels: Sequence[int]
    names: tuple[str, ...]  # of the classes, by label
    named: bool  # whether the source says the names; else they are its numbers
    remarks: tuple[str, ...] = ()  # what was done to the pixels or labels
    used: frozenset[str] = frozenset()  # what of the reading it took


# Pixels and labels of tensors


def eight_bit_pixels(images: Tensor, place: Path, reading: Reading) -> tuple[Tensor, tuple[str, ...], frozenset[str]]:
    """Images as ``uint8``, what was done for it, and what of the reading it took."""
    if images.dtype == torch.uint8:
        require(
            int(images.max()) > 1,
            f"set: {place} holds whole numbers up to {int(images.max())}; write them as 0 ... 255",
        )
        return images, (), frozenset()
    images = images.to(torch.float64)
    require(bool(images.isfinite().all()), f"set: {place} holds pixels that are not finite; write it anew")
    low, high = float(images.min()), float(images.max())
    if reading.mean is not None and reading.std is not None:
        channels = images.shape[1]
        for key, given in (("mean", reading.mean), ("std", reading.std)):
            require(
                len(given) in (1, channels),
                f"expected {channels} numbers, one a channel, got {list(given)}; correct it",
                key,
            )
        mean, std = (
            torch.tensor(given, dtype=torch.float64).reshape(1, -1, 1, 1) for given in (reading.mean, reading.std)
        )
        images = images * std + mean
        outside = float(((images < -SLACK) | (images > 1 + SLACK)).double().mean())
        reach = f"{float(images.min()):.2f} to {float(images.max()):.2f}"
        require(
            outside < 0.5,
            f"undone by these numbers, {100 * outside:.0f} % of the pixels of {place} lie outside [0, 1] ({reach}); "
            "they were normalised otherwise (whitened ones, ZCA, cannot be read)",
            key="mean",
        )
        remarks = [f"normalisation undone by mean {list(reading.mean)} and std {list(reading.std)}, pixels {reach}"]
        if outside:
            remarks.append(f"{100 * outside:.2g} % of the pixels lay outside [0, 1] and were cut off")
        return _rounded(images * 255), tuple(remarks), frozenset({"mean", "std"})
    if low >= -SLACK and high <= 1 + SLACK:
        return _rounded(images * 255), (f"pixels in [0, 1] ({low:.2f} to {high:.2f}), rounded to 8 bits",), frozenset()
    if low >= 0 and high <= 255 and bool((images == images.round()).all()):
        return _rounded(images), ("pixels are whole numbers 0 ... 255",), frozenset()
    raise UserError(
        f"set: the pixels of {place} reach from {low:.2f} to {high:.2f}, so they are neither in [0, 1] nor whole "
        f"numbers up to 255; if they were normalised, state by what: "
        f"{argument('mean')}=[...] {argument('std')}=[...] (0.5 and 0.5 for [-1, 1])"
    )


def _rounded(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def hard_labels(labels: Tensor, place: Path, reading: Reading) -> tuple[Tensor, tuple[str, ...], frozenset[str]]:
    """Labels ``[N]`` int64."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1:
        whole = labels.to(torch.int64)
        require(
            bool((whole == labels).all()) and int(whole.min()) >= 0,
            f"set: {place} has labels from {labels.min().item():g} to {labels.max().item():g}; expected whole numbers "
            "from 0 on",
        )
        return whole, (), frozenset()
    require(labels.ndim == 2, f"set: {place} has labels of shape {list(labels.shape)}; expected [N] or [N, classes]")
    chosen = labels.argmax(dim=1)
    if bool((labels == torch.nn.functional.one_hot(chosen, labels.shape[1])).all()):
        return chosen, (), frozenset()
    require(
        reading.labels == "argmax",
        f"{place} has soft labels of {labels.shape[1]} classes, and students here learn hard labels or a teacher's; "
        "set it to argmax to take the most probable class of each image, which makes it another set",
        key="labels",
    )
    return chosen, ("of soft labels the most probable class; this is not the published set",), frozenset({"labels"})


# To the classes and the size of a dataset


def fitted(found: Found, reading: Reading, dataset: ImageDataset, place: Path) -> Found:
    """The images at the dataset's size and number of channels."""
    channels, height, width = dataset.image_shape
    own = found.images[0].shape[0]
    require(
        own <= channels,
        f"set: {place} has pictures in colour, dataset {dataset.name} is grey; choose another dataset, or convert them",
    )
    images, remarks = list(found.images), list(found.remarks)
    sizes = sorted({tuple(image.shape[1:]) for image in images})
    if sizes != [(height, width)]:
        shown = some([f"{w}x{h}" for h, w in sizes], 3).replace("'", "")
        require(
            reading.fit is not None,
            f"{place} has pictures of {shown} pixels, dataset {dataset.name} has {width}x{height}; set it to "
            "centre, pad or stretch to have them resized, or choose a dataset of their size",
            key="fit",
        )
        fit: Fit | None = None if reading.fit == "centre" else reading.fit  # type: ignore[assignment]
        treatment = Treatment(height, own, fit=fit)
        images = [treatment.apply(to_picture(image)) for image in images]
        remarks.append(f"resized from {shown} to {width}x{height} ({reading.fit})")
    if own < channels:
        images = [image.expand(channels, -1, -1) for image in images]
        remarks.append("grey as colour")
    return replace(found, images=images, remarks=tuple(remarks), used=found.used | {"fit"})


def of_classes(found: Found, reading: Reading, dataset: ImageDataset, place: Path) -> Found:
    """The set under the dataset's classes, and a remark that says which is which."""
    names, wanted = list(found.names), list(dataset.class_names)
    require(
        len(names) == len(wanted),
        f"set: {place} has {len(names)} classes ({some(names)}), dataset {dataset.name} has {len(wanted)} "
        f"({some(wanted)}); choose the dataset, or its dataset.classes, that the set is of",
    )
    numbers = _numbers(names)
    if reading.classes is not None:
        chosen, how = list(map(str, reading.classes)), "as stated"
        require(
            sorted(chosen) == sorted(wanted),
            f"expected each class of dataset {dataset.name} once, {some(wanted, 12)}, in the order of the set's "
            f"{some(names, 12)}; got {some(chosen, 12)}",
            key="classes",
        )
    elif found.named and set(names) == set(wanted):
        chosen, how = names, "by name"
    elif numbers is not None:
        chosen, how = [wanted[number] for number in numbers], "by number"
    else:
        by_word = {_word(name): name for name in wanted}
        chosen, how = [by_word.get(_word(name), "") for name in names], "by name"
        require(
            sorted(chosen) == sorted(wanted),
            f"set: {place} has the classes {some(names, 12)}, dataset {dataset.name} has {some(wanted, 12)}; state "
            f"which is which, the dataset's name for each of the set's: {argument('classes')}=[...]",
        )
    position = [wanted.index(name) for name in chosen]
    pairs = [f"{name} -> {target}" if name != target else name for name, target in zip(names, chosen, strict=True)]
    more = f" and {len(pairs) - SHOWN_CLASSES} more" if len(pairs) > SHOWN_CLASSES else ""
    remark = f"classes {how}: {', '.join(pairs[:SHOWN_CLASSES])}{more}"
    return replace(
        found,
        labels=[position[label] for label in found.labels],
        names=tuple(wanted),
        remarks=(*found.remarks, remark),
        used=found.used | {"classes"},
    )


def _word(name: str) -> str:
    """A name without what people write differently: case, spaces, underscores, dashes, slashes."""
    return re.sub(r"[\s_/-]+", " ", name.casefold()).strip()


def _numbers(names: Sequence[str]) -> list[int] | None:
    """The numbers of classes that names are, with whatever word before them: ``0``, ``00003``, ``new017``.

    ``None`` unless they are 0, 1, ... in whatever order.
    """
    parts = [re.fullmatch(r"(\D*)(\d+)", name) for name in names]
    found = [int(part[2]) for part in parts if part]
    alike = len({part[1] for part in parts if part}) == 1
    return found if alike and sorted(found) == list(range(len(names))) else None
