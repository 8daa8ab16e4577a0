"""A distilled set as a folder that any tool can read: ``<class name>/<rank>.png`` and a manifest.

While a set is being made, each finished image is in place with one row in ``progress.jsonl``, of several processes each
in one of its own; a row is written after its image, so what has a row is whole. The manifest, made of the rows in
order, says that the set is complete.

A set defends itself. The manifest has a checksum and one row an image, each with a hash of the image's pixels: files
may be stored anew in any mode that gives the same pixels, and nothing else. Nothing outside the folder is read.
Manifests of format 1 have neither; their sets are checked for all but the pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.data.transforms import PILLOW_MODE, eight_bit
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_path, atomic_write_text, naming
from manifoldgd.provenance import code_version
from manifoldgd.store.keys import CHECKSUM, is_intact, read_json, sealed, write_json
from manifoldgd.store.results import claim_result

FORMAT = 2  # of the manifest; format 1 had no hashes
READABLE = (1, FORMAT)
IN_MEMORY = 1 << 28  # bytes of pixels: 1,365 images of 256x256; those of a larger set are mapped from a file

CONTENT = "content_hash"  # in the row of an image: of its pixels

Row = dict[str, Any]


def class_folder(class_name: str) -> str:
    """What the folder of a class is called: its name, but for what a folder's name cannot hold or would hide.

    >>> class_folder("great dane"), class_folder("T-shirt/top"), class_folder(".net")
    ('great dane', 'T-shirt%2Ftop', '%2Enet')
    """
    if "/" in class_name or "%" in class_name or class_name.startswith("."):
        escaped = class_name.replace("%", "%25").replace("/", "%2F")
        return f"%2E{escaped[1:]}" if escaped.startswith(".") else escaped
    return class_name


def image_file(class_name: str, rank: int) -> str:
    """Path of an image inside the set's folder."""
    return f"{class_folder(class_name)}/{rank:05d}.png"


def to_picture(image: Tensor) -> Image.Image:
    """``[C, H, W]`` uint8 with one or three channels -> a Pillow image."""
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))


