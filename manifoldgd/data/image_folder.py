"""Any folder of images with classes: ``<folder>/<train>/<class>/*`` and ``<folder>/<test>/<class>/*``.

The layout of ImageNet and its subsets. Files are found and checked at once, pixels are decoded when asked for. What
decides is what is in the files: their names, places and times do not.
"""

from __future__ import annotations

import hashlib
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch

from manifoldgd.artifacts import Key
from manifoldgd.data.contents import contents_of, former_names, record_of
from manifoldgd.data.image_files import (
    EXTENSIONS,
    UPPER_BYTES,
    Content,
    ImageFile,
    class_files,
    load_images,
    shown,
    visible_entries,
)
from manifoldgd.data.transforms import FULL_RANGE, PILLOW_MODE, VERSION
from manifoldgd.dataset import (
    VALIDATION,
    HeldOut,
    ImageDataset,
    Images,
    Split,
    check_name,
    check_statistics,
    fingerprint_of,
    hold_out,
)
from manifoldgd.errors import require
from manifoldgd.ranges import Range

# Per channel over ImageNet's training images, pixels in [0, 1]; what most published students subtract.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, Pillow's grey
SMALL_PART = 2**14  # of a 16-bit range: deep images none of which goes beyond have 14 bits or fewer, and come out dark


