"""Any folder of images with classes: ``<folder>/<train>/<class>/*`` and ``<folder>/<test>/<class>/*``.

The layout of ImageNet and its subsets. Files are found and checked at once, pixels are decoded when asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from manifoldgd.data.image_files import ImageFile, class_files, load_images, visible_entries
from manifoldgd.data.transforms import PILLOW_MODE, VERSION
from manifoldgd.data.verified import check_new_files, record_of
from manifoldgd.dataset import VALIDATION, ImageDataset, Split, hold_out
from manifoldgd.errors import require

# Per channel over ImageNet's training images, pixels in [0, 1]; what most published students subtract.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, Pillow's grey


def image_folder(
    *,
    folder: str,
    train: str,
    test: str,
    name: str | None,
    image_size: int,
    channels: int,
    classes: Sequence[str] | None,
    prior_labels: Mapping[str, int] | None,
    expected_counts: Mapping[str, int] | None,
    obtain: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    flip: bool,
    train_per_class: int | None,
    validation: int | None,
) -> ImageDataset:
    """Images in class folders, centre-cropped as for ADM and DiT (:func:`manifoldgd.data.transforms.centre_crop`).

    Every file's header and end are checked here, before any long work and again when the file changes; damage inside a
    file shows when it is decoded, for training images when they are encoded.

    Args:
        folder: holds the subfolders of both splits; with ``classes``, other class folders in them are left alone.
        train: name of the subfolder with the training split.
        test: name of the subfolder with the test split (often ``val``).
        name: the dataset's name in results; ``None`` takes the folder's.
        image_size: side of the square images, in pixels.
        channels: 1 for grey, 3 for RGB.
        classes: class folders to use, in the order of their labels; ``None`` takes all, sorted by name.
        prior_labels: the prior's label of each class folder, entries of unused ones ignored; ``None`` matches by name.
        expected_counts: images that the splits, ``train`` and ``test``, must have over all classes used, by which
            variants of one dataset are told apart; ``None`` or a missing key for any number.
        obtain: how to get the dataset, as the end of an error's sentence; ``None`` if only the user knows.
        mean: per channel, of pixels in [0, 1], what students subtract; ``None`` takes ImageNet's.
        std: per channel, what students divide by; ``None`` takes ImageNet's. For grey, ImageNet's values stand in
            weighted by luma: exact for the mean, an upper bound for the deviation.
        flip: whether a mirrored image keeps its class.
        train_per_class: keep only the first training images of each class, by file name; ``None`` keeps all.
        validation: hold out this many training images to tune on (:func:`manifoldgd.dataset.hold_out`).

    Raises:
        UserError: an argument is out of range, folders or classes are missing or differ between the splits, a class
            is empty, there are more or fewer images than expected, or a file is not an image or is truncated.
    """
    require(image_size >= 1, f"dataset.image_size: expected at least 1, got {image_size}")
    require(channels in PILLOW_MODE, f"dataset.channels: expected 1 (grey) or 3 (RGB), got {channels}")
    root = _existing_folder(folder, train, test, obtain)
    names = _class_names(root, train, test, None if classes is None else tuple(map(str, classes)), obtain)
    trained = _Listing.of(root / train, names, train_per_class)
    tested = _Listing.of(root / test, names, None)
    found = {"train": trained.found, "test": tested.found}
    name = root.resolve().name if name is None else name
    require(
        not name.endswith(VALIDATION),
        f"dataset.name: a name that ends in {VALIDATION} says that the judging images are held out, got {name!r}; set "
        "another dataset.name",
    )
    _check_counts(expected_counts, found, root, name, obtain)
    check_new_files(trained.files + tested.files, record_of(root))
    mean, std = _statistic("mean", mean, IMAGENET_MEAN, channels), _statistic("std", std, IMAGENET_STD, channels)
    whole = ImageDataset(
        name=name,
        class_names=names,
        image_shape=(channels, image_size, image_size),
        train=trained.split(image_size, channels),
        test=tested.split(image_size, channels),
        mean=mean,
        std=std,
        flip=flip,
        fingerprint=_fingerprint(root, (trained, tested), VERSION, image_size, channels, names),
        prior_labels=_prior_labels(prior_labels, names),
        treatment=(mean, std, flip),
    )
    return hold_out(whole, validation)


@dataclass(frozen=True)
class _Listing:
    """The files of one split, class after class in label order, by name within a class."""

    files: tuple[ImageFile, ...]
    labels: tuple[int, ...]
    found: int  # images in the class folders, those beyond a limit included

    @classmethod
    def of(cls, folder: Path, names: Sequence[str], per_class: int | None) -> _Listing:
        require(
            per_class is None or per_class >= 1,
            f"dataset.train_per_class: expected null or at least 1, got {per_class}",
        )
        files: list[ImageFile] = []
        labels: list[int] = []
        count = 0
        for label, name in enumerate(names):
            found = class_files(folder / name)
            require(
                bool(found),
                f"dataset.folder: class folder {folder / name} has no images; add images to it, remove the class from "
                "both splits, or list the wanted ones in dataset.classes",
            )
            kept = found[:per_class]
            files += kept
            labels += [label] * len(kept)
            count += len(found)
        return cls(tuple(files), tuple(labels), count)

    def split(self, size: int, channels: int) -> Split:
        paths = tuple(file.path for file in self.files)
        return Split(torch.tensor(self.labels, dtype=torch.int64), partial(load_images, paths, size, channels))


def _existing_folder(folder: str, train: str, test: str, obtain: str | None) -> Path:
    require(bool(folder), "dataset.folder: expected a folder of images, got none; set dataset.folder=PATH")
    root = Path(folder).expanduser()
    layout = f"{train}/<class>/* and {test}/<class>/*"
    require(
        root.is_dir(),
        f"dataset.folder: expected a folder with {layout}, found no folder {root}; {obtain or 'set another one'}",
    )
    for key, name in (("train", train), ("test", test)):
        found = ", ".join(_folders(root)) or "none"
        require(
            bool(name) and (root / name).is_dir(),
            f"dataset.{key}: expected a subfolder {name!r} in dataset.folder={root}, found subfolders: {found}; "
            + (obtain or f"set dataset.{key} to the one with the {key} split"),
        )
    require(
        (root / train).resolve() != (root / test).resolve(),
        f"dataset.test: needs to differ from dataset.train, got {(root / test)} for both; name the test split's folder",
    )
    return root


def _check_counts(
    expected: Mapping[str, int] | None, found: Mapping[str, int], root: Path, name: str, obtain: str | None
) -> None:
    unknown = sorted(set(expected or {}) - set(found))
    require(not unknown, f"dataset.expected_counts: expected the keys train and test, got {_some(unknown)}; correct it")
    for split, count in (expected or {}).items():
        require(
            found[split] == count,
            f"dataset.expected_counts: {name} has {count:,} images in its {split} split, found {found[split]:,} in "
            f"{root}: another variant of it, or files are missing or too many; {obtain or 'correct the folder'}; or "
            "set dataset.expected_counts=null with a dataset.name of its own",
        )


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in visible_entries(folder) if entry.is_dir()]


def _class_names(
    root: Path, train: str, test: str, wanted: tuple[str, ...] | None, obtain: str | None
) -> tuple[str, ...]:
    for_train, for_test = _folders(root / train), _folders(root / test)
    if wanted is not None:
        require(
            bool(wanted) and len(set(wanted)) == len(wanted),
            f"dataset.classes: expected null or different class folders, got {_some(wanted)}; name each of them once",
        )
        for split, found in ((train, for_train), (test, for_test)):
            missing = [name for name in wanted if name not in set(found)]
            require(
                not missing,
                f"dataset.classes: no class folder {_some(missing)} in {root / split}, which has {_some(found)}; "
                + (obtain or "correct dataset.classes or add the folder"),
            )
        return wanted
    only_train, only_test = sorted(set(for_train) - set(for_test)), sorted(set(for_test) - set(for_train))
    require(
        not only_train and not only_test,
        f"dataset.folder: class folders of {root / train} and {root / test} differ, only in {train}: "
        f"{_some(only_train)}, only in {test}: {_some(only_test)}; make them match or list the wanted ones in "
        "dataset.classes",
    )
    require(bool(for_train), f"dataset.folder: no class folders in {root / train}; expected one folder a class")
    return tuple(for_train)


def _some(names: Sequence[str], most: int = 5) -> str:
    """A list short enough for one line, also with a thousand classes."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(map(repr, names[:most])) or "none") + more


