"""WebDataset shards: tar files in which the files of one sample follow one another and share a name up to a dot."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Unpack

import numpy as np

from manifoldgd.data.image_dataset import Found, ImageOptions, check_options, image_dataset, some
from manifoldgd.data.image_files import EXTENSIONS, ImageFile, Part
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import UserError, argument, require


def webdataset(
    *,
    folder: str,
    train: str,
    test: str,
    label: str,
    names: Sequence[str | int] | None,
    **options: Unpack[ImageOptions],
) -> ImageDataset:
    """Images and labels in tar shards, ``<key>.jpg`` with ``<key>.cls`` or ``<key>.json``.

    Args:
        folder: with the shards.
        train: which of them hold the training split, a pattern such as ``*train*.tar``.
        test: the same of the test split; not used with ``test_share``.
        label: the entry of a ``.json`` with the label.
        names: of the classes where labels are numbers, for 0, 1, ...; ``None`` to call each by its label.
        options: see :class:`manifoldgd.data.image_dataset.ImageOptions`.

    Raises:
        UserError: there are no shards, one is damaged or compressed, or a sample has no label; and see
            :func:`manifoldgd.data.image_dataset.image_dataset`.
    """
    check_options(**options)
    root = Path(folder).expanduser()
    parts = (("train", train),) if options["test_share"] is not None else (("train", train), ("test", test))
    splits = [list(_samples(root, key, pattern, label)) for key, pattern in parts]
    labels = {label for split in splits for _, label in split}
    called = _called(labels, names, root)
    label_of = {each: place for place, each in enumerate(called)}
    found = [
        Found([part for part, _ in split], np.array([label_of[label] for _, label in split], np.int64))
        for split in splits
    ]
    classes = [str(each) if names is None or isinstance(each, str) else str(names[each]) for each in called]
    return image_dataset("webdataset", root, classes, found[0], found[1] if len(found) > 1 else None, **options)


def _called(labels: set[int | str], names: Sequence[str | int] | None, root: Path) -> list[int | str]:
    """The labels in the order of their classes: numbers by value, texts by name."""
    kinds = {type(label) for label in labels}
    require(
        len(kinds) == 1,
        f"expected labels of one kind in {root}, got numbers and texts; write all of them as one",
        key="folder",
    )
    numbers = sorted(label for label in labels if isinstance(label, int))
    if names is not None and numbers:
        require(
            numbers[0] >= 0 and numbers[-1] < len(names),
            f"expected a name for each label, got {some(list(map(str, names)))} for labels up to "
            f"{numbers[-1]}; add the others",
            key="names",
        )
    return [*numbers, *sorted(label for label in labels if isinstance(label, str))]


def _samples(root: Path, key: str, pattern: str, label: str) -> Iterator[tuple[Part, int | str]]:
    """Every picture of the shards of a split with its label, in their order."""
    shards = sorted(each for each in root.glob(pattern) if each.is_file()) if pattern else []
    require(
        bool(shards),
        f"expected shards {pattern!r} in {root}, found "
        f"{some(sorted(each.name for each in root.glob('*.tar')))}; set {argument(key)}, {argument('folder')}, or "
        f"{argument('test_share')}=0.2 where there is no test split",
        key=key,
    )
    for shard in shards:
        yield from samples_in(shard, label)


def samples_in(shard: Path, label: str = "label") -> Iterator[tuple[Part, int | str]]:
    """Every picture of a shard with its label, in their order.

    Args:
        shard: a tar file.
        label: the entry of a ``.json`` with the label.

    Raises:
        UserError: it is damaged or compressed, or a sample has no label.
    """
    file = ImageFile.at(shard)
    try:
        with tarfile.open(shard, "r:") as archive:
            yield from _samples_of(archive, file, label)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{shard} is no plain tar file or is damaged ({error}); unpack what is compressed, or restore it",
            key="folder",
        ) from error


def _samples_of(archive: tarfile.TarFile, file: ImageFile, label: str) -> Iterator[tuple[Part, int | str]]:
    key: tuple[PurePosixPath, str] | None = None
    picture: Part | None = None
    of_class: int | str | None = None
    for member in (*(each for each in archive if each.isfile()), None):
        name = PurePosixPath("" if member is None else member.name)
        stem, _, kind = name.name.partition(".")
        if member is None or (name.parent, stem) != key:
            if picture is not None:
                if of_class is None:
                    raise UserError(
                        f"{picture.place} has no label; expected a .cls, or a .json with the entry "
                        f"{label!r}, of the same name beside it",
                        key="label",
                    )
                yield picture, of_class
            key, picture, of_class = (name.parent, stem), None, None
        if member is None or name.name.startswith("."):
            continue
        if f".{kind.lower()}" in EXTENSIONS:
            fetch = partial(_bytes_at, file.path, member.offset_data, member.size)
            picture = Part(file, member.name, name.name, member.size, fetch)
        elif kind in ("cls", "json"):
            file_in = archive.extractfile(member)
            assert file_in is not None  # it is a file
            found = _label(file_in.read(), kind, label, f"{file.place} ({member.name})")
            of_class = of_class if found is None else found


def _label(said: bytes, kind: str, entry: str, place: str) -> int | str | None:
    """A label, or ``None`` where a ``.json`` has none."""
    try:
        held = json.loads(said).get(entry) if kind == "json" else said.decode().strip()
    except (ValueError, AttributeError) as error:
        raise UserError(f"{place} cannot be read ({error}); correct it", key="folder") from error
    require(
        held is None or (isinstance(held, int | str) and not isinstance(held, bool) and held != ""),
        f"expected a number or a text as the label in {place}, got {held!r}; correct it",
        key="label",
    )
    return int(held) if isinstance(held, str) and held.isdecimal() else held


def _bytes_at(path: Path, start: int, count: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(count)
