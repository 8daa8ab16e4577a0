"""Image folders with something wrong: every message names the file or the key."""

import os
import unicodedata

import numpy as np
import pytest
import torch
from data_parts import SAMPLES, load_folder, message_of, write_image
from PIL import Image

from manifoldgd.data import contents
from manifoldgd.data.image_files import MOST_PIXELS, class_files
from manifoldgd.data.transforms import eight_bit, is_convertible


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(image_size=0), "image_size"),
        (dict(channels=4), "channels"),
        (dict(white=0), "white"),
        (dict(white=65536), "white"),
        (dict(white=4095), "white: expected null, as no image has 16 bits"),
        (dict(name="../../pets"), "name"),
        (dict(name="a: b"), "name"),
        (dict(name='a"'), "name"),
        (dict(name="a\nb"), "name"),
        (dict(name=""), "name"),
        (dict(name=".."), "name"),
        (dict(name="a" * 101), "name"),
        (dict(train_per_class=0, validation=None), "train_per_class"),
        (dict(folder=""), "folder"),
        (dict(test="validation"), "test"),
        (dict(train="fit"), "train"),
        (dict(test="train"), "test"),
        (dict(classes=[]), "classes"),
        (dict(classes=["cat", "cat"]), "classes"),
        (dict(classes=["cat", "cow"]), "classes: no class folder 'cow'"),
        (dict(prior_labels={"cat": 1}), "prior_labels: expected a label for every class, got none for 'dog'"),
        (dict(prior_labels={"cat": 1, "dog": 1}), "prior_labels"),
        (dict(prior_labels={"cat": 1, "dog": -1}), "prior_labels"),
        (dict(prior_labels={"cat": 1, "dog": "x"}), "prior_labels"),
        (dict(mean=[0.5]), "mean"),
        (dict(std=[0.5, 0.5]), "std"),
        (dict(std=[0.5, 0.5, 0.0]), "std"),
        (dict(std=[0.5, 0.5, 1e-9]), "std"),
        (dict(std=[0.5, 0.5, float("inf")]), "std"),
        (dict(mean=[0.5, 0.5, -3.0]), "mean"),
        (dict(mean=[0.5, 0.5, float("nan")]), "mean"),
    ],
)
def test_bad_argument_names_its_key(pets, changes, says):
    assert message_of(load_folder, pets, **changes).startswith(says)


def test_missing_folder_is_named(tmp_path):
    message = message_of(load_folder, tmp_path / "nowhere")
    assert message.startswith("folder")
    assert str(tmp_path / "nowhere") in message


def test_missing_subfolder_lists_what_is_there(pets):
    (pets / "test").rename(pets / "val")
    message = message_of(load_folder, pets)
    assert message.startswith("test")
    assert "train, val" in message
    assert str(pets) in message


def test_differing_class_folders_are_named(pets):
    write_image(pets / "train" / "bird" / "0.png", "RGB", (8, 8), 0)
    (pets / "test" / "cat").rename(pets / "test" / "cow")
    message = message_of(load_folder, pets)
    assert message.startswith("folder")
    assert "only in train: 'bird', 'cat'" in message
    assert "only in test: 'cow'" in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_class_is_named(pets, split):
    for path in (pets / split / "dog").iterdir():
        path.unlink()
    (pets / split / "dog" / ".DS_Store").touch()
    message = message_of(load_folder, pets)
    assert message.startswith("folder")
    assert str(pets / split / "dog") in message
    assert "no images" in message


def test_no_class_folders_at_all(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    message = message_of(load_folder, tmp_path)
    assert str(tmp_path / "train") in message
    assert "one folder a class" in message


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train/cat/notes.txt", b"hello", "is not an image file"),
        ("test/dog/notes.txt", b"hello", "is not an image file"),
        ("train/cat/fake.jpg", b"hello", "whatever its name says"),
        ("test/cat/fake.png", b"", "whatever its name says"),
        ("test/cat/fake.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image file"),
        ("test/cat/fake.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "whatever its name says"),
    ],
)
def test_file_that_is_no_image_is_named(pets, name, content, says):
    (pets / name).write_bytes(content)
    message = message_of(load_folder, pets)
    assert message.startswith("folder")
    assert str(pets / name) in message
    assert says in message


def test_folder_in_a_class_folder_is_named(pets):
    (pets / "train/cat/images").mkdir()
    message = message_of(load_folder, pets)
    assert message.startswith("folder")
    assert f"{pets / 'train/cat/images'} is a folder" in message


