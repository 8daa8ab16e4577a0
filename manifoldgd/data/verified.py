"""Image files that were checked in an earlier run are not opened again until they change.

A check reads the head and the tail of every file, a quarter of a millisecond each: minutes for ImageNet, at each start.
What passed is remembered by place, size and times of change. A wrong memory costs little: decoding looks again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from manifoldgd.data.image_files import ImageFile, check_files
from manifoldgd.files import atomic_write_bytes

CHECKS = 1  # raised when check_files looks for more than it did: what passed before has to pass again
DIGEST = 16  # bytes a file


def check_new_files(files: Sequence[ImageFile], record: Path) -> None:
    """:func:`check_files` for those of ``files`` that ``record`` does not hold; then it holds them.

    Args:
        files: of any folder, with size and times as they are now.
        record: made if missing. One that cannot be read or written is done without.

    Raises:
        UserError: as :func:`check_files`; nothing is remembered then.
    """
    passed = _read(record)
    marks = [_mark(file) for file in files]
    new = [file.path for file, mark in zip(files, marks, strict=True) if mark not in passed]
    if not new:
        return
    check_files(new)
    with suppress(OSError):
        atomic_write_bytes(record, b"".join(sorted(passed.union(marks))))


def record_of(folder: Path) -> Path:
    """Where the files under ``folder`` are remembered: in the user's cache, as a dataset's folder may be read-only."""
    cache = Path("~/.cache/manifoldgd/verified").expanduser()
    name = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=8).hexdigest()
    return cache / f"{name}.bin"


def _read(record: Path) -> frozenset[bytes]:
    try:
        held = record.read_bytes()
    except OSError:
        return frozenset()
    whole = len(held) - len(held) % DIGEST
    return frozenset(held[start : start + DIGEST] for start in range(0, whole, DIGEST))


def _mark(file: ImageFile) -> bytes:
    # The time of the last change of any kind (ctime) also moves where a tool puts the time of writing back.
    place = os.fsencode(file.path.absolute())
    facts = b"%d\0%s\0%d\0%d\0%d" % (CHECKS, place, file.num_bytes, file.mtime_ns, file.ctime_ns)
    return hashlib.blake2b(facts, digest_size=DIGEST).digest()
