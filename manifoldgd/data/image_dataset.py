"""From what a reader found to a dataset: one owner of classes, splits, checks, fingerprints and decoding.

A reader knows a layout: where the images of each split lie, what their labels are, and how the bytes of one are got.
All else is the same for every layout, and so are the arguments that say it, :class:`ImageOptions`. What decides is what
is in the images: their names, places and times do not.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from manifoldgd.artifacts import Key
from manifoldgd.data.contents import contents_of, record_of
from manifoldgd.data.decoded import DecodedPictures, DecodedStore
from manifoldgd.data.image_files import DIGEST, UPPER_BYTES, Content, Picture, load_pictures
from manifoldgd.data.imagenet import labels_of
from manifoldgd.data.splitting import check_group_by, split_off
from manifoldgd.data.transforms import FULL_RANGE, PILLOW_MODE, VERSION, Fit, Treatment
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
from manifoldgd.errors import UserError, argument, require, required
from manifoldgd.progress import data_size
from manifoldgd.ranges import Range

# Per channel over ImageNet's training images, pixels in [0, 1]; what most published students subtract.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, Pillow's grey
SMALL_PART = 2**14  # of a 16-bit range: deep images none of which goes beyond have 14 bits or fewer, and come out dark
LISTED = 20  # bad files that a message names


class Surroundings(TypedDict, total=False):
    """What whoever builds a dataset knows beside its configuration, and need not say."""

    cache: Path | None  # where decoded images are kept; None: they are decoded whenever they are asked for


class ImageOptions(Surroundings):
    """The arguments that all datasets of image files have beside those of their layout.

    ``None`` for what is not wanted, except where it says otherwise.
    """

    name: str | None  # of the dataset, in results; None: a name that the reader finds
    image_size: Annotated[int, Range("[1, 4096]")]  # side of the square, in pixels; 4096: 50 MB a colour image
    channels: Literal[1, 3]  # grey or RGB
    white: Annotated[int, Range("[1, 65535]")] | None  # of 16-bit samples; None: 65535. Beyond it is white too
    fit: Fit | None  # how a picture becomes square; None: its centre
    classes: Sequence[str | int] | None  # those to use, in the order of their labels; None: all
    # The prior's label of each class; "imagenet": that of a WordNet id in ImageNet-1K; None: match by name.
    prior_labels: Mapping[str, Annotated[int, Range("[0, 1000000]")]] | Literal["imagenet"] | None
    expected_counts: Mapping[str, Images] | None  # of the splits, by which variants of a dataset are told apart
    obtain: str | None  # how to get the dataset, as the end of an error's sentence
    mean: Sequence[float] | None  # per channel, of pixels in [0, 1]; None: ImageNet's, for grey weighted by luma
    std: Sequence[float] | None  # the same; for grey an upper bound of the deviation
    flip: bool  # whether a mirrored image keeps its class
    test_share: Annotated[float, Range("(0, 1)")] | None  # of each class, split off where there is no test split
    group_by: str | None  # what keeps images on one side: "stem" or a pattern of their names
    skip_bad: bool  # whether to go on without the images that cannot be read
    train_per_class: Images | None  # keep only the first of each class of the training split
    validation: HeldOut | None  # images, or a share, to tune on (manifoldgd.dataset.hold_out)


@dataclass(frozen=True)
class Found:
    """The images of one split as a reader found them: nothing is decoded."""

    images: Sequence[Picture] | np.ndarray  # N encoded pictures, or their pixels [N, h, w] or [N, h, w, 3] uint8
    labels: np.ndarray  # [N] int64, index into the reader's classes
    faults: tuple[str, ...] = ()  # what lay among them and is no image, each named with its place

    def take(self, positions: np.ndarray) -> Found:
        """The images at some positions, in that order."""
        images = self.images[positions] if isinstance(self.images, np.ndarray) else _at(self.images, positions)
        return replace(self, images=images, labels=self.labels[positions])

    @property
    def pictures(self) -> Sequence[Picture]:
        """The images, where they are encoded pictures: all splits of a reader are of one kind."""
        assert not isinstance(self.images, np.ndarray)
        return self.images

    @cached_property
    def names(self) -> list[str]:
        """What each image is called; its number where it has no name."""
        if isinstance(self.images, np.ndarray):
            return [str(number) for number in range(len(self.images))]
        return [picture.name for picture in self.images]


def _at(images: Sequence[Picture], positions: np.ndarray) -> list[Picture]:
    return [images[position] for position in positions.tolist()]


def check_options(**options: Unpack[ImageOptions]) -> None:
    """Raise :class:`UserError` for what is wrong whatever lies on the disk; readers call it before they look there."""
    require(options["image_size"] >= 1, f"expected at least 1, got {options['image_size']}", key="image_size")
    channels, white = options["channels"], options["white"]
    require(channels in PILLOW_MODE, f"expected 1 (grey) or 3 (RGB), got {channels}", key="channels")
    require(
        white is None or 1 <= white <= FULL_RANGE,
        f"expected null or 1 ... {FULL_RANGE}, got {white}; set it to what is white in 16-bit files",
        key="white",
    )
    check_statistics(*statistics_of(options), channels)
    share, limit = options["test_share"], options["train_per_class"]
    require(
        share is None or 0 < share < 1,
        f"expected null or a share in (0, 1), got {share}; set it to 0.2 for a fifth",
        key="test_share",
    )
    require(limit is None or limit >= 1, f"expected null or at least 1, got {limit}", key="train_per_class")
    require(
        share is not None or options["group_by"] is None,
        f"says what stays together where a test split is split off, and none is; set {argument('test_share')}=0.2, "
        "or it to null",
        key="group_by",
    )
    check_group_by(options["group_by"])


def image_dataset(
    kind: str,
    place: Path,
    class_names: Sequence[str],
    train: Found,
    test: Found | None,
    *,
    former: Callable[[Found, Found, tuple[Any, ...], tuple[str, str]], Sequence[str]] | None = None,
    **options: Unpack[ImageOptions],
) -> ImageDataset:
    """The dataset of what a reader found. Every image is read and decoded once here, before any long work.

    Args:
        kind: the reader's name, with which fingerprints begin.
        place: the folder or file that holds the images; its name is the dataset's where ``name`` is ``None``.
        class_names: by label, of all that was found.
        train: the training split, or all images where ``test`` is ``None``.
        test: the test split; ``None`` where a share of ``train`` is to be split off.
        former: given the two splits, what else fingerprints hold, and the fingerprints: hashes by which earlier
            versions knew the dataset.
        options: see :class:`ImageOptions`.

    Raises:
        UserError: an argument is out of range, classes are missing, a class is empty, there are more or fewer images
            than expected, an image cannot be read, one image stands in both splits, or deep images use a small part of
            their range and ``white`` does not say so.
    """
    check_options(**options)
    name = place.resolve().name if options["name"] is None else options["name"]
    check_name(name)
    require(
        not name.endswith(VALIDATION),
        f"a name that ends in {VALIDATION} says that the judging images are held out, got {name!r}; set another one",
        key="name",
    )
    names, train, test = _of_classes(options["classes"], class_names, train, test)
    train, test = _test_split(train, test, names, options["test_share"], options["group_by"])
    counts = {"train": len(train.labels), "test": len(test.labels)}
    _check_counts(options["expected_counts"], counts, place, name, options["obtain"])
    train = _first_of_each_class(train, options["train_per_class"])
    prior_labels = _prior_labels(options["prior_labels"], names)
    treatment = Treatment(options["image_size"], options["channels"], options["white"], options["fit"])
    _check_apart(train, test, held_out=options["validation"] is not None)
    train, test, contents = _looked_at(train, test, treatment, place, options)
    settings: tuple[Any, ...] = (VERSION, treatment.size, treatment.channels, names)
    settings += () if treatment.white is None else (treatment.white,)
    settings += () if treatment.fit is None else (treatment.fit,)
    splits = [
        Split(torch.from_numpy(found.labels), held.load, held.digests)
        for found, held in zip((train, test), contents, strict=True)
    ]
    learned, judged = (
        f"{kind}-{fingerprint_of(split.labels, held.files, *settings)}"
        for split, held in zip(splits, contents, strict=True)
    )
    names_before = (
        former(train, test, settings, (learned, judged)) if former is not None and treatment.white is None else ()
    )
    mean, std = statistics_of(options)
    whole = ImageDataset(
        name=name,
        class_names=names,
        image_shape=treatment.shape,
        train=splits[0],
        test=splits[1],
        mean=mean,
        std=std,
        flip=options["flip"],
        train_fingerprint=Key(learned, names_before),
        test_fingerprint=Key(judged, names_before),
        prior_labels=prior_labels,
        treatment=(mean, std, options["flip"]),
    )
    return hold_out(whole, options["validation"])


def statistics_of(options: ImageOptions) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation a channel, those of ImageNet where none are given."""
    channels = options["channels"]
    return _statistic(options["mean"], IMAGENET_MEAN, channels), _statistic(options["std"], IMAGENET_STD, channels)


