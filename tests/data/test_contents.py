"""A file that was checked is not read again, one that was touched is read and not decoded, and one that changed is."""

import importlib
import os

import pytest
from PIL import Image

from manifoldgd.data import contents, image_files, image_folder
from manifoldgd.data.image_files import class_files
from manifoldgd.ranges import parameters_of


@pytest.fixture
def photos(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            grey = {"train": 100, "test": 200}[split] + ord(name[0])
            Image.new("L", (8, 8), grey % 256).save(tmp_path / "photos" / split / name / "0.png")
    return tmp_path / "photos"


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that were read, as they are read."""
    names = []
    read = contents.read_contents

    def watched(pictures, *others):
        names.extend(f"{each.path.parent.name}/{each.name}" for each in pictures)
        return read(pictures, *others)

    monkeypatch.setattr(contents, "read_contents", watched)
    return names


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded, as they are decoded."""
    names = []
    decode = image_files._decoded

    def watched(picture, *others):
        names.append(f"{picture.path.parent.name}/{picture.name}")
        return decode(picture, *others)

    monkeypatch.setattr(image_files, "_decoded", watched)
    return names


def files(photos):
    return [file for name in ("cat", "dog") for file in class_files(photos / "train" / name)[0]]


def test_only_new_and_changed_files_are_opened(photos, opened, tmp_path):
    record = tmp_path / "record.bin"
    contents.contents_of(files(photos), record)
    assert opened == ["cat/0.png", "dog/0.png"]
    contents.contents_of(files(photos), record)
    assert len(opened) == 2
    Image.new("L", (9, 9)).save(photos / "train" / "dog" / "1.png")
    contents.contents_of(files(photos), record)
    assert opened[2:] == ["dog/1.png"]
    contents.contents_of(files(photos)[:1], record)  # fewer classes, and then all again
    contents.contents_of(files(photos), record)
    assert len(opened) == 3


def test_a_file_that_is_damaged_later_is_found(photos, tmp_path):
    record = tmp_path / "record.bin"
    contents.contents_of(files(photos), record)
    file = photos / "train" / "cat" / "0.png"
    times, whole = file.stat(), file.read_bytes()
    file.write_bytes(b"x" * len(whole))  # of the same size, with the time of writing put back
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    for _ in range(2):  # a bad file is never remembered
        found, (fault,) = contents.contents_of(files(photos), record)
        assert "cat/0.png is not an image file" in fault
        assert [each is None for each in found] == [True, False]
    file.write_bytes(whole)
    contents.contents_of(files(photos), record)


@pytest.mark.parametrize("held", [b"", b"short", b"y" * 33])
def test_a_record_that_says_nothing_is_made_again(photos, opened, tmp_path, held):
    record = tmp_path / "record.bin"
    record.write_bytes(held)
    for _ in range(2):
        contents.contents_of(files(photos), record)
    assert len(opened) == 2


def test_a_record_that_cannot_be_written_is_done_without(photos, opened, tmp_path):
    (tmp_path / "file").touch()
    for _ in range(2):
        contents.contents_of(files(photos), tmp_path / "file" / "record.bin")
    assert len(opened) == 4


def test_other_checks_are_made_again(photos, opened, monkeypatch, tmp_path):
    record = tmp_path / "record.bin"
    contents.contents_of(files(photos), record)
    monkeypatch.setattr(contents, "CHECKS", contents.CHECKS + 1)
    contents.contents_of(files(photos), record)
    assert len(opened) == 4


def test_the_dataset_remembers_in_the_user_s_cache(photos, opened, monkeypatch, tmp_path):
    for name in ("image_folder", "image_dataset"):
        monkeypatch.setattr(importlib.import_module(f"manifoldgd.data.{name}"), "record_of", contents.record_of)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    numbers = dict.fromkeys(parameters_of(image_folder))
    numbers |= {"folder": str(photos), "train": "train", "test": "test", "image_size": 8, "channels": 1, "flip": True}
    for _ in range(2):
        image_folder(**numbers)
    assert len(opened) == 4
    records = (tmp_path / "home" / ".cache" / "manifoldgd" / "contents").iterdir()
    assert sorted(each.suffix for each in records) == [".bin", ".json"]


def test_what_was_touched_is_read_and_not_decoded(photos, opened, decoded, tmp_path):
    record = tmp_path / "record.bin"
    before = contents.contents_of(files(photos), record)
    assert decoded == ["cat/0.png", "dog/0.png"]
    os.utime(photos / "train" / "dog" / "0.png", ns=(0, 0))
    (photos / "train" / "dog" / "0.png").rename(photos / "train" / "dog" / "1.png")
    assert contents.contents_of(files(photos), record) == before
    assert opened[2:] == ["dog/1.png"]
    assert len(decoded) == 2


@pytest.mark.parametrize("place", [3, 20, -1])
def test_a_damaged_record_is_not_believed(photos, opened, tmp_path, place):
    record = tmp_path / "record.bin"
    right = contents.contents_of(files(photos), record)
    held = bytearray(record.read_bytes())
    held[place] ^= 1
    record.write_bytes(held)
    assert contents.contents_of(files(photos), record) == right
    assert len(opened) == 4


def test_good_files_are_remembered_beside_bad_ones(photos, opened, tmp_path):
    record = tmp_path / "record.bin"
    bad = photos / "train" / "dog" / "1.png"
    bad.write_bytes(b"no")
    assert "dog/1.png" in contents.contents_of(files(photos), record)[1][0]
    Image.new("L", (8, 8), 9).save(bad)
    contents.contents_of(files(photos), record)
    assert opened == ["cat/0.png", "dog/0.png", "dog/1.png", "dog/1.png"]


def test_a_long_check_says_how_far_it_is(photos, capsys, monkeypatch, tmp_path):
    contents.contents_of(files(photos), tmp_path / "one.bin")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(contents, "ANNOUNCED", 2)
    contents.contents_of(files(photos), tmp_path / "two.bin")
    assert "check 2 image files" in capsys.readouterr().out


def test_equal_pixels_are_equal_pictures_in_whatever_file(tmp_path):
    (tmp_path / "a").mkdir()
    picture = Image.radial_gradient("L").resize((9, 7))
    picture.save(tmp_path / "a" / "0.png")
    picture.convert("RGB").save(tmp_path / "a" / "1.bmp")
    picture.save(tmp_path / "a" / "2.png", compress_level=0)
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "a" / "3.png")
    (one, two, three, other), _ = contents.contents_of(class_files(tmp_path / "a")[0], tmp_path / "record.bin")
    assert one.picture == two.picture == three.picture != other.picture
    assert len({one.file, two.file, three.file, other.file}) == 4


def test_former_names_of_equal_contents_are_remembered(tmp_path):
    record = tmp_path / "record.bin"
    assert contents.former_names("a", ("t", "e"), record) == ("a",)
    assert contents.former_names("b", ("t", "e"), record) == ("b", "a")  # files were touched
    assert contents.former_names("c", ("t", "other"), record) == ("c",)
    assert contents.former_names("a", ("t", "other"), record) == ("a", "c")
    record.with_suffix(".json").write_text("[1]")
    assert contents.former_names("b", ("t", "e"), record) == ("b",)
