"""Image files in class folders: finding them, and decoding them on a small thread pool, to check or to use them.

Pillow and file reads release the interpreter lock, so threads are enough, and results keep the order of the paths.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from manifoldgd.data.transforms import (
    UnreadableDepthError,
    deep_samples,
    eight_bit,
    has_stated_range,
    image_tensor,
    is_convertible,
    upright,
)
from manifoldgd.errors import UserError

THREADS = 8
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pillow knows some formats that run other programs or load others' code (EPS, WMF); no picture here needs them.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

DIGEST = 16  # bytes of a hash
MOST_PIXELS = 178_956_970  # beyond, Pillow takes an image for a trap: half a gigabyte in RGB
_DROPPINGS = {"thumbs.db", "desktop.ini"}  # what Windows leaves in folders, beside the dot files of other systems
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class ImageFile:
    """A file and what tells whether it has changed."""

    path: Path
    num_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: tuple[int, int]  # device and number: equal for two names, or links, of one file


def visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a user means to have in a folder, sorted by name: no dot files, no ``Thumbs.db``."""
    with os.scandir(folder) as entries:
        kept = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _DROPPINGS]
    return sorted(kept, key=lambda entry: entry.name)


def class_files(folder: Path) -> list[ImageFile]:
    """The image files of one class folder, sorted by name.

    Raises:
        UserError: the folder holds something else, judged by extension (contents are for :func:`read_contents`).
    """
    files = []
    for entry in visible_entries(folder):
        path = Path(entry.path)
        if not entry.is_file() or path.suffix.lower() not in EXTENSIONS:
            what = "is a folder, not an image" if entry.is_dir() else "is not an image file"
            raise UserError(
                f"dataset.folder: {path} {what}; expected only {' '.join(EXTENSIONS)} files in a class folder, "
                "move it elsewhere"
            )
        stat = entry.stat()
        inode = stat.st_dev, stat.st_ino
        files.append(ImageFile(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, inode))
    return files


@dataclass(frozen=True, slots=True)
class Content:
    """What is in an image file."""

    file: bytes  # hash of its bytes
    picture: bytes  # hash of the pixels it decodes to, upright and in RGB; of 16-bit pixels as they are
    peak: int  # largest of its samples where they have 16 bits whose white the file does not state, else SHALLOW


SHALLOW = -1
UPPER_BYTES = -2  # in place of a peak: 16-bit samples of a layout of which only the upper bytes can be read


def read_contents(
    paths: Sequence[Path], known: Callable[[bytes], Content | None], advance: Callable[[], None] = lambda: None
) -> list[Content | str]:
    """Read every file whole, and decode those that are not known by their bytes.

    Args:
        paths: the files.
        known: the content of a file of which the hash of the bytes is given, if it was decoded before.
        advance: called once a file.

    Returns:
        For each file what is in it, or a text that says what is wrong: it is no image, cut off, damaged as far as its
        format lets a decoder notice, too large, or of a kind of pixel that has no stated range or no way to RGB.
    """
    batches = [paths[start : start + 32] for start in range(0, len(paths), 32)]  # a task a file costs more than it
    found: list[Content | str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in pool.map(lambda batch: [_content_or_fault(path, known) for path in batch], batches):
            found += batch
            for _ in batch:
                advance()
    return found


def load_images(paths: Sequence[Path], size: int, channels: int, white: int | None, positions: Tensor) -> Tensor:
    """Decode and crop some of the files (see :func:`manifoldgd.data.transforms.image_tensor`).

    Args:
        paths: all files of the split.
        size: side of the square crop, in pixels.
        channels: 1 for grey, 3 for RGB.
        white: of 16-bit files; ``None`` for their full range.
        positions: ``[n]`` int64, which of ``paths``, in any order.

    Returns:
        ``[n, channels, size, size]`` uint8, in the order of ``positions``.

    Raises:
        UserError: a file cannot be decoded.
    """
    images = torch.empty(len(positions), channels, size, size, dtype=torch.uint8)
    chosen = [paths[position] for position in positions.tolist()]
    with ThreadPoolExecutor(THREADS) as pool:
        decoded: Iterable[Tensor] = pool.map(lambda path: _load(path, size, channels, white), chosen)
        for row, image in enumerate(decoded):
            images[row] = image
    return images


def _load(path: Path, size: int, channels: int, white: int | None) -> Tensor:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image_tensor(image, size, channels, white)
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise UserError(f"dataset.folder: {_unreadable(path, error)}; replace or remove it") from error


def _content_or_fault(path: Path, known: Callable[[bytes], Content | None]) -> Content | str:
    """What is in a file, or what is wrong with it."""
    try:
        data = path.read_bytes()
        digest = hashlib.blake2b(data, digest_size=DIGEST).digest()
        return known(digest) or _decoded(path, data, digest)
    except Exception as error:  # decoders raise nearly anything on damaged data
        return _unreadable(path, error)


def _decoded(path: Path, data: bytes, digest: bytes) -> Content | str:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if not has_stated_range(image):
            what = f"pixels without a stated range (mode {image.mode}), expected 8 or 16 bits a channel"
            return f"{shown(path)} has {what}"
        if not is_convertible(image):
            return f"{shown(path)} has pixels of a kind that has no way to RGB here (mode {image.mode}), convert it"
        if image.format == "PNG" and _PNG_END not in data:  # Pillow decodes one that lacks its last bytes
            return f"{shown(path)} is truncated (no end chunk)"
        samples, peak = None, SHALLOW
        try:
            samples = deep_samples(image)
            if samples is not None:
                peak = int((samples if samples.ndim == 2 else samples[..., :3]).max())  # alpha is no light
        except UnreadableDepthError:
            peak = UPPER_BYTES
        image.load()
        pixels = np.asarray(eight_bit(upright(image), 3)) if samples is None else samples
    picture = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=DIGEST)
    picture.update(np.ascontiguousarray(pixels))
    return Content(digest, picture.digest(), peak)


def shown(path: Path) -> str:
    """A path for a message: bytes that are not UTF-8 escaped, as no terminal prints them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"{shown(path)} is not an image file, whatever its name says"
    if isinstance(error, Image.DecompressionBombError):
        return f"{shown(path)} is too large, at most {MOST_PIXELS:,} pixels are read, scale it down"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{shown(path)} is truncated or damaged ({reason})"
