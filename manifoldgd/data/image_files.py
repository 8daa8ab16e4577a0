"""Image files in class folders: finding them, checking them cheaply, decoding them on a small thread pool.

Pillow and file reads release the interpreter lock, so threads are enough, and results keep the order of the paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from manifoldgd.data.transforms import image_tensor, is_convertible
from manifoldgd.errors import UserError

THREADS = 8
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pillow knows some formats that run other programs or load others' code (EPS, WMF); no picture here needs them.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

_DROPPINGS = {"thumbs.db", "desktop.ini"}  # what Windows leaves in folders, beside the dot files of other systems
_PNG_END = b"IEND\xaeB`\x82"
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": _PNG_END}


@dataclass(frozen=True)
class ImageFile:
    """A file and what tells whether it has changed."""

    path: Path
    num_bytes: int
    mtime_ns: int
    ctime_ns: int


def visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a user means to have in a folder, sorted by name: no dot files, no ``Thumbs.db``."""
    with os.scandir(folder) as entries:
        kept = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _DROPPINGS]
    return sorted(kept, key=lambda entry: entry.name)


def class_files(folder: Path) -> list[ImageFile]:
    """The image files of one class folder, sorted by name.

    Raises:
        UserError: the folder holds something else, judged by extension (contents are for :func:`check_files`).
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
        files.append(ImageFile(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return files


def check_files(paths: Sequence[Path]) -> None:
    """Reject files that are no image, are cut off, or hold a kind of pixel without a stated range.

    Reads each file's header, and its last bytes, where a complete JPEG or PNG has its end marker. A file that ends
    otherwise (other formats, bytes appended to a good picture) is decoded: that decides. Damage in the middle of a
    file shows, as far as the format lets a decoder notice, when the image is loaded.

    Raises:
        UserError: the first bad file in the order of ``paths``, and how many there are.
    """
    batches = [paths[start : start + 256] for start in range(0, len(paths), 256)]  # a task a file costs more than it
    with ThreadPoolExecutor(THREADS) as pool:
        checked = pool.map(lambda batch: [_fault(path) for path in batch], batches)
        faults = [fault for batch in checked for fault in batch if fault is not None]
    if faults:
        more = f" (bad files in all: {len(faults)})" if len(faults) > 1 else ""
        raise UserError(f"dataset.folder: {faults[0]}{more}; replace or remove it")


def load_images(paths: Sequence[Path], size: int, channels: int, positions: Tensor) -> Tensor:
    """Decode and crop some of the files (see :func:`manifoldgd.data.transforms.image_tensor`).

    Args:
        paths: all files of the split.
        size: side of the square crop, in pixels.
        channels: 1 for grey, 3 for RGB.
        positions: ``[n]`` int64, which of ``paths``, in any order.

    Returns:
        ``[n, channels, size, size]`` uint8, in the order of ``positions``.

    Raises:
        UserError: a file cannot be decoded.
    """
    images = torch.empty(len(positions), channels, size, size, dtype=torch.uint8)
    chosen = [paths[position] for position in positions.tolist()]
    with ThreadPoolExecutor(THREADS) as pool:
        decoded: Iterable[Tensor] = pool.map(lambda path: _load(path, size, channels), chosen)
        for row, image in enumerate(decoded):
            images[row] = image
    return images


def _load(path: Path, size: int, channels: int) -> Tensor:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image_tensor(image, size, channels)
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise UserError(f"dataset.folder: {_unreadable(path, error)}; replace or remove it") from error


def _fault(path: Path) -> str | None:
    """What is wrong with a file, if anything."""
    try:
        with path.open("rb") as file:
            return _fault_of(path, file)
    except Exception as error:  # decoders raise nearly anything on damaged data
        return _unreadable(path, error)


def _fault_of(path: Path, file: BinaryIO) -> str | None:
    file.seek(max(0, file.seek(0, os.SEEK_END) - 16))
    tail = file.read()
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        if not is_convertible(image):
            return f"{path} has pixels without a stated range (mode {image.mode}), expected 8 or 16 bits a channel"
        if (marker := _END_MARKERS.get(image.format or "")) and tail.endswith(marker):
            return None
        image.load()
        # Pillow decodes a PNG that lacks only its last bytes without complaint.
        complete = image.format != "PNG" or (file.seek(0) == 0 and _PNG_END in file.read())
    return None if complete else f"{path} is truncated (no end chunk)"


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"{path} is not an image file, whatever its name says"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{path} is truncated or damaged ({reason})"
