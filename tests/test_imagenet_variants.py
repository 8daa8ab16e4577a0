"""Named ImageNet subsets: their classes, and folders that are another variant, incomplete or missing."""

import os
import re

import pytest
import torch
from command import manifoldgd
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from manifoldgd.cli.components import build
from manifoldgd.cli.compose import conf_dir
from manifoldgd.errors import UserError

SUBSETS = ("imagenette", "imagewoof", "imagenet100")  # of ImageNet-1K
FASTAI = ("imagenette_fastai", "imagewoof_fastai")


@pytest.fixture(autouse=True)
def hydra():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def configured(name, *changes):
    return compose("config", [f"dataset={name}", *changes])


def message_of(name, *changes):
    with pytest.raises(UserError) as caught:
        build(configured(name, *changes), "dataset")
    message = str(caught.value)
    assert "\n" not in message
    return message


def lookalike(root, classes, train, test):
    """ImageNet's layout with ``train`` and ``test`` tiny JPEGs spread over the classes, all links to a few files."""
    root.mkdir()
    for split, count in (("train", train), ("val", test)):
        for index, wnid in enumerate(classes):
            (root / split / wnid).mkdir(parents=True)
            original = root / split / wnid / "0.JPEG"
            Image.new("RGB", (9, 8), (index % 256, 0, 0)).save(original)
            mine = count // len(classes) + (index < count % len(classes))
            for number in range(1, mine):
                os.link(original, root / split / wnid / f"{number}.JPEG")
    return root


@pytest.mark.parametrize(("name", "size"), [*((name, 10) for name in (*SUBSETS[:2], *FASTAI)), ("imagenet100", 100)])
def test_classes_are_wordnet_ids_with_imagenets_indices(name, size):
    config = configured(name).dataset
    labels = dict(config.prior_labels)
    assert list(config.classes) == list(labels)
    assert len(labels) == size
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in labels)
    # ImageNet-1K numbers its classes in the order of their WordNet ids.
    indices = [labels[wnid] for wnid in sorted(labels)]
    assert indices == sorted(set(indices))
    assert 0 <= indices[0] <= indices[-1] <= 999


def test_classes_shared_by_two_subsets_have_one_index():
    known = {}
    for name in SUBSETS:
        for wnid, index in configured(name).dataset.prior_labels.items():
            assert known.setdefault(wnid, index) == index
    assert len(known) == 118  # Shih-Tzu and English foxhound are in ImageWoof and in ImageNet-100


def test_the_two_variants_divide_the_same_images():
    for name in SUBSETS[:2]:
        ours, fastai = configured(name).dataset, configured(f"{name}_fastai").dataset
        assert ours.prior_labels == fastai.prior_labels
        assert sum(ours.expected_counts.values()) == sum(fastai.expected_counts.values())
        assert ours.expected_counts.test == 500
        assert ours.name != fastai.name
    assert dict(configured("imagewoof").dataset.expected_counts) == {"train": 12_454, "test": 500}
    assert dict(configured("imagenette").dataset.expected_counts) == {"train": 12_894, "test": 500}


def test_a_folder_with_the_right_counts_loads_among_other_classes(tmp_path):
    classes = list(configured("imagewoof").dataset.classes)
    root = lookalike(tmp_path / "imagenet", [*classes, "n01440764"], 33, 22)
    small = [f"dataset.folder={root}", "dataset.expected_counts={train: 30, test: 20}", "dataset.image_size=8"]
    dataset = build(configured("imagewoof", *small), "dataset")
    assert dataset.name == "imagewoof"
    assert dataset.class_names == tuple(classes)
    assert dataset.prior_labels["n02115641"] == 273
    assert torch.bincount(dataset.train.labels).tolist() == [3] * 10
    assert torch.bincount(dataset.test.labels).tolist() == [2] * 10
    # The count is that of the files, whatever is kept of them.
    assert len(build(configured("imagewoof", *small, "dataset.train_per_class=1"), "dataset").train) == 10


def test_fastais_archive_is_not_taken_for_the_subset_of_imagenet(tmp_path):
    root = lookalike(tmp_path / "imagewoof2", list(configured("imagewoof").dataset.classes), 9025, 3929)
    here = [f"dataset.folder={root}", "dataset.image_size=8"]
    assert len(build(configured("imagewoof_fastai", *here), "dataset").test) == 3929
    message = message_of("imagewoof", *here)
    assert "dataset.expected_counts: imagewoof has 12,454 images in its train split, found 9,025 in" in message
    assert str(root) in message
    assert "image-net.org" in message


def test_a_missing_image_is_noticed(tmp_path):
    root = lookalike(tmp_path / "imagenet", list(configured("imagenette").dataset.classes), 20, 10)
    (root / "val" / "n03888257" / "0.JPEG").rename(root / "train" / "n03888257" / "moved.JPEG")
    Image.new("RGB", (4, 4)).save(root / "val" / "n03888257" / "other.JPEG")
    counts = "dataset.expected_counts={train: 20, test: 10}"
    assert "imagenette has 20 images in its train split, found 21" in message_of(
        "imagenette", f"dataset.folder={root}", counts
    )
    only_test = "dataset.expected_counts={test: 10}"
    named = ["~dataset.expected_counts", f"+{only_test}", "dataset.image_size=4"]
    assert len(build(configured("imagenette", f"dataset.folder={root}", *named), "dataset").train) == 21
    unknown = ["~dataset.expected_counts", "+dataset.expected_counts={val: 10}"]
    assert "expected the keys train and test, got 'val'" in message_of("imagenette", f"dataset.folder={root}", *unknown)


@pytest.mark.parametrize(
    ("name", "folder", "how"),
    [
        *((name, "data/imagenet", "image-net.org gives its archives (ILSVRC2012) to account") for name in SUBSETS),
        ("imagenette_fastai", "data/imagenette2", "imagenette2.tgz (no account needed)"),
        ("imagewoof_fastai", "data/imagewoof2", "imagewoof2.tgz (no account needed)"),
    ],
)  # fmt: skip
def test_missing_data_are_explained_in_one_line(capsys, monkeypatch, tmp_path, name, folder, how):
    monkeypatch.chdir(tmp_path)
    assert manifoldgd("run", f"dataset={name}", "ipc=10", "logger=none", "machine=cpu") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"dataset.folder: expected a folder with train/<class>/* and val/<class>/*, found no folder {folder}" in line
    assert how in line
    assert "train/<wnid>/*" in line
    assert "val/<wnid>/*" in line
    assert list(tmp_path.iterdir()) == []


def test_unsorted_validation_images_are_explained(tmp_path):
    root = lookalike(tmp_path / "imagenet", list(configured("imagenette").dataset.classes), 10, 10)
    (root / "val").rename(root / "aside")
    (root / "val").mkdir()
    Image.new("RGB", (4, 4)).save(root / "val" / "ILSVRC2012_val_00000001.JPEG")
    message = message_of("imagenette", f"dataset.folder={root}")
    assert f"dataset.folder: {root / 'val'} has 1 images and no class folders" in message
    assert "move each image into that of its class" in message
