"""Files are whole or absent, and hashed whole and once."""

import hashlib
import math
import os

import pytest

from manifoldgd import files
from manifoldgd.files import (
    atomic_path,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    content_hash,
    file_state,
    is_settled,
)


def test_atomic_path_replaces_whole_content_and_keeps_the_suffix(tmp_path):
    target = tmp_path / "new" / "a.npz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".npz"
        assert temporary != target
        temporary.write_bytes(b"one")
        assert not target.exists()
    atomic_write_bytes(target, b"two")
    assert target.read_bytes() == b"two"
    assert os.listdir(target.parent) == ["a.npz"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_writer_leaves_the_old_file_and_no_other(tmp_path, error):
    target = tmp_path / "a.txt"
    atomic_write_text(target, "old")
    with pytest.raises(error), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failing_rename_leaves_no_temporary(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        atomic_write_text(tmp_path / "a.txt", "new")
    assert os.listdir(tmp_path) == []


def test_files_have_the_mode_of_ordinary_new_files(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic_write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_utf8_and_refuses_what_json_cannot_say(tmp_path):
    atomic_write_json(tmp_path / "a.json", {"name": "Größe", "none": None})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "name": "Größe",\n  "none": null\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        atomic_write_json(tmp_path / "b.json", {"a": math.nan})
    with pytest.raises(TypeError):
        atomic_write_json(tmp_path / "b.json", {"a": object()})
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """The folder of remembered hashes; changes are told apart at once."""
    monkeypatch.setattr(files, "hash_memory", lambda: tmp_path / "memory")
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    return tmp_path / "memory"


@pytest.fixture
def read(monkeypatch):
    """How often a file was read to be hashed."""
    times, whole = [], hashlib.file_digest
    monkeypatch.setattr(files.hashlib, "file_digest", lambda *given: times.append(1) or whole(*given))
    return times


def test_a_hash_is_of_the_whole_file_and_remembered(tmp_path, memory, read):
    file = tmp_path / "x"
    file.write_bytes(bytes(range(256)) * 5000)
    known = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    assert [content_hash(file), content_hash(file), content_hash(str(file))] == [known] * 3
    assert len(read) == 1
    assert content_hash(file, "sha256") == hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "link").symlink_to(file)
    assert content_hash(tmp_path / "link") == known
    assert len(read) == 2


def test_a_change_is_seen_whatever_its_times_say(tmp_path, memory):
    file = tmp_path / "x"
    file.write_bytes(b"one")
    os.utime(file, ns=(5, 5))
    first = content_hash(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(5, 5))
    assert content_hash(file) == hashlib.blake2b(b"two", digest_size=16).hexdigest() != first
    atomic_write_bytes(file, b"one")  # another inode
    assert content_hash(file) == first


def test_what_was_just_written_is_not_remembered(tmp_path, memory, read, monkeypatch):
    monkeypatch.setattr(files, "SETTLED_SECONDS", 3600.0)
    (tmp_path / "x").write_bytes(b"one")
    assert not is_settled(file_state(tmp_path / "x"))
    assert content_hash(tmp_path / "x") == content_hash(tmp_path / "x")
    assert len(read) == 2


def test_a_damaged_memory_is_not_believed(tmp_path, memory, read):
    file = tmp_path / "x"
    file.write_bytes(b"one")
    known = content_hash(file)
    (note,) = memory.iterdir()
    whole = note.read_bytes()
    for position in range(len(whole) - 1):
        note.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert content_hash(file) == known
    note.write_bytes(bytes(200))
    assert content_hash(file) == known
    assert len(read) == 1 + len(whole)


def test_a_memory_that_cannot_be_kept_is_done_without(tmp_path, memory, read):
    (tmp_path / "x").write_bytes(b"one")
    memory.write_text("a file where the folder should be")
    assert content_hash(tmp_path / "x") == content_hash(tmp_path / "x")
    assert len(read) == 2
    with pytest.raises(FileNotFoundError):
        content_hash(tmp_path / "nothing")
