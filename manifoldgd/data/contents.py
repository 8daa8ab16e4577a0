"""What is in image files, read once: a file is opened again only when it changes, decoded only when its bytes do.

Decoding a hundred thousand photographs takes minutes. What was found is remembered by place, size, times of change and
inode, and by the hash of the bytes: a file that was touched, or copied within its folder, is read but not decoded.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from manifoldgd.data.image_files import DIGEST, Content, ImageFile, read_contents
from manifoldgd.errors import UserError
from manifoldgd.files import atomic_write_bytes, atomic_write_json
from manifoldgd.progress import progress_bar

CHECKS = 2  # raised when read_contents looks for more than it did: what passed before has to pass again
PART = 4096  # files after which what was found is written down: whoever stops a long check keeps most of it
LISTED = 8  # bad files that a message names
ANNOUNCED = 2000  # files from which on a progress bar is worth its line

_ROW = struct.Struct(f"<{DIGEST}s{DIGEST}s{DIGEST}si")  # mark of the file, hash of its bytes, of its pixels, peak


def contents_of(files: Sequence[ImageFile], record: Path) -> list[Content]:
    """What is in each file; those that ``record`` does not hold are read, and then it holds them.

    Args:
        files: of any folder, with size and times as they are now.
        record: made if missing. One that cannot be read or written is done without.

    Raises:
        UserError: files that :func:`manifoldgd.data.image_files.read_contents` finds fault with; those are not
            remembered, the others are.
    """
    by_mark = _read(record)
    by_bytes = {content.file: content for content in by_mark.values()}
    marks = [_mark(file) for file in files]
    new = [(mark, file.path) for mark, file in zip(marks, files, strict=True) if mark not in by_mark]
    faults: list[str] = []
    with progress_bar(f"check {len(new):,} image files", len(new), enabled=len(new) >= ANNOUNCED) as advance:
        for start in range(0, len(new), PART):
            part = new[start : start + PART]
            for (mark, _), found in zip(
                part, read_contents([path for _, path in part], by_bytes.get, advance), strict=True
            ):
                if isinstance(found, Content):
                    by_mark[mark] = found
                else:
                    faults.append(found)
            _write(record, by_mark)
    if faults:
        more = f" (bad files in all: {len(faults)})" if len(faults) > 1 else ""
        raise UserError(f"dataset.folder: {'; '.join(faults[:LISTED])}{more}; replace or remove what is named")
    return [by_mark[mark] for mark in marks]


def record_of(folder: Path) -> Path:
    """Where the files under ``folder`` are remembered: in the user's cache, as a dataset's folder may be read-only."""
    cache = Path("~/.cache/manifoldgd/contents").expanduser()
    name = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=8).hexdigest()
    return cache / f"{name}.bin"


def former_names(former: str, splits: tuple[str, str], record: Path) -> tuple[str, ...]:
    """All fingerprints by which older versions knew a dataset of these contents, as far as they were ever met.

    They hashed times of change, so a file that is touched would part a dataset from what was made of it.

    Args:
        former: what an older version would call the dataset as it lies there now.
        splits: the fingerprints of both splits.
        record: of the folder; the names lie beside it.
    """
    file = record.with_suffix(".json")
    held: dict[str, list[str]] = {}
    with suppress(OSError, ValueError, TypeError):
        held = dict(json.loads(file.read_text()))
    if held.get(former) != list(splits):
        held[former] = list(splits)
        with suppress(OSError):
            atomic_write_json(file, held)
    return (former, *(name for name, of in held.items() if of == list(splits) and name != former))


def _read(record: Path) -> dict[bytes, Content]:
    """Nothing where the record is missing, damaged, or of an older version."""
    try:
        held = record.read_bytes()
    except OSError:
        return {}
    checksum, rows = held[:DIGEST], held[DIGEST:]
    if checksum != _hash(rows) or len(rows) % _ROW.size:
        return {}
    return {mark: Content(*rest) for mark, *rest in _ROW.iter_unpack(rows)}


def _write(record: Path, contents: dict[bytes, Content]) -> None:
    rows = b"".join(_ROW.pack(mark, each.file, each.picture, each.peak) for mark, each in contents.items())
    with suppress(OSError):
        atomic_write_bytes(record, _hash(rows) + rows)


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def _mark(file: ImageFile) -> bytes:
    # The time of the last change of any kind (ctime) also moves where a tool puts the time of writing back.
    place = os.fsencode(file.path.absolute())
    return _hash(repr((CHECKS, place, file.num_bytes, file.mtime_ns, file.ctime_ns, file.inode)).encode())
