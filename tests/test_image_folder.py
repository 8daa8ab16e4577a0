"""Image folders: layout, order, statistics, and what does not decide the fingerprint."""

import os
import shutil

import numpy as np
import pytest
import torch
from data_parts import SAMPLES, load_folder, noise_image, write_image
from PIL import Image

from manifoldgd.data.transforms import image_tensor
from manifoldgd.errors import UserError
from manifoldgd.stages.classifiers import embedding_key
from manifoldgd.store.keys import key_of


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
    before = load_folder(pets).fingerprint
    for name in ("train/.DS_Store", "train/cat/.DS_Store", "test/dog/Thumbs.db", "train/labels.csv"):
        (pets / name).write_bytes(b"\0")
    (pets / "train" / ".ipynb_checkpoints").mkdir()
    assert load_folder(pets).fingerprint == before


def test_fingerprint_follows_files_and_settings_but_not_the_place(pets, tmp_path):
    before = load_folder(pets).fingerprint
    assert load_folder(pets).fingerprint == before
    changes = [
        dict(image_size=9),
        dict(channels=1),
        dict(classes=["dog", "cat"]),
        dict(train_per_class=1, validation=None),
    ]
    assert len({before, *(load_folder(pets, **change).fingerprint for change in changes)}) == 5
    moved = tmp_path / "moved"
    shutil.copytree(pets, moved)  # keeps times of change
    assert load_folder(moved).fingerprint == before
    path = moved / "test/dog/0.gif"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert load_folder(moved).fingerprint != before
    (pets / "train/cat/0.png").rename(pets / "train/cat/00.png")
    assert load_folder(pets).fingerprint != before


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
    assert len({each.fingerprint for each in seen}) == 1
    assert len({key_of(each.as_learned) for each in seen}) == 4
    assert len({embedding_key(each) for each in seen}) == 4
    assert embedding_key(load_folder(pets)) == embedding_key(seen[0])


def test_a_name_that_promises_held_out_images_is_refused(pets):
    with pytest.raises(UserError, match=r"dataset\.name: a name that ends in -validation"):
        load_folder(pets, name="pets-validation")
