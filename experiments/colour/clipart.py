"""Class folders of small colour pictures from Debian's clip art: ``python experiments/colour/clipart.py FOLDER``.

The package ``openclipart-png`` (0.18, public domain) sorts drawings of hundreds of people by what they show.
Eight classes of it are laid on white squares of 64 pixels, at most 500 a class, chosen by the hashes of their pixels.
Names stay, so that ``dataset.group_by=stem`` keeps variants of one drawing (``name_01``, ``name_02``) on one side.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from manifoldgd.data.transforms import eight_bit
from manifoldgd.files import atomic_path

SOURCE = Path("/usr/share/openclipart/png")
CLASSES: dict[str, Sequence[str]] = {
    "animals": ["animals"],
    "flags": ["signs_and_symbols/flags"],
    "food": ["food"],
    "games": ["recreation/games"],
    "icons": ["computer/icons"],
    "people": ["people"],
    "signs": ["signs_and_symbols/map_symbols", "transportation/aiga-symbols", "transportation/roadsigns"],
    "tools": ["tools"],
}
SIDE = 64  # pixels
MOST = 500  # drawings a class
LARGEST = 10_000_000  # pixels; a few drawings have hundreds of megapixels
EXPECTED = "64b9dd58e6dc3d298f2886e9b7df2b094f4d75a055653adc5e2c3244ff039146"  # of all drawings used, by class and hash


def drawings(source: Path) -> dict[str, dict[str, Path]]:
    """Class -> SHA-256 of a drawing's pixels -> its file; a drawing filed in two classes is in neither."""
    found = {name: {_pixels(file): file for file in _files(source, folders)} for name, folders in CLASSES.items()}
    shared = {each for each, times in Counter(each for files in found.values() for each in files).items() if times > 1}
    return {name: {each: files[each] for each in sorted(files) if each not in shared} for name, files in found.items()}


def _pixels(file: Path) -> str:
    """Of the pixels, as some files differ in what they say about themselves alone."""
    with Image.open(file) as drawing:
        shown = eight_bit(drawing, 3)
        return hashlib.sha256(f"{shown.size}".encode() + shown.tobytes()).hexdigest()


def _files(source: Path, folders: Sequence[str]) -> list[Path]:
    return sorted(file for folder in folders for file in (source / folder).rglob("*.png") if _is_small(file))


def _is_small(file: Path) -> bool:
    with Image.open(file) as drawing:
        return drawing.width * drawing.height <= LARGEST


def main() -> None:
    """Write ``FOLDER/<class>/<name>.png``."""
    Image.MAX_IMAGE_PIXELS = None  # only headers of the largest are read
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, default=SOURCE, help=f"where the package lies (default {SOURCE})")
    arguments = parser.parse_args()
    chosen = {name: dict(list(files.items())[:MOST]) for name, files in drawings(arguments.source).items()}
    listing = "\n".join(f"{name} {each}" for name, files in chosen.items() for each in files)
    found = hashlib.sha256(listing.encode()).hexdigest()
    if found != EXPECTED:
        parser.error(
            f"{arguments.source}: these are not the drawings of openclipart-png 0.18 (their hashes give {found}, "
            f"not {EXPECTED}): apt-get install openclipart-png, or --source FOLDER"
        )
    for name, files in chosen.items():
        for file in files.values():
            with Image.open(file) as drawing, atomic_path(arguments.folder / name / file.name) as path:
                square = ImageOps.pad(eight_bit(drawing, 3), (SIDE, SIDE), Image.Resampling.LANCZOS, color="white")
                square.save(path)
        print(f"{name}: {len(files)} drawings")


if __name__ == "__main__":
    main()
