"""Image folders: layout, order, statistics, and what does not decide the fingerprint."""

import hashlib
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from data_parts import SAMPLES, load_folder, message_of, noise_image, write_image
from PIL import Image

from manifoldgd.data.transforms import image_tensor
from manifoldgd.errors import UserError
from manifoldgd.pipeline.classifiers import embedding_key
from manifoldgd.store.keys import key_of


def fingerprints(dataset):
    return dataset.train_fingerprint, dataset.test_fingerprint


def expected_tensor(path, channels=3):
    with Image.open(path) as image:
        return image_tensor(image, 8, channels)


def test_folder_layout_becomes_a_dataset(pets):
    dataset = load_folder(pets)
    assert (dataset.name, dataset.class_names, dataset.image_shape) == ("pets", ("cat", "dog"), (3, 8, 8))
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.test.labels.tolist() == [0, 1, 1]
    assert (dataset.mean, dataset.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert dataset.prior_labels is None
    names = [name for name in SAMPLES if name.startswith("train")]
    expected = torch.stack([expected_tensor(pets / name) for name in names])
    assert torch.equal(dataset.train.images(chunk=2), expected)
    some = torch.tensor([4, 0, 0, 3])
    assert torch.equal(dataset.train.load(some), expected[some])
    assert dataset.train.load(some).dtype == torch.uint8
    assert dataset.train.load(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 8, 8)


def test_grey_folder_takes_grey_statistics(pets):
    dataset = load_folder(pets, channels=1)
    assert dataset.image_shape == (1, 8, 8)
    assert torch.equal(dataset.test.images()[0], expected_tensor(pets / "test/cat/0.webp", channels=1))
    assert dataset.mean == pytest.approx([0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406])
    assert load_folder(pets, channels=1, mean=[0.5], std=[0.25]).std == (0.25,)


def test_order_survives_many_images(tmp_path):
    for split in ("train", "test"):
        for index in range(40):
            side = 60 if index % 2 else 8  # slow and fast files in turn
            path = tmp_path / split / "only" / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (side, side), index).save(path)
    images = load_folder(tmp_path, channels=1).train.images()
    assert images[:, 0, 0, 0].tolist() == list(range(40))


def test_chosen_classes_keep_their_order_and_prior_labels(pets):
    mapping = {"cat": 281, "dog": 207, "unused": 3}
    dataset = load_folder(pets, classes=["dog", "cat"], prior_labels=mapping)
    assert dataset.class_names == ("dog", "cat")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert torch.equal(dataset.train.images()[0], expected_tensor(pets / "train/dog/0.png"))
    assert dataset.prior_labels == {"dog": 207, "cat": 281}
    assert "unused" in mapping
    write_image(pets / "train" / "bird" / "0.png", "RGB", (8, 8), 0)
    assert load_folder(pets, classes=["dog"]).class_names == ("dog",)


def test_split_names_and_train_limit(pets):
    (pets / "test").rename(pets / "val")
    dataset = load_folder(pets, test="val", train_per_class=2, validation=None)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(dataset.train.images()[1], expected_tensor(pets / "train/cat/1.jpg"))
    assert len(load_folder(pets, test="val", train_per_class=1, validation=None).test) == 3


