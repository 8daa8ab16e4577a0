"""Test images split off: an exact share of each class, the same for everyone, groups kept together."""

import json
import random

import numpy as np
import pytest
import torch
from command import quick
from data_parts import load_folder, message_of, noise_image, write_pets

from manifoldgd.data.splitting import group_of, split_off


def split(names, share=0.2, group_by=None, label=0):
    labels = np.full(len(names), label)
    tests = split_off(names, labels, ["a"] * (label + 1) if label == 0 else [*"ab"], share, group_by)
    return {name for name, test in zip(names, tests, strict=True) if test}


NAMES = [f"{number:03}.jpg" for number in range(100)]


@pytest.mark.parametrize("count", [2, 3, 7, 50, 100])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_every_class_gives_its_share(count, share):
    taken = len(split(NAMES[:count], share))
    assert taken == min(max(1, round(share * count)), count - 1)


def test_the_order_of_files_does_not_matter():
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    assert split(shuffled) == split(NAMES)


def test_a_known_split_stays_as_it_is():
    """Everyone who has the images has this split: a change of it changes everyone's results."""
    assert split(NAMES[:10], 0.3) == {"000.jpg", "002.jpg", "003.jpg"}


def test_images_that_are_added_move_at_most_as_many():
    for added in (1, 2, 5, 20):
        for start in range(20):
            before, after = split(NAMES[start:50]), split(NAMES[start : 50 + added])
            moved = [name for name in NAMES[start:50] if (name in before) != (name in after)]
            assert len(moved) <= added


def test_classes_are_split_independently():
    labels = np.repeat([0, 1], 50)
    tests = split_off(NAMES[:50] * 2, labels, ["a", "b"], 0.2, None)
    first, second = tests[:50], tests[50:]
    assert first.sum() == second.sum() == 10
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "group_by", "group"),
    [
        ("dog7_03.jpg", "stem", "dog7"),
        ("dog7-a.png", "stem", "dog7"),
        ("IMG 0001 (2).jpg", "stem", "IMG 0001"),
        ("dog.jpg", "stem", "dog"),
        ("a_b_3.jpg", "stem", "a_b"),
        ("patient12-scan4.png", r"patient\d+", "patient12"),
        ("2024_p12_scan4.png", r"_(p\d+)_", "p12"),
        ("dog7_03.jpg", None, "dog7_03.jpg"),
    ],
)
def test_groups_by_name(name, group_by, group):
    assert group_of(name, group_by) == group


def test_groups_stay_together():
    names = [f"dog{dog}_{shot}.jpg" for dog in range(20) for shot in range(1 + dog % 4)]
    tests = split(names, 0.3, "stem")
    dogs = {name.partition("_")[0] for name in tests}
    assert tests == {name for name in names if name.partition("_")[0] in dogs}
    assert abs(len(tests) - 0.3 * len(names)) <= 2


@pytest.fixture
def flat(tmp_path):
    for name in ("0", "1"):
        for k in range(10):
            path = tmp_path / "photos" / name / f"p{k // 2}_{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise_image(8, 8, "L", seed=k + 20 * int(name)).save(path)
    return tmp_path / "photos"


def test_flat_folders_become_two_splits(flat):
    dataset = load_folder(flat, channels=1, test_share=0.2)
    assert dataset.class_names == ("0", "1")
    assert [split.labels.bincount().tolist() for split in (dataset.train, dataset.test)] == [[8, 8], [2, 2]]
    assert dataset.leaked == 0
    assert len({*dataset.train.digests, *dataset.test.digests}) == 20
    grouped = load_folder(flat, channels=1, test_share=0.2, group_by="stem")
    assert len(grouped.test) == 4
    assert len(load_folder(flat, channels=1, test_share=0.2, train_per_class=3).test) == 4
    held = load_folder(flat, channels=1, test_share=0.2, validation=0.25)
    assert (len(held.train), len(held.test)) == (12, 4)


def test_a_training_folder_alone_is_split_too(flat, tmp_path):
    whole = load_folder(flat, channels=1, test_share=0.2)
    (tmp_path / "pictures").mkdir()
    flat.rename(tmp_path / "pictures" / "train")
    moved = load_folder(tmp_path / "pictures", channels=1, test_share=0.2)
    assert (moved.train_fingerprint, moved.test_fingerprint) == (whole.train_fingerprint, whole.test_fingerprint)
    for name in ("0", "1"):  # a test split that was prepared, and never filled
        (tmp_path / "pictures" / "test" / name).mkdir(parents=True)
    assert load_folder(tmp_path / "pictures", channels=1, test_share=0.2).test_fingerprint == whole.test_fingerprint


def test_a_class_may_be_called_train(flat):
    (flat / "0").rename(flat / "train")
    assert load_folder(flat, channels=1, test_share=0.2).class_names == ("1", "train")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(), "train: expected a subfolder 'train'"),
        (dict(test_share=0.0), "test_share: expected null or a share in (0, 1)"),
        (dict(group_by="stem"), "group_by: says what stays together"),
        (dict(test_share=0.2, group_by="("), "group_by: expected null, stem, or a regular expression"),
        (dict(test_share=0.2, group_by="q"), "group_by: 'q' matches nothing in the name"),
        (dict(test_share=0.2, group_by="p"), "test_share: class '0' has 1 group"),
    ],
)
def test_what_cannot_be_split_is_named(flat, changes, says):
    message = message_of(load_folder, flat, channels=1, **changes)
    assert message.startswith(says)
    assert changes or "set test_share=0.2" in message


def test_a_test_split_is_not_left_unused(tmp_path):
    message = message_of(load_folder, write_pets(tmp_path / "pets"), test_share=0.2)
    assert message.startswith("test_share:")
    assert "set it to null" in message


def test_a_flat_folder_is_distilled(flat, tiny_prior, shared_cache, tmp_path):
    here = ("dataset=image_folder", f"dataset.folder={flat}", "dataset.image_size=8", "dataset.channels=1")
    how = ("dataset.test_share=0.2", "source=random", "prior=digits", "student=convnet3", "measures=false")
    small = ("student/protocol=hard_small", "student.protocol.epochs=1", "student.width=8", "ipc=1")
    cache = tmp_path / "cache"
    assert quick("run", tiny_prior, cache, tmp_path / "out", *here, *how, *small) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["test_images"] == 4
    assert list((cache / "decoded").rglob("*.npy"))


def test_pictures_are_squared_as_asked(flat):
    from PIL import Image

    for file in flat.rglob("*.png"):
        wide = np.full((4, 8), 200, np.uint8)
        wide[:, :2] = 100 + int(file.stem.rpartition("_")[2])
        Image.fromarray(wide).save(file)
    seen = {
        fit: load_folder(flat, channels=1, test_share=0.2, image_size=4, fit=fit) for fit in (None, "pad", "stretch")
    }
    assert len({each.train_fingerprint for each in seen.values()}) == 3
    image = {fit: dataset.train.images()[0, 0] for fit, dataset in seen.items()}
    assert torch.equal(image[None], torch.full((4, 4), 200, dtype=torch.uint8))
    assert image["pad"][[0, 3]].tolist() == [[0] * 4] * 2
    assert (image["pad"][1:3, 3] > 190).all()
    assert (image["stretch"][:, 0] < 120).all()
    assert (image["stretch"][:, 3] > 190).all()
