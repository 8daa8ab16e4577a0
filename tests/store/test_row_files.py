"""Arrays written row after row: as if written at once, continued after a kill, and no full disk without a word."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from small_disk import small_disk

from manifoldgd.store import rows as module
from manifoldgd.store.rows import RowWriter

SHAPE = (10, 2, 3)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture(autouse=True)
def note_each_batch(monkeypatch):
    monkeypatch.setattr(module, "NOTE_SECONDS", -1.0)


def fill(file, *, until=10, batch=4):
    with RowWriter(file, SHAPE, batch, np.float32) as writer:
        start = writer.rows
        for first in range(start, 10, batch):
            if first >= until:
                raise KeyboardInterrupt
            writer.append(VALUES[first : first + batch])
    return start


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_file_is_numpy_s_to_the_last_byte(tmp_path, dtype):
    for first in (0, 4, 8):  # a writer each, as after a stop
        with RowWriter(tmp_path / "x.npy", SHAPE, 4, dtype) as writer:
            assert writer.rows == first
            writer.append(VALUES[first : first + 4])
    other = np.lib.format.open_memmap(tmp_path / "y.npy", mode="w+", dtype=dtype, shape=SHAPE)
    other[:] = VALUES
    other.flush()
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()


def test_what_a_stopped_process_left_is_kept(tmp_path):
    file = tmp_path / "x.npy"
    with suppress(KeyboardInterrupt):
        fill(file, until=8)
    assert fill(file) == 8
    assert np.array_equal(np.load(file), VALUES)
    assert fill(file) == 10


def test_rows_that_were_not_noted_are_written_again(tmp_path):
    file = tmp_path / "x.npy"
    fill(file)
    lines = (tmp_path / "x.filled").read_text()
    (tmp_path / "x.filled").write_text(lines[: lines.index("\n", lines.index('"rows": 8')) - 5])  # killed while writing
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert fill(file) == 4
    assert np.array_equal(np.load(file), VALUES)
    lines = (tmp_path / "x.filled").read_text().splitlines()
    assert [json.loads(line).get("rows") for line in lines] == [None, 4, 8, 10]


@pytest.mark.parametrize(("row", "kept"), [(0, 0), (5, 4), (9, 8)])
def test_damaged_rows_are_written_again(tmp_path, row, kept):
    file = tmp_path / "x.npy"
    fill(file)
    data = bytearray(file.read_bytes())
    data[len(data) - (10 - row) * 24 + 7] ^= 0x40
    file.write_bytes(data)
    assert fill(file) == kept
    assert np.array_equal(np.load(file), VALUES)


def test_every_flipped_byte_of_the_list_costs_rows_at_most(tmp_path):
    file, filled = tmp_path / "x.npy", tmp_path / "x.filled"
    fill(file)
    whole = filled.read_bytes()
    for position in range(len(whole)):
        filled.write_bytes(whole[:position] + bytes([whole[position] ^ 0x01]) + whole[position + 1 :])
        assert fill(file) in (0, 4, 8, 10)
        assert np.array_equal(np.load(file), VALUES)


@pytest.mark.parametrize("change", [{"batch": 5}, {"shape": (11, 2, 3)}, {"dtype": np.float64}])
def test_another_array_or_other_batches_begin_anew(tmp_path, change):
    file = tmp_path / "x.npy"
    fill(file)
    with RowWriter(file, **{"shape": SHAPE, "batch": 4, "dtype": np.float32} | change) as writer:
        assert writer.rows == 0
        assert os.path.getsize(file) > len(VALUES) * 24


def test_a_killed_process_loses_what_it_had_not_noted(tmp_path):
    code = (
        "import numpy, os, pathlib, sys; from manifoldgd.store import rows; rows.NOTE_SECONDS = -1\n"
        "writer = rows.RowWriter(pathlib.Path(sys.argv[1]), (10, 2, 3), 4, numpy.float32)\n"
        "for _ in range(2): writer.append(numpy.ones((4, 2, 3)))\n"
        "os.kill(os.getpid(), 9)"
    )
    file = tmp_path / "x.npy"
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == -9
    with RowWriter(file, SHAPE, 4, np.float32) as writer:
        assert writer.rows == 8


def test_a_full_disk_is_an_error_before_any_work(tmp_path):
    with small_disk(tmp_path / "disk", "200k") as disk:
        with pytest.raises(OSError, match=r"No space left on device, .*MiB are needed.*x\.npy") as caught:
            RowWriter(disk / "x.npy", (10_000, 4, 4, 4), 64, np.float32)
        assert caught.value.errno == 28


def test_a_disk_that_cannot_reserve_says_so_when_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_reserve", lambda *_: None)
    with small_disk(tmp_path / "disk", "200k") as disk:
        writer = RowWriter(disk / "x.npy", (10_000, 64), 64, np.float32)
        with pytest.raises(OSError, match="No space left"), writer:  # noqa: PT012  the block is what fails
            for _ in range(100):
                writer.append(np.ones((64, 64), np.float32))