@pytest.mark.parametrize("name", [*SAMPLES, "test/cat/x.jpg", "test/cat/x.png", "train/dog/x.tiff"])
@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_truncated_image_is_named_at_construction(pets, name, keep):
    if not (pets / name).exists():
        write_image(pets / name, "RGB", (40, 40), 0)
    whole = (pets / name).read_bytes()
    (pets / name).write_bytes(whole[: int(len(whole) * keep)])
    message = message_of(load_folder, pets)
    assert message.startswith("folder")
    assert str(pets / name) in message
    assert "truncated" in message


@pytest.mark.parametrize("name", ["test/cat/x.jpg", "test/cat/x.png"])
@pytest.mark.parametrize("cut", [1, 2, 12])
def test_a_missing_end_marker_alone_is_noticed(pets, name, cut):
    write_image(pets / name, "RGB", (40, 40), 0)
    (pets / name).write_bytes((pets / name).read_bytes()[:-cut])
    assert str(pets / name) in message_of(load_folder, pets)


def test_several_bad_files_are_counted(pets):
    for name in ("train/cat/5.png", "train/dog/5.png", "test/dog/5.png"):
        (pets / name).write_bytes(b"no")
    message = message_of(load_folder, pets)
    assert str(pets / "train/cat/5.png") in message
    assert "(3 bad files in all)" in message


def test_no_file_escapes_the_check(pets, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "PART", 40)
    (bad_folder := tmp_path / "bad").mkdir()
    for name in ("0.png", "1.png"):
        (bad_folder / name).write_bytes(b"no" + name.encode())
    (good, *_), (first, last) = class_files(pets / "train/cat")[0], class_files(bad_folder)[0]
    files = [good] * 33 + [first] + [good] * 100 + [last]
    found, faults = contents.contents_of(files, tmp_path / "record")
    assert [place for place, each in enumerate(found) if each is None] == [33, 134]
    assert [str(bad.path) in fault for bad, fault in zip((first, last), faults, strict=True)] == [True, True]


@pytest.mark.parametrize("split", ["train", "test"])
def test_damage_inside_a_file_is_found_before_any_work(pets, split):
    path = pets / split / "cat" / "9.png"
    write_image(path, "RGB", (12, 9), 0)
    content = bytearray(path.read_bytes())
    start = content.index(b"IDAT") + 4
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    message = message_of(load_folder, pets)
    assert message.startswith("folder")
    assert str(path) in message
    write_image(path, "RGB", (12, 9), 0)
    load_folder(pets)


def test_image_that_vanished_is_named_when_decoding(pets):
    dataset = load_folder(pets)
    (pets / "train/dog/1.png").unlink()
    assert str(pets / "train/dog/1.png") in message_of(dataset.train.images)


def test_floating_point_pixels_are_refused(pets):
    Image.fromarray(np.ones((8, 8), np.float32)).save(pets / "train/cat/7.tiff")
    message = message_of(load_folder, pets)
    assert str(pets / "train/cat/7.tiff") in message
    assert "mode F" in message


def test_inputs_are_not_modified(pets):
    classes, mapping, mean = ["dog", "cat"], {"cat": 1, "dog": 2}, [0.1, 0.2, 0.3]
    load_folder(pets, classes=classes, prior_labels=mapping, mean=mean)
    assert (classes, mapping, mean) == (["dog", "cat"], {"cat": 1, "dog": 2}, [0.1, 0.2, 0.3])


def test_all_bad_files_are_listed_at_once_up_to_a_few(pets):
    bad = [pets / f"train/cat/x{number:02}.png" for number in range(24)]
    for number, path in enumerate(bad):
        path.write_bytes(b"no%d" % number)
    (pets / "test/dog/notes.txt").touch()
    (pets / "test/dog/more").mkdir()
    message = message_of(load_folder, pets)
    assert sum(str(path) in message for path in bad) == 18
    assert str(pets / "test/dog/notes.txt") in message
    assert str(pets / "test/dog/more") in message
    assert "and 6 more (26 bad files in all)" in message
    assert "skip_bad=true" in message


def test_bad_files_can_be_left_out(pets, capsys):
    before = load_folder(pets)
    for name in ("train/cat/0a.png", "test/dog/9.jpg"):
        (pets / name).write_bytes(b"no")
    (pets / "train/dog/notes.txt").touch()
    message_of(load_folder, pets)
    for _ in range(2):  # what was found bad before counts too
        dataset = load_folder(pets, skip_bad=True)
        said = capsys.readouterr().err
        assert "dataset.skip_bad: left out, 3 bad files in all beside 10" in said
        assert str(pets / "train/cat/0a.png") in said
    assert dataset.train_fingerprint == before.train_fingerprint
    assert dataset.test_fingerprint == before.test_fingerprint
    assert torch.equal(dataset.train.images(), before.train.images())