def test_exif_orientation_is_honoured(pets):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise_image(8, 8, seed=5).save(pets / "train/cat/0.png", exif=exif)
    expected = np.asarray(noise_image(8, 8, seed=5).transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(load_folder(pets).train.images()[0].permute(1, 2, 0), expected)


def test_hidden_files_and_stray_files_beside_classes_are_ignored(pets):
    before = fingerprints(load_folder(pets))
    for name in ("train/.DS_Store", "train/cat/.DS_Store", "test/dog/Thumbs.db", "train/labels.csv"):
        (pets / name).write_bytes(b"\0")
    (pets / "train" / ".ipynb_checkpoints").mkdir()
    assert fingerprints(load_folder(pets)) == before


def test_fingerprints_follow_contents_and_settings(pets):
    before = fingerprints(load_folder(pets))
    assert fingerprints(load_folder(pets)) == before
    changes = [dict(image_size=9), dict(channels=1), dict(classes=["dog", "cat"])]
    seen = [before, *(fingerprints(load_folder(pets, **change)) for change in changes)]
    assert len({train for train, _ in seen}) == len({test for _, test in seen}) == 4
    train, test = fingerprints(load_folder(pets, train_per_class=1))
    assert (train != before[0], test == before[1]) == (True, True)
    write_image(pets / "train/cat/0.png", "RGB", (12, 9), 99)
    train, test = fingerprints(load_folder(pets))
    assert (train != before[0], test == before[1]) == (True, True)


def test_test_images_do_not_decide_what_training_images_are(pets):
    train, test = fingerprints(load_folder(pets))
    write_image(pets / "test/dog/0.gif", "P", (10, 8), 99)
    assert load_folder(pets).train_fingerprint == train
    assert load_folder(pets).test_fingerprint != test


def test_fingerprints_follow_neither_place_nor_time_nor_name(pets, tmp_path):
    before = fingerprints(load_folder(pets))
    moved = tmp_path / "moved"
    shutil.copytree(pets, moved, copy_function=shutil.copyfile)
    for path in moved.rglob("*.*"):
        os.utime(path, ns=(0, 7))
    (moved / "train/cat/0.png").rename(moved / "train/cat/00.png")  # its place among the others stays
    assert fingerprints(load_folder(moved)) == before


def former_fingerprint(root, size=8, channels=3):
    """As versions computed it that hashed places, sizes and times of both splits."""
    digest = hashlib.blake2b(repr(("upright-centre-crop-1", size, channels, ("cat", "dog"))).encode(), digest_size=16)
    for split in ("train", "test"):
        for path in sorted((root / split).glob("*/*")):
            stat = path.stat()
            place = path.relative_to(root).as_posix().encode()
            digest.update(b"\0%s\0%d\0%d" % (place, stat.st_size, stat.st_mtime_ns))
    return f"image_folder-{digest.hexdigest()}"


def test_the_former_fingerprint_is_a_former_name_of_both(pets):
    dataset = load_folder(pets)
    former = former_fingerprint(pets)
    assert dataset.train_fingerprint.former == dataset.test_fingerprint.former == (former,)
    old = key_of("latents", dataset.name, former, "prior", 8, "32-true")
    assert old in key_of("latents", dataset.name, dataset.train_fingerprint, "prior", 8, "32-true").former
    held_out = load_folder(pets, validation=2)
    assert held_out.train_fingerprint.former == held_out.test_fingerprint.former == (f"{former}-validation2",)
    os.utime(pets / "test/cat/0.webp", ns=(0, 7))  # after the contents were met under the former name
    assert load_folder(pets).train_fingerprint.former == (former_fingerprint(pets), former)
    write_image(pets / "test/cat/0.webp", "RGB", (11, 13), 99)
    assert former not in load_folder(pets).test_fingerprint.former
    assert former not in load_folder(pets, channels=1).train_fingerprint.former


def test_wrong_extension_of_a_readable_picture_is_fine(pets):
    noise_image(8, 8).save(pets / "train/cat/9.jpg", format="PNG")
    assert load_folder(pets).train.labels.tolist() == [0, 0, 0, 0, 1, 1]


def test_bytes_after_the_picture_are_fine(pets):
    for name in ("train/cat/0.png", "train/cat/1.jpg"):
        with (pets / name).open("ab") as file:
            file.write(bytes(40))
    assert len(load_folder(pets).train.images()) == 5


def test_networks_trained_on_images_seen_otherwise_are_others(pets):
    """Latents do not depend on mean, deviation or flips, so only the keys of what networks learned do."""
    seen = [load_folder(pets, **change) for change in ({}, {"flip": False}, {"mean": [0.5] * 3}, {"std": [0.5] * 3})]
    assert len({fingerprints(each) for each in seen}) == 1
    assert len({key_of(each.as_learned) for each in seen}) == 4
    assert len({embedding_key(each) for each in seen}) == 4
    assert embedding_key(load_folder(pets)) == embedding_key(seen[0])


def test_a_name_that_promises_held_out_images_is_refused(pets):
    with pytest.raises(UserError, match=r"name: a name that ends in -validation"):
        load_folder(pets, name="pets-validation")


def test_jpegs_of_old_browsers_are_images(pets):
    (pets / "train/cat/1.jpg").rename(pets / "train/cat/1.jfif")
    assert torch.equal(load_folder(pets).train.images()[1], expected_tensor(pets / "train/cat/1.jfif"))


def test_pictures_of_telephones_in_heic(pets):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(pets / "train/cat/9.heic", quality=90)
    picture.save(pets / "train/dog/9.jpg", format="HEIF", quality=90)  # under a name that promises another format
    images = load_folder(pets).train.images().float()
    shown = image_tensor(picture, 8, 3).float()
    for place in (3, 6):
        assert (images[place] - shown).abs().max() < 4


def test_heic_without_its_reader_says_what_to_install(pets, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (pets / "train/cat/9.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    message = message_of(load_folder, pets)
    assert f"{pets / 'train/cat/9.heic'} is a HEIC file, for which pillow-heif is needed" in message
    assert "pip install 'manifoldgd[heic]'" in message
