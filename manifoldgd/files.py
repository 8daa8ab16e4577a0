"""Files that are either whole or absent: write beside the target, then rename.

A reader, a second process or a restart never meets half a file, and a failed writer leaves the old content in place.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place when the block ends without an error.

    The sibling keeps the suffix of ``path``, so that writers which choose a format by suffix work, and exists (empty)
    when it is handed out. Parent folders are made. The content reaches the disk before the name does.

    Args:
        path: the file to write; replaced if it exists.

    Yields:
        A path in the same folder that no other process uses.

    Raises:
        OSError: the folder is not writable. Errors of the block pass through; the temporary file is removed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem[:64]}.{secrets.token_hex(8)}{target.suffix}")
    temporary.touch(exist_ok=False)  # unlike mkstemp, with the mode that an ordinary new file has
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all (see :func:`atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, line ends as they are, whole or not at all (see :func:`atomic_path`)."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON with a final line end, whole or not at all (see :func:`atomic_path`).

    Raises:
        TypeError: ``value`` holds something JSON has no form for.
        ValueError: ``value`` holds NaN or an infinity, for which JSON has no form either: use ``None``.
    """
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def one_at_a_time(path: str | os.PathLike[str], waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time make ``path``; others wait their turn, and then look whether it is there.

    The lock is a hidden file beside ``path`` that stays behind: removing it would let two processes hold two files of
    one name. The system gives it up when its process ends, however it ends.

    Args:
        path: what is to be made; parent folders are made.
        waiting: called once if another process holds the lock.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable; platforms that cannot open a folder do without."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
