"""Encoded pictures, as files of their own or inside larger ones: finding them, and decoding them on a thread pool.

Pillow, file reads and hashes release the interpreter lock, so threads are enough, and results keep their order.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from manifoldgd.data.transforms import (
    Treatment,
    UnreadableDepthError,
    deep_samples,
    eight_bit,
    has_stated_range,
    is_convertible,
    pixel_bytes,
    upright,
)
from manifoldgd.errors import UserError

THREADS = min(32, max(8, os.cpu_count() or 1))
TOGETHER = 4  # pictures of a task: a task a picture costs more than a small one
WINDOW = 256  # pictures under way: what waits for a slow one, and what a stop has to wait for
EXTENSIONS = (
    *(".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
# Pillow knows some formats that run other programs or load others' code (EPS, WMF); no picture here needs them.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # bytes 8 to 12 of such a file

DIGEST = 16  # bytes of a hash
MOST_PIXELS = 178_956_970  # beyond, Pillow takes an image for a trap: half a gigabyte in RGB
_DROPPINGS = {"thumbs.db", "desktop.ini"}  # what Windows leaves in folders, beside the dot files of other systems
_PNG_END = b"IEND\xaeB`\x82"


class Picture(Protocol):
    """An encoded picture, wherever it lies."""

    @property
    def name(self) -> str:
        """What it is called among the others of its class."""

    @property
    def place(self) -> str:
        """Where it lies, for a message."""

    @property
    def num_bytes(self) -> int:
        """Of its encoded form."""

    @property
    def state(self) -> tuple[Any, ...]:
        """What is equal as long as it need not be read again; hashed by its ``repr``."""

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for two names of one thing."""

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: they cannot be read.
        """


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file and what tells whether it has changed. A million of them share what is known of their folders."""

    folder: Path
    prefix: bytes  # of its path from the root on, as the system has it: the folder and a separator
    name: str
    num_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: tuple[int, int]  # device and number: equal for two names, or links, of one file

    @classmethod
    def at(cls, path: Path, stat: os.stat_result | None = None) -> ImageFile:
        """The file at a path as it is now."""
        return cls.among(path.parent, prefix_of(path.parent), path.name, stat or path.stat())

    @classmethod
    def among(cls, folder: Path, prefix: bytes, name: str, stat: os.stat_result) -> ImageFile:
        """One of the files of a folder, whose :func:`prefix_of` is given."""
        numbers = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, (stat.st_dev, stat.st_ino)
        return cls(folder, prefix, name, *numbers)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / self.name

    @property
    def place(self) -> str:
        return shown(self.path)

    @property
    def state(self) -> tuple[Any, ...]:
        # The time of the last change of any kind (ctime) also moves where a tool puts the time of writing back.
        return self.prefix + os.fsencode(self.name), self.num_bytes, self.mtime_ns, self.ctime_ns, self.inode

    @property
    def identity(self) -> tuple[Any, ...]:
        return self.inode

    def read(self) -> bytes:
        return self.path.read_bytes()


def prefix_of(folder: Path) -> bytes:
    """What the paths of the files of a folder begin with."""
    return os.path.join(os.fsencode(folder.absolute()), b"")


@dataclass(frozen=True, slots=True)
class Part:
    """A picture inside a file that holds others too: a row of a table, a member of an archive."""

    file: ImageFile
    member: str  # what tells it from the others there
    name: str
    num_bytes: int
    fetch: Callable[[], bytes]

    @property
    def place(self) -> str:
        return f"{self.file.place} ({self.member})"

    @property
    def state(self) -> tuple[Any, ...]:
        return *self.file.state, self.member

    @property
    def identity(self) -> tuple[Any, ...]:
        return *self.file.inode, self.member

    def read(self) -> bytes:
        return self.fetch()


def visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a user means to have in a folder, sorted by name: no dot files, no ``Thumbs.db``."""
    with os.scandir(folder) as entries:
        kept = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _DROPPINGS]
    return sorted(kept, key=lambda entry: entry.name)


def class_files(folder: Path) -> tuple[list[ImageFile], list[str]]:
    """The image files of one class folder, sorted by name, and what is wrong with the rest of what lies there.

    Extensions decide; contents are for :func:`read_contents`.
    """
    files, faults = [], []
    prefix = prefix_of(folder)
    for entry in visible_entries(folder):
        if entry.is_file() and os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            files.append(ImageFile.among(folder, prefix, entry.name, entry.stat()))
        else:
            what = "is a folder, not an image" if entry.is_dir() else "is not an image file"
            faults.append(f"{shown(Path(entry.path))} {what} ({' '.join(EXTENSIONS)})")
    return files, faults


@dataclass(frozen=True, slots=True)
class Content:
    """What is in an image file."""

    file: bytes  # hash of its bytes
    picture: bytes  # hash of the pixels it decodes to, upright and in RGB; of 16-bit pixels as they are
    peak: int  # largest of its samples where they have 16 bits whose white the file does not state, else SHALLOW


SHALLOW = -1
UPPER_BYTES = -2  # in place of a peak: 16-bit samples of a layout of which only the upper bytes can be read

Found = tuple[Content, Tensor | None]


def read_contents(
    pictures: Sequence[Picture], known: Callable[[bytes], Content | None], treatment: Treatment | None = None
) -> Iterator[Found | str]:
    """Read every picture whole, and decode those that are not known by their bytes.

    Args:
        pictures: in any order.
        known: the content of a picture of which the hash of the bytes is given, if it was decoded before.
        treatment: what is to be made of those that are decoded, as they are decoded anyway; ``None`` for nothing.

    Yields:
        For each picture, in their order, what is in it, and the tensor if one was asked for and the picture was
        decoded; or a text that says what is wrong: it is no image, cut off, damaged as far as its format lets a
        decoder notice, too large, or of a kind of pixel that has no stated range or no way to RGB.
    """
    return on_threads(lambda picture: _found_or_fault(picture, known, treatment), pictures)


def on_threads(work: Callable[[Picture], Any], pictures: Sequence[Picture]) -> Iterator[Any]:
    """What becomes of each picture, in order, worked on in parallel; a stop waits for none that has not begun."""
    tasks = [pictures[start : start + TOGETHER] for start in range(0, len(pictures), TOGETHER)]
    pool = ThreadPoolExecutor(THREADS)
    try:
        for start in range(0, len(tasks), WINDOW // TOGETHER):
            for done in pool.map(lambda task: [work(each) for each in task], tasks[start : start + WINDOW // TOGETHER]):
                yield from done
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def load_pictures(pictures: Sequence[Picture], treatment: Treatment, positions: Tensor) -> Tensor:
    """Decode some of the pictures (see :func:`manifoldgd.data.transforms.image_tensor`).

    Args:
        pictures: all of the split.
        treatment: what is made of them.
        positions: ``[n]`` int64, which of ``pictures``, in any order.

    Returns:
        ``[n, *treatment.shape]`` uint8, in the order of ``positions``.

    Raises:
        UserError: one cannot be decoded.
    """
    images = torch.empty(len(positions), *treatment.shape, dtype=torch.uint8)
    chosen = [pictures[position] for position in positions.tolist()]
    for row, (_, image) in enumerate(on_threads(partial(decode, treatment), chosen)):
        images[row] = image
    return images


def decode(treatment: Treatment, picture: Picture) -> tuple[bytes, Tensor]:
    """The hash of a picture's bytes, and its tensor.

    Raises:
        UserError: it cannot be decoded.
    """
    try:
        data = picture.read()
        with opened(data) as image:
            return content_digest(data), treatment.apply(image)
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise UserError(f"dataset.folder: {_unreadable(picture, error)}; replace or remove it") from error


def opened(data: bytes) -> Image.Image:
    """A picture by its bytes, not decoded yet, if it is of one of the formats that run nothing."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        _register_heif()
        return Image.open(io.BytesIO(data), formats=("HEIF",))
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ImportError("is a HEIC file, for which pillow-heif is needed: pip install 'manifoldgd[heic]'") from error
    register_heif_opener(thumbnails=False)


def _found_or_fault(
    picture: Picture, known: Callable[[bytes], Content | None], treatment: Treatment | None
) -> Found | str:
    """What is in a picture, or what is wrong with it."""
    try:
        data = picture.read()
        digest = content_digest(data)
        content = known(digest)
        return (content, None) if content is not None else _decoded(picture, data, digest, treatment)
    except Exception as error:  # decoders raise nearly anything on damaged data
        return _unreadable(picture, error)


def content_digest(data: bytes) -> bytes:
    """The hash by which the bytes of a picture are known."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def _decoded(picture: Picture, data: bytes, digest: bytes, treatment: Treatment | None) -> Found | str:
    with opened(data) as image:
        if not has_stated_range(image):
            what = f"pixels without a stated range (mode {image.mode}), expected 8 or 16 bits a channel"
            return f"{picture.place} has {what}"
        if not is_convertible(image):
            return f"{picture.place} has pixels of a kind that has no way to RGB here (mode {image.mode}), convert it"
        if image.format == "PNG" and _PNG_END not in data:  # Pillow decodes one that lacks its last bytes
            return f"{picture.place} is truncated (no end chunk)"
        samples, peak = None, SHALLOW
        try:
            samples = deep_samples(image)
            if samples is not None:
                peak = int((samples if samples.ndim == 2 else samples[..., :3]).max())  # alpha is no light
        except UnreadableDepthError:
            peak = UPPER_BYTES
        image.load()
        colours = None
        if samples is None:
            colours = eight_bit(upright(image), 3)
            shape, parts = (colours.height, colours.width, 3), pixel_bytes(colours)
        else:
            shape, parts = samples.shape, iter([samples.tobytes()])
        hashed = hashlib.blake2b(repr(shape).encode(), digest_size=DIGEST)
        for part in parts:
            hashed.update(part)
        content = Content(digest, hashed.digest(), peak)
        if treatment is None or (treatment.white is not None and peak != SHALLOW):
            return content, None  # of the deep ones the samples are asked for before anything is decoded
        if colours is not None and treatment.channels == 3:
            return content, treatment.of_pixels(colours)
        return content, treatment.apply(image)


def shown(path: Path) -> str:
    """A path for a message: bytes that are not UTF-8 escaped, as no terminal prints them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unreadable(picture: Picture, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"{picture.place} is not an image file, whatever its name says"
    if isinstance(error, Image.DecompressionBombError):
        return f"{picture.place} is too large, at most {MOST_PIXELS:,} pixels are read, scale it down"
    if isinstance(error, ImportError):
        return f"{picture.place} {error}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{picture.place} is truncated or damaged ({reason})"
