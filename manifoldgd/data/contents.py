"""What is in pictures, read once: a file is opened again only when it changes, decoded only when its bytes do.

Decoding a hundred thousand photographs takes minutes. What was found is remembered by place, size, times of change and
inode, and by the hash of the bytes: a file that was touched, or copied within its folder, is read but not decoded.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from torch import Tensor

from manifoldgd.data.decoded import ANNOUNCED, DecodedStore, announced
from manifoldgd.data.image_files import DIGEST, Content, Picture, read_contents
from manifoldgd.files import atomic_write_bytes, atomic_write_json

CHECKS = 2  # raised when read_contents looks for more than it did: what passed before has to pass again
PART = 4096  # files after which what was found is written down: whoever stops a long check keeps most of it

_ROW = struct.Struct(f"<{DIGEST}s{DIGEST}s{DIGEST}si")  # mark of the file, hash of its bytes, of its pixels, peak


def contents_of(
    pictures: Sequence[Picture], record: Path, store: DecodedStore | None = None
) -> tuple[list[Content | None], list[str]]:
    """What is in each picture; those that ``record`` does not hold are read, and then it holds them.

    Args:
        pictures: of any dataset, with size and times as they are now.
        record: made if missing. One that cannot be read or written is done without.
        store: keeps what is made of those that are decoded here, so that they are not decoded again.

    Returns:
        The contents, ``None`` for what :func:`manifoldgd.data.image_files.read_contents` finds fault with, and the
        faults. Faults are not remembered.
    """
    by_mark = _read(record)
    by_bytes = {content.file: content for content in by_mark.values()}
    marks = [_mark(picture) for picture in pictures]
    new = [(mark, picture) for mark, picture in zip(marks, pictures, strict=True) if mark not in by_mark]
    faults: list[str] = []
    if not new:
        return [by_mark[mark] for mark in marks], faults
    reading = [picture for _, picture in new]
    if store is not None and not store.room_for(len(reading)):
        store = None
    treatment = None if store is None else store.treatment
    with announced(reading, store, ANNOUNCED) as advance, _keeping(store, lambda: _write(record, by_mark)) as keep:
        found = read_contents(reading, by_bytes.get, treatment)
        for place, ((mark, _), each) in enumerate(zip(new, found, strict=True), start=1):
            advance()
            if isinstance(each, str):
                faults.append(each)
                continue
            by_mark[mark], image = each
            keep(by_mark[mark].file, image, place % PART == 0)
    return [by_mark.get(mark) for mark in marks], faults


@contextmanager
def _keeping(
    store: DecodedStore | None, write_record: Callable[[], None]
) -> Iterator[Callable[[bytes, Tensor | None, bool], None]]:
    """Hand out what keeps images; the record is written whenever they were, and at the end, however it comes.

    After them, as what the record holds is not decoded here again.
    """
    try:
        with nullcontext() if store is None else store.adding() as adding:

            def keep(content: bytes, image: Tensor | None, due: bool) -> None:
                written = adding is not None and image is not None and adding.add(content, image)
                if written or (due and adding is None):
                    write_record()

            yield keep
    finally:
        write_record()


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


def _mark(picture: Picture) -> bytes:
    return _hash(repr((CHECKS, *picture.state)).encode())