class SetWriter:
    """Writes a set image by image and takes up where an earlier process stopped.

    Args:
        folder: the set's folder; made if missing.
        class_names: the dataset's classes, by label.
        part: of several processes that write at once, each images of its own, which one this is. Each lists its images
            in a file of its own, as few network file systems let several append to one.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], part: int = 0) -> None:
        self.folder, self.class_names = folder, tuple(class_names)
        self.progress = folder / (f"progress-{part}.jsonl" if part else "progress.jsonl")
        folder.mkdir(parents=True, exist_ok=True)
        _end_line(self.progress)
        self.rows: dict[tuple[int, int], Row] = {}
        self.seconds = 0.0  # that the images so far took, of all processes
        self._read: dict[Path, int] = {}  # rows of each list that are known
        self.look()

    def _parts(self) -> list[Path]:
        return sorted(file for file in self.folder.glob("progress*.jsonl") if file.is_file())

    def look(self) -> None:
        """Know of the images that other processes have written meanwhile."""
        for file in self._parts():
            rows = _whole_rows(file)
            self._take(rows[self._read.get(file, 0) :])
            self._read[file] = len(rows)

    def _take(self, rows: list[Row]) -> None:
        for row in rows:
            with suppress(
                KeyError, TypeError, IndexError, ValueError
            ):  # UserErrors too: what they are about is missing
                if "file" not in row:
                    self.seconds += row["seconds"]
                else:
                    self.rows[row["label"], row["rank"]] = self._checked(row)

    def _checked(self, row: Row) -> Row:
        """The row of an image that is as it was written; rows of earlier versions take the image as it is."""
        _check_row(row, self.class_names, row["rank"] + 1)
        picture = _open(inner_file(self.folder, row["file"]))
        found = {channels: pixel_hash(_pixels(picture, channels)) for channels in PILLOW_MODE}
        if row.setdefault(CONTENT, found[_stored_channels(picture)]) not in found.values():
            raise ValueError("other pixels")
        return row

    @property
    def complete(self) -> bool:
        """Whether the manifest has been written."""
        return (self.folder / "manifest.json").is_file()

    def save(self, image: Tensor, label: int, rank: int, **facts: Any) -> None:
        """Write one image ``[C, H, W]`` uint8 and its row; ``facts`` go into the manifest."""
        place = {"file": image_file(self.class_names[label], rank), "label": label, "rank": rank}
        row = {**place, CONTENT: pixel_hash(image), **facts}
        with atomic_path(self.folder / row["file"]) as partial:
            to_picture(image).save(partial, format="PNG")
        self._note(row)
        self.rows[label, rank] = row

    def spend(self, seconds: float) -> None:
        """Note what the images saved since the last note took, so that a later process knows."""
        self._note({"seconds": round(seconds, 3)})
        self.seconds += seconds

    def _note(self, row: Row) -> None:
        self._read[self.progress] = self._read.get(self.progress, 0) + 1
        with naming(self.progress), self.progress.open("a") as stream:
            stream.write(json.dumps(sealed(row), allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self, *, ipc: int, facts: dict[str, Any], card: str) -> None:
        """Write the card and, last, the manifest.

        Args:
            ipc: images a class.
            facts: resolved configuration, seed, hashes of inputs, labels of the prior.
            card: the set's README in Markdown.

        Raises:
            RuntimeError: an image is missing.
        """
        missing = [key for label in range(len(self.class_names)) for key in _keys(label, ipc) if key not in self.rows]
        if missing:
            raise RuntimeError(f"set {self.folder}: {len(missing)} images are missing, the first is {missing[0]}")
        rows = [self.rows[key] for label in range(len(self.class_names)) for key in _keys(label, ipc)]
        atomic_write_text(self.folder / "README.md", card)
        first = _open(self.folder / rows[0]["file"])
        shape = [_stored_channels(first), first.height, first.width]
        head = {"format": FORMAT, "code_version": code_version(), "ipc": ipc, "class_names": self.class_names}
        write_json(self.folder / "manifest.json", {**head, "image_shape": shape, **facts, "images": rows})
        for file in self._parts():
            file.unlink(missing_ok=True)


def _keys(label: int, ipc: int) -> list[tuple[int, int]]:
    return [(label, rank) for rank in range(ipc)]


def _whole_rows(progress: Path) -> list[Row]:
    """The rows of an earlier process; one that was cut short by a kill, or damaged, does not count."""
    rows: list[Row] = []
    if not progress.is_file():
        return rows
    with progress.open("rb") as lines:
        for line in lines:
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and is_intact(row):
                    rows.append({name: value for name, value in row.items() if name != CHECKSUM})
    return rows


def has_set(folder: Path) -> bool:
    """Whether a result folder holds a complete set."""
    return (folder / "set" / "manifest.json").is_file()


def _end_line(file: Path) -> None:
    """End the last line of a file: one that a kill cut short would swallow the next."""
    if file.is_file() and not file.read_bytes().endswith(b"\n"):
        with file.open("ab") as stream:
            stream.write(b"\n")


def copy_set(source: Path, target: Path, config: dict[str, Any]) -> None:
    """Give a result folder the complete set of another one, whole or not at all.

    Args:
        source: a result folder that :func:`has_set`.
        target: a result folder without a set; made if missing. One process at a time may write there.
        config: what the set depends on.

    Raises:
        UserError: ``target`` holds the result of another configuration.
        OSError: the folder is not writable, or the disk is full; nothing stays of the copy.
    """
    claim_result(target, "set", config)
    partial = target / ".set.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        shutil.copytree(source / "set", partial, copy_function=_copy_to_disk, symlinks=True)  # never followed
        os.rename(partial, target / "set")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_to_disk(source: str, target: str) -> None:
    """Copy a file; its content reaches the disk before the set gets its name."""
    shutil.copyfile(source, target)
    with Path(target).open("rb+") as file:
        os.fsync(file.fileno())


def load_set(folder: Path) -> DistilledSet:
    """Read a set from its folder or from the result folder around it.

    Every image is read and checked. The pixels of a large set are mapped, not held in memory (:data:`IN_MEMORY`).

    Raises:
        OSError: there is no space for the pixels of a large set.
        UserError: there is no complete set, its format is another, its manifest does not describe a set, a file of it
            is a link or lies elsewhere, or an image is missing, broken or not the one that was written.
    """
    # The folder itself first: a class may be called "set".
    folder = folder if (folder / "manifest.json").is_file() or not (folder / "set").is_dir() else folder / "set"
    file = folder / "manifest.json"
    require(
        file.is_file(),
        f"set: {folder} holds no complete distilled set (no manifest.json); make one with `manifoldgd distill`",
    )
    require(not file.is_symlink(), f"set: {file} is a link; put a copy of what it leads to in its place")
    remedy = f"restore it from a copy, or remove {folder} to have the set made again"
    manifest = read_json(file, remedy=remedy)
    require(
        manifest.get("format") in READABLE,
        f"set: {folder} has format {manifest.get('format')}, expected {FORMAT}; make it again with this version",
    )
    try:
        rows, names = manifest["images"], manifest["class_names"]
        _check_manifest(manifest)
        files = [inner_file(folder, row["file"]) for row in rows]
        shape = manifest.get("image_shape") or _common_shape(files)
        images = (_checked_image(each, tuple(shape), row.get(CONTENT)) for each, row in zip(files, rows, strict=True))
        return DistilledSet(
            images=_all_pixels(images, (len(rows), *shape), folder),
            labels=torch.tensor([row["label"] for row in rows]),
            ranks=torch.tensor([row["rank"] for row in rows]),
            class_names=tuple(names),
            folder=folder,
            manifest=manifest,
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise UserError(f"set: {error}; {remedy}") from error
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"set: {file} does not describe a set ({reason}); {remedy}") from error


def _all_pixels(images: Iterable[Tensor], shape: tuple[int, ...], folder: Path) -> Tensor:
    """Images as one tensor of this shape, ``[n, C, H, W]`` uint8.

    A large one lies in a file beside the set, from which the system reads what is looked at, and which it may drop from
    memory at any time. The file has no name and goes with the last view of the tensor, or with the process.
    """
    if math.prod(shape) <= IN_MEMORY:
        whole = torch.empty(shape, dtype=torch.uint8)
        for image, place in zip(images, whole, strict=True):
            place.copy_(image)
        return whole
    place = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    with naming(place), tempfile.TemporaryFile(dir=place) as file:
        for image in images:
            file.write(image.numpy().data)
        file.flush()
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))


def _check_manifest(manifest: Row) -> None:
    """Raise what says how a manifest differs from one that :meth:`SetWriter.finish` writes."""
    rows, names, ipc = manifest["images"], manifest["class_names"], manifest["ipc"]
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
        raise ValueError("class_names: expected a list of names")
    if len(set(names)) < len(names):
        raise ValueError("class_names: some name stands twice")
    if not _is_count(ipc) or ipc < 1:
        raise ValueError(f"ipc: expected at least 1, got {ipc!r}")
    if not isinstance(rows, list) or len(rows) != ipc * len(names):
        raise ValueError(f"images: expected {ipc} for each of {len(names)} classes, got {len(rows)}")
    shape = manifest.get("image_shape", [1, 1, 1])
    if not (isinstance(shape, list) and len(shape) == 3 and all(map(_is_count, shape)) and shape[0] in PILLOW_MODE):
        raise ValueError(f"image_shape: expected [1 or 3, height, width], got {shape}")
    for position, row in enumerate(rows):
        _check_row(row, names, ipc)
        place = divmod(position, ipc)
        if (row["label"], row["rank"]) != place:
            raise ValueError(f"images[{position}]: expected label and rank {place}, got {row['label'], row['rank']}")
        if manifest["format"] == FORMAT and not isinstance(row[CONTENT], str):
            raise ValueError(f"images[{position}]: {CONTENT} is no text")


def _check_row(row: Row, names: Sequence[str], ipc: int) -> None:
    label, rank, file = row["label"], row["rank"], row["file"]
    if not (_is_count(label) and label < len(names)):
        raise ValueError(f"label: expected 0 to {len(names) - 1}, got {label!r}")
    if not (_is_count(rank) and rank < ipc):
        raise ValueError(f"rank: expected 0 to {ipc - 1}, got {rank!r}")
    former = f"{names[label]}/{rank:05d}.png"  # as earlier versions wrote it, whatever the name
    if not (isinstance(file, str) and file in (image_file(names[label], rank), former)):
        raise ValueError(f"file: expected {image_file(names[label], rank)!r} for label {label}, got {file!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def inner_file(folder: Path, name: str) -> Path:
    """The file of this name inside a folder.

    Raises:
        UserError: the name leads out of the folder, or over a link.
    """
    place = PurePosixPath(name)
    inside = not place.is_absolute() and ".." not in place.parts and "\0" not in name
    require(inside, f"{folder}: {name!r} lies outside the set")
    for part in (place, *place.parents[:-1]):
        require(not (folder / part).is_symlink(), f"{folder / part} is a link; put a copy of what it leads to there")
    return folder / place


def pixel_hash(image: Tensor) -> str:
    """A 32-digit hexadecimal hash of an image ``[C, H, W]`` uint8: its shape and its pixels."""
    digest = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _checked_image(file: Path, shape: tuple[int, int, int], known: str | None) -> Tensor:
    """The image ``[C, H, W]`` uint8 of a file, if it has the shape and, where a hash is known, the pixels."""
    channels, height, width = shape
    picture = _open(file)
    require(
        picture.size == (width, height),
        f"{file} is {picture.width}x{picture.height} pixels, expected the {width}x{height} of the set",
    )
    image, stored = _pixels(picture, channels), _stored_channels(picture)
    if known is None:
        coloured = channels == 1 and stored == 3 and not _is_grey(picture)
        require(not coloured, f"{file} has colours, where the set's images are grey")
        return image
    kind = {1: "grey", 3: "in colour"}
    how = "" if stored == channels else f" (it is stored {kind[stored]}, the set's images are {kind[channels]})"
    require(pixel_hash(image) == known, f"{file} has other pixels than the image that was written{how}")
    return image


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read ({error})") from error


def _pixels(picture: Image.Image, channels: int) -> Tensor:
    """``[channels, H, W]`` uint8, in whatever mode the picture is stored."""
    pixels = np.array(eight_bit(picture, channels)).reshape(picture.height, picture.width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _stored_channels(picture: Image.Image) -> int:
    """1 for a picture of one channel, or with a palette of greys; else 3."""
    grey = picture.mode in ("1", "L", "LA") or picture.mode.startswith("I")
    return 1 if grey or (picture.mode in ("P", "PA") and _is_grey(picture)) else 3


def _is_grey(picture: Image.Image) -> bool:
    pixels = _pixels(picture, 3)
    return bool((pixels == pixels[:1]).all())


def _common_shape(files: Sequence[Path]) -> tuple[int, int, int]:
    """The shape of the images of a set whose manifest does not say it: colour where one is stored so."""
    pictures = map(_open, files)
    first = next(pictures)
    return max([_stored_channels(first), *map(_stored_channels, pictures)]), first.height, first.width