def _statistic(given: Sequence[float] | None, imagenet: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if given is None:
        grey = sum(weight * value for weight, value in zip(LUMA, imagenet, strict=True))
        return imagenet if channels == 3 else (grey,)
    return tuple(map(float, given))


def _of_classes(
    wanted: Sequence[str | int] | None, found: Sequence[str], train: Found, test: Found | None
) -> tuple[tuple[str, ...], Found, Found | None]:
    """The classes to use, and their images with labels in that order."""
    if wanted is None or tuple(map(str, wanted)) == tuple(found):
        return tuple(found), train, test
    names = tuple(map(str, wanted))
    require(
        bool(names) and len(set(names)) == len(names),
        f"expected null or different classes, got {some(names)}; name each of them once",
        key="classes",
    )
    missing = [name for name in names if name not in found]
    require(not missing, f"no class {some(missing)} among {some(list(found))}; correct it", key="classes")
    label_of = np.full(len(found), -1)
    label_of[[list(found).index(name) for name in names]] = np.arange(len(names))
    return names, _relabelled(train, label_of), None if test is None else _relabelled(test, label_of)


def _relabelled(split: Found, label_of: np.ndarray) -> Found:
    kept = split.take(np.flatnonzero(label_of[split.labels] >= 0))
    return replace(kept, labels=label_of[kept.labels])


def _test_split(
    train: Found, test: Found | None, names: Sequence[str], share: float | None, group_by: str | None
) -> tuple[Found, Found]:
    if test is not None:
        require(share is None, "there is a test split already; set it to null to be judged by it", key="test_share")
        return train, test
    no_split = "there is no test split; set it to 0.2 to split a fifth of each class off"
    share = required(share, no_split, key="test_share")
    tests = split_off(train.names, train.labels, names, share, group_by)
    return train.take(np.flatnonzero(~tests)), replace(train.take(np.flatnonzero(tests)), faults=())


def _first_of_each_class(split: Found, count: int | None) -> Found:
    if count is None:
        return split
    kept = [np.flatnonzero(split.labels == label)[:count] for label in np.unique(split.labels)]
    return split.take(np.sort(np.concatenate(kept)))


@dataclass(frozen=True)
class _Contents:
    """What is in the images of a split."""

    files: list[bytes]  # hash of each as it was stored, which fingerprints hold
    pictures: list[bytes]  # hash of what each shows
    load: Callable[[Tensor], Tensor]

    def digests(self) -> list[bytes]:
        """See :class:`manifoldgd.dataset.Split`."""
        return self.pictures


def _looked_at(
    train: Found, test: Found, treatment: Treatment, place: Path, options: ImageOptions
) -> tuple[Found, Found, tuple[_Contents, _Contents]]:
    """Both splits without bad images, and what is in the others."""
    if isinstance(train.images, np.ndarray) and isinstance(test.images, np.ndarray):
        _check_depth((), (), treatment.white)
        return train, test, (_of_pixels(train.images, treatment), _of_pixels(test.images, treatment))
    pictures = [*train.pictures, *test.pictures]
    store = _store(options.get("cache"), treatment, len(pictures))
    found, faults = contents_of(pictures, record_of(place), store)
    faults = [*train.faults, *test.faults, *faults]
    _check_faults(faults, len(found), options["skip_bad"])
    kept: list[tuple[Found, list[Content]]] = []
    for split, contents in ((train, found[: len(train.images)]), (test, found[len(train.images) :])):
        good = np.array([place for place, each in enumerate(contents) if each is not None], np.int64)
        kept.append((split.take(good), [each for each in contents if each is not None]))
    both = [each for _, contents in kept for each in contents]
    _check_depth(both, [picture for split, _ in kept for picture in split.pictures], treatment.white)
    (train, of_train), (test, of_test) = kept
    held = (
        _of_pictures(train.pictures, of_train, treatment, store),
        _of_pictures(test.pictures, of_test, treatment, store),
    )
    return train, test, held


def _store(cache: Path | None, treatment: Treatment, pictures: int) -> DecodedStore | None:
    """Where decoded pictures are kept; ``None``, and a line that says so, where the disk has no room for them."""
    if cache is None:
        return None
    store = DecodedStore(cache, treatment)
    if store.room_for(pictures - len(store)):
        return store
    print(
        f"dataset: {pictures:,} decoded images would take {data_size(pictures * store.row_bytes)}, too much of what "
        f"is free in {cache}, so they are decoded whenever they are asked for; set cache=FOLDER on a larger disk",
        file=sys.stderr,
    )
    return None


def _of_pictures(
    pictures: Sequence[Picture], contents: Sequence[Content], treatment: Treatment, store: DecodedStore | None
) -> _Contents:
    files = [each.file for each in contents]
    if store is None:
        return _Contents(files, [each.picture for each in contents], lambda at: load_pictures(pictures, treatment, at))
    return _Contents(files, [each.picture for each in contents], DecodedPictures(pictures, files, store))


def _of_pixels(images: np.ndarray, treatment: Treatment) -> _Contents:
    """Images whose pixels lie in an array, ``[N, h, w]`` or ``[N, h, w, 3]`` uint8."""
    hashes = [hashlib.blake2b(image.tobytes(), digest_size=DIGEST).digest() for image in images]

    as_they_are = images.shape[1:] == (*treatment.shape[1:], 3)[: 2 if treatment.channels == 1 else 3]

    def load(positions: Tensor) -> Tensor:
        if as_they_are:
            square = torch.from_numpy(images[positions.numpy()]).view(-1, *treatment.shape[1:], treatment.channels)
            return square.permute(0, 3, 1, 2).contiguous()
        chosen = [treatment.apply(Image.fromarray(images[position])) for position in positions.tolist()]
        return torch.stack(chosen) if chosen else torch.empty(0, *treatment.shape, dtype=torch.uint8)

    return _Contents(hashes, hashes, load)


def _check_faults(faults: Sequence[str], others: int, skip: bool) -> None:
    """Raise :class:`UserError` that lists what cannot be read, or say how much is left out."""
    if not faults:
        return
    listed = "; ".join(faults[:LISTED]) + (f"; and {len(faults) - LISTED:,} more" if len(faults) > LISTED else "")
    count = f"{len(faults):,} bad file{'s' if len(faults) > 1 else ''} in all"
    if not skip:
        raise UserError(
            f"{listed} ({count}); replace or remove what is named, or set {argument('skip_bad')}=true to go on without",
            key="folder",
        )
    print(f"dataset.skip_bad: left out, {count} beside {others:,}: {listed}", file=sys.stderr)


def _check_counts(
    expected: Mapping[str, int] | None, found: Mapping[str, int], root: Path, name: str, obtain: str | None
) -> None:
    unknown = sorted(set(expected or {}) - set(found))
    require(not unknown, f"expected the keys train and test, got {some(unknown)}; correct it", key="expected_counts")
    for split, count in (expected or {}).items():
        require(
            found[split] == count,
            f"{name} has {count:,} images in its {split} split, found {found[split]:,} in "
            f"{root}: another variant of it, or files are missing or too many; {obtain or 'correct the folder'}; or "
            f"set it to null with a {argument('name')} of its own",
            key="expected_counts",
        )


def _check_apart(trained: Found, tested: Found, *, held_out: bool) -> None:
    """Raise :class:`UserError` where a picture that teaches also judges, by whatever name or link."""
    if isinstance(trained.images, np.ndarray):
        return
    learned = {picture.identity: picture for picture in trained.images}
    shared = [(picture, learned[picture.identity]) for picture in tested.images if picture.identity in learned]
    require(
        not shared,
        f"{len(shared):,} test images are files of the training split, linked or listed twice: "
        + ", ".join(f"{test.place} is {train.place}" for test, train in shared[:1])
        + "; an image that teaches cannot judge: remove it from one of the splits",
        key="test",
    )
    twice = [each.place for each in trained.images if learned[each.identity].place != each.place] if held_out else []
    require(
        not twice,
        f"{len(twice):,} training images are files that the training split lists twice, by links, "
        f"so that one could teach and judge: {', '.join(twice[:1])}; remove the links",
        key="validation",
    )


def _check_depth(contents: Sequence[Content], pictures: Sequence[Picture], white: int | None) -> None:
    """Raise :class:`UserError` where 16-bit images would come out dark, or cannot be read as ``white`` says."""
    peaks = [content.peak for content in contents]
    peak = max(peaks, default=-1)
    if white is None:
        bits = max(peak, 1).bit_length()
        require(
            peak < 0 or peak >= SMALL_PART,
            f"the 16-bit images use values up to {peak} only, so they would come out nearly black; set "
            f"it to {2**bits - 1} if {bits} bits are in use, to what is white in them, or to {FULL_RANGE} to "
            "take them as they are",
            key="white",
        )
        return
    upper = [picture.place for picture, each in zip(pictures, peaks, strict=True) if each == UPPER_BYTES]
    require(
        not upper,
        f"{len(upper):,} images have 16-bit samples in a layout that is read by its upper bytes only, "
        f"the first is {', '.join(upper[:1])}; save them as grey or RGB PNG, or set it to null",
        key="white",
    )
    require(peak >= 0, f"expected null, as no image has 16 bits a channel, got {white}; set it to null", key="white")
    above = sum(each > white for each in peaks)
    if above:
        print(
            f"dataset.white: {above:,} of {len(peaks):,} images have samples above {white}, up to {peak}; those are "
            "white now",
            file=sys.stderr,
        )


def some(names: Sequence[str], most: int = 5) -> str:
    """A list short enough for one line, also with a thousand classes."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(map(repr, names[:most])) or "none") + more


def _prior_labels(
    mapping: Mapping[str, int] | Literal["imagenet"] | None, names: Sequence[str]
) -> dict[str, int] | None:
    if mapping is None:
        return None
    if mapping == "imagenet":
        return labels_of(names)
    by_name = {str(name): label for name, label in mapping.items()}
    unmapped = [name for name in names if name not in by_name]
    require(
        not unmapped,
        f"expected a label for every class, got none for {some(unmapped)}; add them or set "
        "prior_labels=null to match by name",
        key="prior_labels",
    )
    labels = {name: by_name[name] for name in names}
    valid = all(type(label) is int and label >= 0 for label in labels.values())
    require(
        valid and len(set(labels.values())) == len(labels),
        "expected a different integer >= 0 for each class, got "
        f"{some([f'{name}: {label}' for name, label in labels.items()])}; correct the mapping",
        key="prior_labels",
    )
    return labels
