"""Files are whole or absent."""

import math
import os

import pytest

from manifoldgd.files import atomic_path, atomic_write_bytes, atomic_write_json, atomic_write_text


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
