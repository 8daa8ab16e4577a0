"""Any folder of images with classes: ``<folder>/<train>/<class>/*`` and ``<folder>/<test>/<class>/*``.

The layout of ImageNet and its subsets. Without a test split, ``<folder>/<class>/*`` will do: a share is split off.
Images of the test split may also lie unsorted beside a list of their classes, as ImageNet's validation images do.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from manifoldgd.data.contents import former_names, record_of
from manifoldgd.data.image_dataset import Found, ImageOptions, check_options, image_dataset, some
from manifoldgd.data.image_files import EXTENSIONS, ImageFile, class_files, shown, visible_entries
from manifoldgd.data.label_lists import find_list, read_list
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import argument, require, required


def image_folder(
    *, folder: str, train: str, test: str, test_labels: str | None, **options: Unpack[ImageOptions]
) -> ImageDataset:
    """Images in class folders, centre-cropped as for ADM and DiT (:func:`manifoldgd.data.transforms.centre_crop`).

    Args:
        folder: holds the subfolders of both splits, or with ``test_share`` the class folders themselves; with
            ``classes``, other class folders in them are left alone.
        train: name of the subfolder with the training split.
        test: name of the subfolder with the test split (often ``val``).
        test_labels: a list with the class of each image where those of the test split are not in class folders
            (:func:`manifoldgd.data.label_lists.read_list`); ``None`` to look for ImageNet's own lists in ``folder``.
        options: see :class:`manifoldgd.data.image_dataset.ImageOptions`.

    Raises:
        UserError: folders or classes are missing or differ between the splits, a class is empty, an image is in no
            class; and see :func:`manifoldgd.data.image_dataset.image_dataset`.
    """
    check_options(**options)
    obtain, classes = options["obtain"], options["classes"]
    wanted = None if classes is None else tuple(map(str, classes))
    root, places = _splits(folder, train, test, obtain, apart=options["test_share"] is None)
    listed = _listed(root, places, test_labels)
    names, folders = _class_folders([each for each in places if each not in listed], wanted, obtain)
    found = [in_folders(folders[place]) if place in folders else in_list(listed[place], names) for place in places]
    options["classes"] = names
    tested = found[1] if len(found) > 1 else None
    return image_dataset("image_folder", root, names, found[0], tested, former=partial(_former, root), **options)


def in_folders(folders: Sequence[Path]) -> Found:
    """The images of one split in the folders of its classes, class after class, by name within a class.

    Raises:
        UserError: a class has no image.
    """
    files: list[ImageFile] = []
    labels: list[int] = []
    faults: list[str] = []
    for label, folder in enumerate(folders):
        found, bad = class_files(folder)
        faults += bad
        require(
            bool(found or bad),
            f"class folder {folder} has no images; add images to it, remove the class from "
            f"both splits, or list the wanted ones in {argument('classes')}",
            key="folder",
        )
        files += found
        labels += [label] * len(found)
    return Found(files, np.array(labels, np.int64), tuple(faults))


def _listed(root: Path, places: Sequence[Path], test_labels: str | None) -> dict[Path, Mapping[Path, str]]:
    """The class of each image of the splits that have no class folders and a list beside them."""
    found: dict[Path, Mapping[Path, str]] = {}
    for place in places:
        unsorted = 0 if _folders(place) else _images(place)
        if not unsorted:
            continue
        given = Path(test_labels).expanduser() if test_labels is not None else find_list(root)
        labels = required(
            None if place == places[0] else given,
            f"{place} has {unsorted:,} images and no class folders, so they are unsorted; make "
            "a folder in it for each class, named as in the other split, and move each image into that of its class, "
            f"by the list of labels that came with them, or give that list as {argument('test_labels')}",
            key="folder",
        )
        found[place] = {place / name: name_of for name, name_of in read_list(labels).items()}
    require(
        test_labels is None or bool(found),
        f"for images without class folders, and those in {places[-1]} have some; set it to null",
        key="test_labels",
    )
    return found


def in_list(class_of: Mapping[Path, str], names: Sequence[str]) -> Found:
    """The images of a split that lie unsorted, in the order of their classes and then their names.

    Args:
        class_of: the class of each image of one folder.
        names: of the classes to use, by label; images of others are left alone.

    Raises:
        UserError: a class has no image.
    """
    label_of = {name: label for label, name in enumerate(names)}
    folder = next(iter(class_of)).parent
    files, faults = class_files(folder)
    by_stem = {path.stem: name for path, name in class_of.items()}  # Kaggle's list leaves the extension out
    stems = [Path(file.name).stem for file in files]
    known = [
        (label_of.get(by_stem[stem], -1), file) for stem, file in zip(stems, files, strict=True) if stem in by_stem
    ]
    faults += [
        f"{file.place} is not in the list of labels"
        for stem, file in zip(stems, files, strict=True)
        if stem not in by_stem
    ]
    kept = sorted(((label, file) for label, file in known if label >= 0), key=lambda each: (each[0], each[1].name))
    labels = np.array([label for label, _ in kept], np.int64)
    empty = [name for label, name in enumerate(names) if label not in labels]
    require(not empty, f"no image in {folder} is of class {some(empty)}; correct the list", key="test_labels")
    return Found([file for _, file in kept], labels, tuple(faults))


def _splits(folder: str, train: str, test: str, obtain: str | None, *, apart: bool) -> tuple[Path, list[Path]]:
    """The root, and the folders of the splits: one where the test split is to be split off."""
    require(bool(folder), "expected a folder of images, got none; set it to one", key="folder")
    root = Path(folder).expanduser()
    layout = f"{train}/<class>/* and {test}/<class>/*" if apart else "<class>/*"
    require(
        root.is_dir(),
        f"expected a folder with {layout}, found no folder {root}; {obtain or 'set another one'}",
        key="folder",
    )
    if not apart:
        has = {name: bool(name) and _has_classes(root / name) for name in (train, test)}
        require(
            not (has[train] and has[test]),
            f"{root} has a {test} split already; set it to null to be judged by it",
            key="test_share",
        )
        return root, [root / train if has[train] else root]
    for key, name in (("train", train), ("test", test)):
        there = _folders(root)
        unsplit = any(_images(root / each) for each in there[:3])
        found = (", ".join(there[:10]) or "none") + (f" and {len(there) - 10} more" if len(there) > 10 else "")
        split_off = f"; or set {argument('test_share')}=0.2 to have a fifth of each class split off for testing"
        require(
            bool(name) and (root / name).is_dir(),
            f"expected a subfolder {name!r} in folder={root}, found subfolders: {found}; "
            + (obtain or f"set dataset.{key} to the one with the {key} split")
            + (", or, as they hold images and seem to be classes, " if unsplit else "")
            + (split_off.removeprefix("; or ") if unsplit else split_off if key == "test" else ""),
            key=key,
        )
    require(
        (root / train).resolve() != (root / test).resolve(),
        f"needs to differ from {argument('train')}, got {(root / test)} for both; name the test split's folder",
        key="test",
    )
    return root, [root / train, root / test]


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in visible_entries(folder) if entry.is_dir()]


def _has_classes(folder: Path) -> bool:
    """Whether it holds class folders, and those hold images."""
    return folder.is_dir() and any(_images(folder / name) for name in _folders(folder))


def _images(folder: Path) -> int:
    """How many image files lie right in a folder, by extension."""
    return sum(Path(entry.name).suffix.lower() in EXTENSIONS for entry in visible_entries(folder) if entry.is_file())


def _class_folders(
    places: Sequence[Path], wanted: tuple[str, ...] | None, obtain: str | None
) -> tuple[tuple[str, ...], dict[Path, list[Path]]]:
    """Names of the classes by label, and the folder of each in every split.

    Names are matched in their composed form (NFC): a system that stores accents apart from their letters writes other
    bytes for the same name.
    """
    by_place = {place: _by_form(place) for place in places}
    if wanted is not None:
        forms = [_form(name) for name in wanted]
        require(
            bool(wanted) and len(set(forms)) == len(wanted),
            f"expected null or different class folders, got {some(wanted)}; name each of them once",
            key="classes",
        )
        for place, found in by_place.items():
            missing = [name for name in wanted if _form(name) not in found]
            numbers = "; a name that looks like a number needs quotes, as in dataset.classes=\"['007','1.50']\""
            require(
                not missing,
                f"no class folder {some(missing)} in {place}, which has "
                f"{some(list(found.values()))}; {obtain or 'correct it or add the folder'}"
                + (numbers if any(name.lstrip("-").isdigit() for name in missing) else ""),
                key="classes",
            )
    else:
        for_train, for_test = by_place[places[0]], by_place[places[-1]]
        only_train, only_test = sorted(set(for_train) - set(for_test)), sorted(set(for_test) - set(for_train))
        require(
            not only_train and not only_test,
            f"class folders of {places[0]} and {places[-1]} differ, only in {places[0].name}: "
            f"{some(only_train)}, only in {places[-1].name}: {some(only_test)}; make them match or list the wanted "
            f"ones in {argument('classes')}",
            key="folder",
        )
        require(bool(for_train), f"no class folders in {places[0]}; expected one folder a class", key="folder")
        wanted, forms = tuple(for_train.values()), list(for_train)
    return wanted, {place: [place / found[form] for form in forms] for place, found in by_place.items()}


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _by_form(folder: Path) -> dict[str, str]:
    """Names of the class folders, sorted, by their composed form."""
    found: dict[str, str] = {}
    for name in _folders(folder):
        require(
            not any("\udc80" <= letter <= "\udcff" for letter in name),
            f"the name of class folder {shown(folder / name)} is not UTF-8; rename it",
            key="folder",
        )
        require(
            _form(name) not in found,
            f"two class folders in {folder} are called {name!r}, in different Unicode forms; join them",
            key="folder",
        )
        found[_form(name)] = name
    return found


def _former(
    root: Path, train: Found, test: Found, settings: tuple[Any, ...], fingerprints: tuple[str, str]
) -> Sequence[str]:
    """What older versions called the dataset: a hash of settings, and each file's place, size and time of change."""
    digest = hashlib.blake2b(repr(settings).encode("utf-8", "surrogateescape"), digest_size=16)
    prefixes: dict[Path, str] = {}
    for file in (*train.images, *test.images):
        if file.folder not in prefixes:
            within = file.folder.relative_to(root).as_posix()
            prefixes[file.folder] = "" if within == "." else f"{within}/"
        place = os.fsencode(prefixes[file.folder] + file.name)
        digest.update(b"\0%s\0%d\0%d" % (place, file.num_bytes, file.mtime_ns))
    return former_names(f"image_folder-{digest.hexdigest()}", fingerprints, record_of(root))