def image_folder(
    *,
    folder: str,
    train: str,
    test: str,
    name: str | None,
    image_size: Annotated[int, Range("[1, 4096]")],  # 50 MB a colour image; networks take less
    channels: Literal[1, 3],
    white: Annotated[int, Range("[1, 65535]")] | None,
    classes: Sequence[str | int] | None,
    prior_labels: Mapping[str, Annotated[int, Range("[0, 1000000]")]] | None,
    expected_counts: Mapping[str, Images] | None,
    obtain: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    flip: bool,
    train_per_class: Images | None,
    validation: HeldOut | None,
) -> ImageDataset:
    """Images in class folders, centre-cropped as for ADM and DiT (:func:`manifoldgd.data.transforms.centre_crop`).

    Every file of both splits is decoded once here, before any long work, and again when its bytes change.

    Args:
        folder: holds the subfolders of both splits; with ``classes``, other class folders in them are left alone.
        train: name of the subfolder with the training split.
        test: name of the subfolder with the test split (often ``val``).
        name: the dataset's name in results; ``None`` takes the folder's.
        image_size: side of the square images, in pixels.
        channels: 1 for grey, 3 for RGB.
        white: value of 16-bit samples that is white, such as 4095 for 12 bits; ``None`` takes 65535. What is above it
            is white too.
        classes: class folders to use, in the order of their labels; ``None`` takes all, sorted by name.
        prior_labels: the prior's label of each class folder, entries of unused ones ignored; ``None`` matches by name.
        expected_counts: images that the splits, ``train`` and ``test``, must have over all classes used, by which
            variants of one dataset are told apart; ``None`` or a missing key for any number.
        obtain: how to get the dataset, as the end of an error's sentence; ``None`` if only the user knows.
        mean: per channel, of pixels in [0, 1], what students subtract; ``None`` takes ImageNet's.
        std: per channel, of the same pixels, what students divide by; ``None`` takes ImageNet's. For grey, ImageNet's
            values stand in weighted by luma: exact for the mean, an upper bound for the deviation.
        flip: whether a mirrored image keeps its class.
        train_per_class: keep only the first training images of each class, by file name; ``None`` keeps all.
        validation: hold out this many training images, or this share, to tune on
            (:func:`manifoldgd.dataset.hold_out`).

    Raises:
        UserError: an argument is out of range, folders or classes are missing or differ between the splits, a class
            is empty, there are more or fewer images than expected, a file is not an image or damaged, one file stands
            in both splits, or deep images use a small part of their range and ``white`` does not say so.
    """
    require(image_size >= 1, f"dataset.image_size: expected at least 1, got {image_size}")
    require(channels in PILLOW_MODE, f"dataset.channels: expected 1 (grey) or 3 (RGB), got {channels}")
    require(
        white is None or 1 <= white <= FULL_RANGE,
        f"dataset.white: expected null or 1 ... {FULL_RANGE}, got {white}; set it to what is white in 16-bit files",
    )
    mean, std = _statistic(mean, IMAGENET_MEAN, channels), _statistic(std, IMAGENET_STD, channels)
    check_statistics(mean, std, channels)
    root = _existing_folder(folder, train, test, obtain)
    name = root.resolve().name if name is None else name
    check_name(name)
    require(
        not name.endswith(VALIDATION),
        f"dataset.name: a name that ends in {VALIDATION} says that the judging images are held out, got {name!r}; set "
        "another dataset.name",
    )
    wanted = None if classes is None else tuple(map(str, classes))
    names, *folders = _class_folders(root, train, test, wanted, obtain)
    trained = _Listing.of(folders[0], train_per_class)
    tested = _Listing.of(folders[1], None)
    _check_counts(expected_counts, {"train": trained.found, "test": tested.found}, root, name, obtain)
    _check_apart(trained, tested, held_out=validation is not None)
    labels = _prior_labels(prior_labels, names)
    record = record_of(root)
    contents = contents_of(trained.files + tested.files, record)
    _check_depth(contents, trained.files + tested.files, white)
    in_train, in_test = contents[: len(trained.files)], contents[len(trained.files) :]
    settings = (VERSION, image_size, channels, names) + (() if white is None else (white,))
    splits = trained.fingerprint(in_train, settings), tested.fingerprint(in_test, settings)
    former = () if white is not None else former_names(_former(root, (trained, tested), *settings), splits, record)
    whole = ImageDataset(
        name=name,
        class_names=names,
        image_shape=(channels, image_size, image_size),
        train=trained.split(in_train, image_size, channels, white),
        test=tested.split(in_test, image_size, channels, white),
        mean=mean,
        std=std,
        flip=flip,
        train_fingerprint=Key(splits[0], former),
        test_fingerprint=Key(splits[1], former),
        prior_labels=labels,
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
    def of(cls, folders: Sequence[Path], per_class: int | None) -> _Listing:
        require(
            per_class is None or per_class >= 1,
            f"dataset.train_per_class: expected null or at least 1, got {per_class}",
        )
        files: list[ImageFile] = []
        labels: list[int] = []
        count = 0
        for label, folder in enumerate(folders):
            found = class_files(folder)
            require(
                bool(found),
                f"dataset.folder: class folder {folder} has no images; add images to it, remove the class from "
                "both splits, or list the wanted ones in dataset.classes",
            )
            kept = found[:per_class]
            files += kept
            labels += [label] * len(kept)
            count += len(found)
        return cls(tuple(files), tuple(labels), count)

    def split(self, contents: Sequence[Content], size: int, channels: int, white: int | None) -> Split:
        paths = tuple(file.path for file in self.files)
        load = partial(load_images, paths, size, channels, white)
        return Split(torch.tensor(self.labels, dtype=torch.int64), load, lambda: [each.picture for each in contents])

    def fingerprint(self, contents: Sequence[Content], settings: tuple[object, ...]) -> str:
        labels = torch.tensor(self.labels, dtype=torch.int64)
        return f"image_folder-{fingerprint_of(labels, (each.file for each in contents), *settings)}"


def _existing_folder(folder: str, train: str, test: str, obtain: str | None) -> Path:
    require(bool(folder), "dataset.folder: expected a folder of images, got none; set dataset.folder=PATH")
    root = Path(folder).expanduser()
    layout = f"{train}/<class>/* and {test}/<class>/*"
    require(
        root.is_dir(),
        f"dataset.folder: expected a folder with {layout}, found no folder {root}; {obtain or 'set another one'}",
    )
    for key, name in (("train", train), ("test", test)):
        there = _folders(root)
        unsplit = any(_images(root / each) for each in there[:3])
        found = (", ".join(there[:10]) or "none") + (f" and {len(there) - 10} more" if len(there) > 10 else "")
        require(
            bool(name) and (root / name).is_dir(),
            f"dataset.{key}: expected a subfolder {name!r} in dataset.folder={root}, found subfolders: {found}; "
            + (obtain or f"set dataset.{key} to the one with the {key} split")
            + (
                f", or, as they hold images and seem to be classes, move each to {root / (train or 'train')}/<class> "
                f"and some images of each, a fifth say, to {root / (test or 'test')}/<class>"
                if unsplit
                else ""
            ),
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


def _images(folder: Path) -> int:
    """How many image files lie right in a folder, by extension."""
    return sum(Path(entry.name).suffix.lower() in EXTENSIONS for entry in visible_entries(folder) if entry.is_file())


def _class_folders(
    root: Path, train: str, test: str, wanted: tuple[str, ...] | None, obtain: str | None
) -> tuple[tuple[str, ...], list[Path], list[Path]]:
    """Names of the classes by label, and the folder of each in both splits.

    Names are matched in their composed form (NFC): a system that stores accents apart from their letters writes other
    bytes for the same name.
    """
    by_split = {split: _by_form(root / split) for split in (train, test)}
    for split, found in by_split.items():
        unsorted = 0 if found else _images(root / split)
        require(
            not unsorted,
            f"dataset.folder: {root / split} has {unsorted:,} images and no class folders, so they are unsorted; make "
            "a folder in it for each class, named as in the other split, and move each image into that of its class, "
            "by the list of labels that came with them",
        )
    for_train, for_test = by_split[train], by_split[test]
    if wanted is not None:
        forms = [_form(name) for name in wanted]
        require(
            bool(wanted) and len(set(forms)) == len(wanted),
            f"dataset.classes: expected null or different class folders, got {_some(wanted)}; name each of them once",
        )
        for split, found in by_split.items():
            missing = [name for name in wanted if _form(name) not in found]
            numbers = "; a name that looks like a number needs quotes, as in dataset.classes=\"['007','1.50']\""
            require(
                not missing,
                f"dataset.classes: no class folder {_some(missing)} in {root / split}, which has "
                f"{_some(list(found.values()))}; {obtain or 'correct dataset.classes or add the folder'}"
                + (numbers if any(name.lstrip("-").isdigit() for name in missing) else ""),
            )
    else:
        only_train, only_test = (sorted(set(one) - set(other)) for one, other in
                                 ((for_train, for_test), (for_test, for_train)))  # fmt: skip
        require(
            not only_train and not only_test,
            f"dataset.folder: class folders of {root / train} and {root / test} differ, only in {train}: "
            f"{_some(only_train)}, only in {test}: {_some(only_test)}; make them match or list the wanted ones in "
            "dataset.classes",
        )
        require(bool(for_train), f"dataset.folder: no class folders in {root / train}; expected one folder a class")
        wanted, forms = tuple(for_train.values()), list(for_train)
    return wanted, [root / train / for_train[form] for form in forms], [root / test / for_test[form] for form in forms]


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _by_form(folder: Path) -> dict[str, str]:
    """Names of the class folders, sorted, by their composed form."""
    found: dict[str, str] = {}
    for name in _folders(folder):
        require(
            not any("\udc80" <= letter <= "\udcff" for letter in name),
            f"dataset.folder: the name of class folder {shown(folder / name)} is not UTF-8; rename it",
        )
        require(
            _form(name) not in found,
            f"dataset.folder: two class folders in {folder} are called {name!r}, in different Unicode forms; join them",
        )
        found[_form(name)] = name
    return found


def _check_apart(trained: _Listing, tested: _Listing, *, held_out: bool) -> None:
    """Raise :class:`UserError` where a file that teaches also judges, by whatever name or link."""
    learned = {file.inode: file.path for file in trained.files}
    shared = [(file.path, learned[file.inode]) for file in tested.files if file.inode in learned]
    require(
        not shared,
        f"dataset.test: {len(shared):,} test images are files of the training split, linked or listed twice: "
        + ", ".join(f"{shown(test)} is {shown(train)}" for test, train in shared[:1])
        + "; an image that teaches cannot judge: remove it from one of the splits",
    )
    twice = [file.path for file in trained.files if learned[file.inode] != file.path] if held_out else []
    require(
        not twice,
        f"dataset.validation: {len(twice):,} training images are files that the training split lists twice, by links, "
        f"so that one could teach and judge: {', '.join(map(shown, twice[:1]))}; remove the links",
    )


def _check_depth(contents: Sequence[Content], files: Sequence[ImageFile], white: int | None) -> None:
    """Raise :class:`UserError` where 16-bit images would come out dark, or cannot be read as ``white`` says."""
    peaks = [content.peak for content in contents]
    peak = max(peaks)
    if white is None:
        bits = max(peak, 1).bit_length()
        require(
            peak < 0 or peak >= SMALL_PART,
            f"dataset.white: the 16-bit images use values up to {peak} only, so they would come out nearly black; set "
            f"dataset.white={2**bits - 1} if {bits} bits are in use, to what is white in them, or to {FULL_RANGE} to "
            "take them as they are",
        )
        return
    upper = [file.path for file, each in zip(files, peaks, strict=True) if each == UPPER_BYTES]
    require(
        not upper,
        f"dataset.white: {len(upper):,} images have 16-bit samples in a layout that is read by its upper bytes only, "
        f"the first is {', '.join(map(shown, upper[:1]))}; save them as grey or RGB PNG, or set dataset.white=null",
    )
    require(
        peak >= 0,
        f"dataset.white: expected null, as no image has 16 bits a channel, got {white}; set dataset.white=null",
    )
    above = sum(each > white for each in peaks)
    if above:
        print(
            f"dataset.white: {above:,} of {len(peaks):,} images have samples above {white}, up to {peak}; those are "
            "white now",
            file=sys.stderr,
        )


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


def _statistic(given: Sequence[float] | None, imagenet: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if given is None:
        grey = sum(weight * value for weight, value in zip(LUMA, imagenet, strict=True))
        return imagenet if channels == 3 else (grey,)
    return tuple(map(float, given))


def _former(root: Path, listings: Sequence[_Listing], *settings: object) -> str:
    """What older versions called the dataset: a hash of settings, and each file's place, size and time of change."""
    digest = hashlib.blake2b(repr(settings).encode("utf-8", "surrogateescape"), digest_size=16)
    for listing in listings:
        for file in listing.files:
            place = os.fsencode(file.path.relative_to(root).as_posix())
            digest.update(b"\0%s\0%d\0%d" % (place, file.num_bytes, file.mtime_ns))
    return f"image_folder-{digest.hexdigest()}"