def test_a_class_without_a_readable_image_is_named(pets):
    for file in (pets / "train/dog").iterdir():
        file.write_bytes(b"no")
    assert "class 'dog' has no training image" in message_of(load_folder, pets, skip_bad=True)


def test_kinds_of_pixel_without_a_way_to_rgb_are_named_on_load(pets):
    Image.new("LAB", (8, 8)).save(pets / "test/dog/9.tif")
    message = message_of(load_folder, pets)
    assert f"{pets / 'test/dog/9.tif'} has pixels of a kind that has no way to RGB here (mode LAB)" in message
    assert "truncated" not in message


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_kinds_of_pixel_that_are_taken_for_convertible_are(mode):
    image = Image.new(mode, (8, 8))
    assert is_convertible(image)
    for channels, name in ((1, "L"), (3, "RGB")):
        assert eight_bit(image, channels).mode == name


def test_images_too_large_are_named_on_load_with_the_limit(pets):
    Image.new("1", (MOST_PIXELS // 1000 + 1000, 1000)).save(pets / "train/dog/9.png")
    message = message_of(load_folder, pets)
    assert f"{pets / 'train/dog/9.png'} is too large, at most {MOST_PIXELS:,} pixels" in message
    assert "damaged" not in message
    assert MOST_PIXELS == 2 * Image.MAX_IMAGE_PIXELS  # the limit is Pillow's


def test_names_are_matched_whatever_their_unicode_form(pets):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        (pets / split / "cat").rename(pets / split / unicodedata.normalize(form, "caf\u00e9"))
    dataset = load_folder(pets)
    assert dataset.class_names == ("caf\u00e9", "dog")
    assert len(dataset.test.images()) == 3
    chosen = load_folder(pets, classes=["cafe\u0301"])
    assert (len(chosen.train), len(chosen.test)) == (3, 1)
    write_image(pets / "train" / "cafe\u0301" / "0.png", "RGB", (8, 8), 0)
    assert "in different Unicode forms; join them" in message_of(load_folder, pets)


def test_class_folders_that_are_not_utf8_are_to_be_renamed(pets):
    for split in ("train", "test"):
        os.rename(pets / split / "cat", os.fsencode(pets / split) + b"/caf\xe9")
    message = message_of(load_folder, pets)
    assert message.startswith("folder: the name of class folder")
    assert "caf\\xe9 is not UTF-8; rename it" in message
    message.encode("utf-8")


def test_bad_files_whose_names_are_not_utf8_can_be_named(pets):
    with open(os.fsencode(pets / "train/cat") + b"/\xe9.png", "wb") as file:
        file.write(b"no")
    message = message_of(load_folder, pets)
    assert "train/cat/\\xe9.png" in message
    message.encode("utf-8")


@pytest.mark.parametrize("split", ["train", "test"])
def test_unsorted_images_are_called_so(pets, split):
    for folder in sorted((pets / split).iterdir()):
        for file in sorted(folder.iterdir()):
            file.rename(pets / split / f"{folder.name}_{file.name}")
        folder.rmdir()
    message = message_of(load_folder, pets)
    count = sum(name.startswith(split) for name in SAMPLES)
    assert f"{pets / split} has {count} images and no class folders, so they are unsorted" in message


def test_classes_without_splits_are_recognised(pets):
    message = message_of(load_folder, pets / "train")
    assert message.startswith("train: expected a subfolder 'train'")
    assert "seem to be classes" in message


def test_numbers_are_names_where_they_are_exact(pets):
    for split in ("train", "test"):
        (pets / split / "cat").rename(pets / split / "7")
        (pets / split / "dog").rename(pets / split / "03")
    assert load_folder(pets, classes=[7]).class_names == ("7",)
    message = message_of(load_folder, pets, classes=[3, 7])
    assert message.startswith("classes: no class folder '3'")
    assert "needs quotes" in message


@pytest.mark.parametrize("name", ["photos", "a 1", "lr=0.1,(x) [y]", "caf\u00e9", "r\u00e9sum\u00e9-2", "x&y~1", "7"])
def test_ordinary_names_are_taken(pets, name):
    assert load_folder(pets, name=name).name == name


def test_statistics_in_grey_levels_are_recognised(pets):
    for change in (dict(mean=[122.0] * 3), dict(std=[57.0, 57.0, 57.0])):
        assert "divide by 255" in message_of(load_folder, pets, **change)
