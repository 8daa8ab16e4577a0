"""An array written row after row, which a process that was killed leaves to the next one.

The file is NumPy's, at its full size from the start: a disk without room for it is found before any work, and nothing
is written through a memory map, where a full disk would end the process without a word. Beside it lies a list of how
far it is filled, each line with the checksum of the rows since the line before.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from manifoldgd.files import atomic_write_text

Line = dict[str, Any]

NOTE_SECONDS = 1.0  # between two lines: what a kill costs at most, and a fraction of what flushing takes
_BLOCK = 1 << 24  # bytes read at a time


class RowWriter:
    """Fills an array ``[N, ...]`` of floats from its first row on; a context manager.

    Args:
        file: of the array; its list lies beside it, with the suffix ``.filled``.
        shape: of the array, rows first.
        batch: rows that are computed together. An array that was begun with another number is begun anew, as its rows
            would differ in rounding from those of an array filled in one go.
        dtype: of its numbers.

    Raises:
        OSError: the disk has no room for the array, or is not writable.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], batch: int, dtype: type[np.floating[Any]]) -> None:
        self.list = file.with_suffix(".filled")
        self._dtype = np.dtype(dtype).newbyteorder("<")
        header = _header(shape, self._dtype)
        self._first, self._row = len(header), self._dtype.itemsize * int(np.prod(shape[1:]))
        head: Line = {"shape": list(shape), "batch": batch}
        self.rows, notes = self._filled(file, header, head)
        if self.rows == 0:
            file.unlink(missing_ok=True)
        self._handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _reserve(self._handle, len(header) + shape[0] * self._row, file)
            os.pwrite(self._handle, header, 0)
            atomic_write_text(self.list, "".join(json.dumps(line) + "\n" for line in (head, *notes)))
        except OSError:
            os.close(self._handle)
            raise
        self._noted, self._since, self._digest = self.rows, time.monotonic(), _digest()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._note()
        except OSError:
            if error is None:  # else what ended the work is the news
                raise
        finally:
            os.close(self._handle)

    def append(self, values: np.ndarray) -> None:
        """Write the next rows ``[n, ...]``."""
        data = np.ascontiguousarray(values, dtype=self._dtype).data.cast("B")
        start = self._first + self.rows * self._row
        written = 0
        while written < len(data):
            written += os.pwrite(self._handle, data[written:], start + written)
        self._digest.update(data)
        self.rows += len(values)
        if time.monotonic() - self._since > NOTE_SECONDS:
            self._note()

    def _note(self) -> None:
        """Say that the rows so far are on the disk."""
        if self.rows > self._noted:
            os.fsync(self._handle)
            with self.list.open("a") as stream:
                stream.write(json.dumps({"rows": self.rows, "checksum": self._digest.hexdigest()}) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        self._noted, self._since, self._digest = self.rows, time.monotonic(), _digest()

    def _filled(self, file: Path, header: bytes, head: Line) -> tuple[int, list[Line]]:
        """The rows that an earlier process left and that are as it left them, and the lines that say so."""
        rows, notes = 0, []
        with suppress(OSError, ValueError, KeyError, TypeError), file.open("rb") as stream:
            first, *lines = self.list.read_text().splitlines()
            if json.loads(first) != head or stream.read(len(header)) != header:
                return 0, []
            for note in map(json.loads, lines):
                digest = _digest()
                for block in _blocks(stream, (note["rows"] - rows) * self._row):
                    digest.update(block)
                if not rows < note["rows"] <= head["shape"][0] or digest.hexdigest() != note["checksum"]:
                    break
                rows = note["rows"]
                notes.append(note)
        return rows, notes


def _digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _blocks(stream: io.BufferedReader, count: int) -> Iterator[bytes]:
    while count > 0 and (block := stream.read(min(count, _BLOCK))):
        count -= len(block)
        yield block


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    stream = io.BytesIO()
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def _reserve(handle: int, size: int, file: Path) -> None:
    try:
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            os.posix_fallocate(handle, 0, size)
        os.ftruncate(handle, size)
    except OSError as error:
        # Some file systems cannot; a full disk is then an error of the write that meets it.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise OSError(error.errno, f"{error.strerror}, {size / 2**20:,.0f} MiB are needed", str(file)) from error
