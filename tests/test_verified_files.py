"""A file that was checked is not opened again, and one that changed is."""

import importlib
import inspect
import os

import pytest
from PIL import Image

from manifoldgd.data import image_folder, verified
from manifoldgd.data.image_files import class_files
from manifoldgd.errors import UserError


@pytest.fixture
def photos(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            Image.new("L", (8, 8), 7).save(tmp_path / "photos" / split / name / "0.png")
    return tmp_path / "photos"


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that were checked, as they are checked."""
    names = []
    check = verified.check_files

    def watched(paths):
        names.extend(f"{path.parent.name}/{path.name}" for path in paths)
        check(paths)

    monkeypatch.setattr(verified, "check_files", watched)
    return names


def files(photos):
    return [file for name in ("cat", "dog") for file in class_files(photos / "train" / name)]


def test_only_new_and_changed_files_are_opened(photos, opened, tmp_path):
    record = tmp_path / "record.bin"
    verified.check_new_files(files(photos), record)
    assert opened == ["cat/0.png", "dog/0.png"]
    verified.check_new_files(files(photos), record)
    assert len(opened) == 2
    Image.new("L", (9, 9)).save(photos / "train" / "dog" / "1.png")
    verified.check_new_files(files(photos), record)
    assert opened[2:] == ["dog/1.png"]
    verified.check_new_files(files(photos)[:1], record)  # fewer classes, and then all again
    verified.check_new_files(files(photos), record)
    assert len(opened) == 3


def test_a_file_that_is_damaged_later_is_found(photos, tmp_path):
    record = tmp_path / "record.bin"
    verified.check_new_files(files(photos), record)
    file = photos / "train" / "cat" / "0.png"
    times, whole = file.stat(), file.read_bytes()
    file.write_bytes(b"x" * len(whole))  # of the same size, with the time of writing put back
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    for _ in range(2):  # a bad file is never remembered
        with pytest.raises(UserError, match=r"cat/0\.png is not an image file"):
            verified.check_new_files(files(photos), record)
    file.write_bytes(whole)
    verified.check_new_files(files(photos), record)


@pytest.mark.parametrize("held", [b"", b"short", b"y" * 33])
def test_a_record_that_says_nothing_is_made_again(photos, opened, tmp_path, held):
    record = tmp_path / "record.bin"
    record.write_bytes(held)
    for _ in range(2):
        verified.check_new_files(files(photos), record)
    assert len(opened) == 2


def test_a_record_that_cannot_be_written_is_done_without(photos, opened, tmp_path):
    (tmp_path / "file").touch()
    for _ in range(2):
        verified.check_new_files(files(photos), tmp_path / "file" / "record.bin")
    assert len(opened) == 4


def test_other_checks_are_made_again(photos, opened, monkeypatch, tmp_path):
    record = tmp_path / "record.bin"
    verified.check_new_files(files(photos), record)
    monkeypatch.setattr(verified, "CHECKS", verified.CHECKS + 1)
    verified.check_new_files(files(photos), record)
    assert len(opened) == 4


def test_the_dataset_remembers_in_the_user_s_cache(photos, opened, monkeypatch, tmp_path):
    module = importlib.import_module("manifoldgd.data.image_folder")
    monkeypatch.setattr(module, "record_of", verified.record_of)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    numbers = dict.fromkeys(inspect.signature(image_folder).parameters)
    numbers |= {"folder": str(photos), "train": "train", "test": "test", "image_size": 8, "channels": 1, "flip": True}
    for _ in range(2):
        image_folder(**numbers)
    assert len(opened) == 4
    assert len(list((tmp_path / "home" / ".cache" / "manifoldgd" / "verified").iterdir())) == 1