def _prior_labels(mapping: Mapping[str, int] | None, names: Sequence[str]) -> dict[str, int] | None:
    if mapping is None:
        return None
    by_name = {str(name): label for name, label in mapping.items()}
    unmapped = [name for name in names if name not in by_name]
    require(
        not unmapped,
        f"dataset.prior_labels: expected a label for every class, got none for {_some(unmapped)}; add them or set "
        "dataset.prior_labels=null to match by name",
    )
    labels = {name: by_name[name] for name in names}
    valid = all(type(label) is int and label >= 0 for label in labels.values())
    require(
        valid and len(set(labels.values())) == len(labels),
        "dataset.prior_labels: expected a different integer >= 0 for each class, got "
        f"{_some([f'{name}: {label}' for name, label in labels.items()])}; correct the mapping",
    )
    return labels


def _statistic(
    key: str, given: Sequence[float] | None, imagenet: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    if given is None:
        grey = sum(weight * value for weight, value in zip(LUMA, imagenet, strict=True))
        return imagenet if channels == 3 else (grey,)
    positive = key == "mean" or all(value > 0 for value in given)
    require(
        len(given) == channels and positive,
        f"dataset.{key}: expected {channels} numbers{' > 0' if key == 'std' else ''}, one a channel, "
        f"got {list(given)}; set dataset.{key} accordingly, or to null for ImageNet's",
    )
    return tuple(map(float, given))


def _fingerprint(root: Path, listings: Sequence[_Listing], *settings: object) -> str:
    """128-bit hash of what decides the pixels: settings, and each file's place, size and time of change.

    Paths are relative to ``root``, so that a folder that is moved keeps its latents.
    """
    digest = hashlib.blake2b(repr(settings).encode("utf-8", "surrogateescape"), digest_size=16)
    for listing in listings:
        for file in listing.files:
            place = os.fsencode(file.path.relative_to(root).as_posix())
            digest.update(b"\0%s\0%d\0%d" % (place, file.num_bytes, file.mtime_ns))
    return f"image_folder-{digest.hexdigest()}"
