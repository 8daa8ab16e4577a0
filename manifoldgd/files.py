"""Files that are either whole or absent (write beside the target, then rename), and hashes of whole files.

A reader, a second process or a restart never meets half a file, and a failed writer leaves the old content in place.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


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
        with naming(target):
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
    # Piece by piece: the manifest of 50,000 images has 114 MB, and its pieces take several times as much to be joined.
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the system while ``path`` is written say so: as :class:`OSError` with its number and that path.

    Python's own name no file where a write fails, and libraries wrap them in errors of their own.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise
    except Exception as error:
        number = _system_error(error, Path(path).parent)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), os.fspath(path)) from error


def _system_error(error: Exception, folder: Path) -> int | None:
    """The number of the system's error behind a library's: as Rust quotes it, else by the disk that is full now."""
    if quoted := re.search(r"\(os error (\d+)\)", str(error)):
        return int(quoted[1])
    if any(said in str(error) for said in ("PytorchStreamWriter", "iostream error", "inline_container")):
        return errno.ENOSPC if shutil.disk_usage(folder).free == 0 else errno.EIO
    return None


@contextmanager
def one_at_a_time(path: str | os.PathLike[str], waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time make ``path``; others wait their turn, and then look whether it is there.

    The lock is a hidden file beside ``path`` that stays behind. The system gives it up when its process ends, however
    it ends.

    Args:
        path: what is to be made; parent folders are made.
        waiting: called once if another process holds the lock; who does not want to wait raises.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# A file system tells two changes apart only if some time lies between them; what is younger is looked at again.
SETTLED_SECONDS = 2.0


def file_state(path: str | os.PathLike[str]) -> tuple[int, int, int, int]:
    """Size, times of the last writing and of the last change of any kind (ns), inode: other content has another state.

    Raises:
        OSError: there is no such file.
    """
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def is_settled(state: tuple[int, int, int, int]) -> bool:
    """Whether a :func:`file_state` is old enough that a later change must give the file another one."""
    return time.time_ns() - max(state[1:3]) > SETTLED_SECONDS * 1e9


def content_hash(path: str | os.PathLike[str], algorithm: str = "blake2b") -> str:
    """Hexadecimal hash of a whole file, read as a stream, and not read again until the file changes.

    The hash is remembered by place and :func:`file_state` in the user's cache; a memory that cannot be read or written
    is done without, and one that is damaged is not believed.

    Args:
        path: the file; a link is followed.
        algorithm: one of :mod:`hashlib`; ``blake2b`` gives 32 digits.

    Raises:
        OSError: the file cannot be read.
    """
    file = Path(path).resolve()
    state = file_state(file)
    place = hashlib.blake2b(f"{algorithm}\0".encode() + os.fsencode(file), digest_size=16).hexdigest()
    memory = hash_memory() / place
    with suppress(OSError, ValueError):
        known, mark = memory.read_text("ascii").split()
        if mark == _mark(place, state, known):
            return known
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: _digest(algorithm)).hexdigest()
    if is_settled(state) and file_state(file) == state:
        with suppress(OSError):
            atomic_write_bytes(memory, f"{found} {_mark(place, state, found)}\n".encode())
    return found


def hash_memory() -> Path:
    """The folder in the user's cache where :func:`content_hash` remembers, a small file for each file that it read."""
    return Path(os.path.expanduser("~/.cache/manifoldgd/hashes"))


def _digest(algorithm: str) -> Any:
    return hashlib.blake2b(digest_size=16) if algorithm == "blake2b" else hashlib.new(algorithm)


def _mark(place: str, state: tuple[int, int, int, int], digest: str) -> str:
    return hashlib.blake2b(f"{place}\0{state}\0{digest}".encode(), digest_size=16).hexdigest()


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable; platforms that cannot open a folder do without."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
