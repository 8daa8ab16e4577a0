"""Named ImageNet subsets: their classes, and folders that are another variant, incomplete or missing."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from command import manifoldgd, quick
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from scipy.io import savemat

from manifoldgd.cli.components import build
from manifoldgd.cli.compose import conf_dir
from manifoldgd.data.imagenet import labels_of, names_by_wnid
from manifoldgd.errors import UserError

SUBSETS = ("imagenette", "imagewoof", "imagenet100")  # of ImageNet-1K
# As published, by place in ImageNet-1K: MTT's (arXiv 2203.11932) and GLaD's (arXiv 2305.01649).
PUBLISHED = {
    "imagefruit": [953, 954, 949, 950, 951, 957, 952, 945, 943, 948],
    "imagemeow": [281, 282, 283, 284, 285, 291, 292, 290, 289, 287],
    "imagesquawk": [84, 130, 88, 144, 145, 22, 96, 9, 100, 89],
    "imageyellow": [309, 986, 954, 951, 987, 779, 599, 291, 72, 11],
    "imagenet_a": [255, 376, 984, 364, 500, 986, 333, 576, 148, 135],
    "imagenet_b": [129, 916, 90, 275, 995, 874, 102, 259, 685, 139],
    "imagenet_c": [565, 94, 554, 535, 92, 392, 291, 136, 324, 11],
    "imagenet_d": [9, 258, 13, 262, 19, 339, 321, 24, 93, 322],
    "imagenet_e": [816, 96, 100, 145, 739, 713, 783, 76, 688, 326],
    "idc10": [452, 64, 374, 236, 993, 176, 882, 904, 503, 74],
}
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


def test_the_thousand_classes_are_those_of_the_explicit_lists():
    names = names_by_wnid()
    assert len(names) == len(set(names.values())) == 1000
    assert list(names) == sorted(names)
    for subset in SUBSETS:
        explicit = dict(configured(subset).dataset.prior_labels)
        assert labels_of(list(explicit)) == explicit
    assert (names["n02086240"], labels_of(["n15075141"])["n15075141"]) == ("Shih-Tzu", 999)
    with pytest.raises(UserError, match="expected WordNet ids of ImageNet-1K as classes, got 'cat'"):
        labels_of(["n02086240", "cat"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_subsets_are_those_that_were_published(name):
    config = configured(name).dataset
    assert list(labels_of(config.classes).values()) == PUBLISHED[name]
    assert (config.name, config.prior_labels, dict(config.expected_counts)) == (name, "imagenet", {"test": 500})
    # The names that people read in the file are those of the ids.
    lines = [line for line in (Path(conf_dir()) / "dataset" / f"{name}.yaml").read_text().splitlines() if "- n" in line]
    said = dict(line.strip("- ").split("  # ") for line in lines)
    assert said == {wnid: names_by_wnid()[wnid] for wnid in config.classes}


def test_the_ten_of_idc_begin_the_hundred():
    assert list(configured("idc10").dataset.classes) == list(configured("imagenet100").dataset.classes)[:10]


@pytest.mark.parametrize("name", ["imagefruit", "imagenet_e"])
def test_a_subset_is_distilled_by_the_command(name, tiny_prior, tmp_path):
    classes = list(configured(name).dataset.classes)
    root = lookalike(tmp_path / "imagenet", [*classes, "n01440764"], 11 * 4, 11 * 2)
    here = (f"dataset={name}", f"dataset.folder={root}", "dataset.expected_counts={test: 20}", "dataset.image_size=8")
    dataset = build(configured(name, *here[1:]), "dataset")
    assert list(dataset.prior_labels.values()) == PUBLISHED[name]
    assert quick("distill", tiny_prior, tmp_path / "cache", tmp_path / "out", *here, "source=random") == 0
    manifest = json.loads((tmp_path / "out" / "set" / "manifest.json").read_text())
    assert manifest["class_names"] == classes


def test_all_of_imagenet(tmp_path):
    root = tmp_path / "imagenet"
    for split in ("train", "val"):
        for wnid in names_by_wnid():
            (root / split / wnid).mkdir(parents=True)
            name = f"{wnid}_1.JPEG" if split == "train" else "ILSVRC2012_val_1.JPEG"
            if split == "train" and wnid == "n01440764":
                Image.new("RGB", (4, 4), (9, 9, 9)).save(root / "train" / wnid / name)
            elif split == "val" and wnid == "n01440764":
                Image.new("RGB", (4, 4), (99, 9, 9)).save(root / "val" / wnid / name)
            else:
                os.link(next((root / split / "n01440764").iterdir()), root / split / wnid / name)
    message = message_of("imagenet", f"dataset.folder={root}")
    assert "imagenet has 1,281,167 images in its train split, found 1,000" in message
    here = (f"dataset.folder={root}", "dataset.expected_counts={train: 1000, test: 1000}", "dataset.image_size=4")
    dataset = build(configured("imagenet", *here), "dataset")
    assert list(dataset.prior_labels.values()) == list(range(1000))


@pytest.mark.slow
def test_a_run_over_a_thousand_classes(tmp_path, monkeypatch):
    """From photographs to judged students, with a prior in DiT's format: every class finds its own label."""
    names = names_by_wnid()
    monkeypatch.setattr(tiny, "IMAGENET_LIKE", tuple(names.values()))
    prior, root = tiny.write_dit_lookalike(tmp_path / "dit"), lookalike(tmp_path / "imagenet", names, 4000, 1000)
    keys = ("dataset=imagenet", f"dataset.folder={root}", "dataset.expected_counts={train: 4000, test: 1000}")
    keys += ("dataset.image_size=8", "guidance=mode", "measures=false")
    keys += ("student=convnet3", "student/protocol=hard_small")
    assert quick("run", prior, tmp_path / "cache", tmp_path / "out", *keys) == 0
    manifest = json.loads((tmp_path / "out" / "set" / "manifest.json").read_text())
    assert manifest["class_names"] == list(names)
    assert [row["prior_label"] for row in manifest["images"]] == list(range(1000))
    # Four pictures of a class show the same, so its prototype is all of them.
    assert [row["prototype"]["nearest_train_image"] for row in manifest["images"]] == list(range(0, 4000, 4))
    judged = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert judged["num_images"] == judged["test_images"] == 1000
    assert quick("run", prior, tmp_path / "cache", tmp_path / "out", *keys) == 0


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
        *((name, "data/imagenet", "image-net.org gives its archives (ILSVRC2012)") for name in ("imagenet", "idc10")),
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
    assert list(tmp_path.iterdir()) == []


def test_unsorted_validation_images_are_explained(tmp_path):
    root = lookalike(tmp_path / "imagenet", list(configured("imagenette").dataset.classes), 10, 10)
    (root / "val").rename(root / "aside")
    (root / "val").mkdir()
    Image.new("RGB", (4, 4)).save(root / "val" / "ILSVRC2012_val_00000001.JPEG")
    message = message_of("imagenette", f"dataset.folder={root}")
    assert f"dataset.folder: {root / 'val'} has 1 images and no class folders" in message
    assert "move each image into that of its class" in message
    assert "dataset.test_labels" in message


def devkit(folder, of_class):
    """ILSVRC2012's development kit, with numbers in another order than the ids and inner nodes after the leaves."""
    wnids = sorted(set(of_class), reverse=True)
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "num_train_images")
    synsets = np.zeros(len(wnids) + 1, [(field, object) for field in fields])
    for row, wnid in enumerate([*wnids, "n00001740"]):
        synsets[row] = (row + 1, wnid, f"word{row}, other", "a thing", 0 if row < len(wnids) else 2, 1300)
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    savemat(data / "meta.mat", {"synsets": synsets[:, None]})
    numbers = [wnids.index(wnid) + 1 for wnid in of_class]
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in numbers))
    return data / "ILSVRC2012_validation_ground_truth.txt"


def kaggle(folder, of_class):
    rows = [f"ILSVRC2012_val_{k:08d},{wnid} 85 1 499 272 {wnid} 3 4 5 6 " for k, wnid in enumerate(of_class, start=1)]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")
    return folder / "LOC_val_solution.csv"


def table(folder, of_class):
    rows = [f"ILSVRC2012_val_{k:08d}.JPEG\t{wnid}" for k, wnid in enumerate(of_class, start=1)]
    (folder / "mine.txt").write_text("\n".join(["file\tclass", *rows]) + "\n")
    return folder / "mine.txt"


@pytest.mark.parametrize("write", [devkit, kaggle, table])
def test_unsorted_validation_images_are_read_by_their_list(tmp_path, write):
    classes = list(configured("imagenet_a").dataset.classes)
    sorted_root = lookalike(tmp_path / "sorted", [*classes, "n01440764"], 22, 0)
    root = lookalike(tmp_path / "imagenet", [*classes, "n01440764"], 22, 0)
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    of_class = [[*classes, "n01440764"][7 * k % 11] for k in range(33)]
    for k, wnid in enumerate(of_class, start=1):
        name = f"ILSVRC2012_val_{k:08d}.JPEG"
        Image.new("RGB", (9, 8), (k, 200, 7)).save(root / "val" / name)
        shutil.copy(root / "val" / name, sorted_root / "val" / wnid / name)
    (sorted_root / "val" / classes[0] / "0.JPEG").unlink(missing_ok=True)
    for folder in (sorted_root / "val").iterdir():
        (folder / "0.JPEG").unlink(missing_ok=True)
    here = ["dataset.expected_counts={test: 30}", "dataset.image_size=8"]
    known = build(configured("imagenet_a", f"dataset.folder={sorted_root}", *here), "dataset")
    found = write(root, of_class)
    given = [] if write in (devkit, kaggle) else [f"dataset.test_labels={found}"]
    dataset = build(configured("imagenet_a", f"dataset.folder={root}", *here, *given), "dataset")
    assert dataset.test_fingerprint == known.test_fingerprint
    assert torch.equal(dataset.test.images(), known.test.images())
    Image.new("RGB", (4, 4)).save(root / "val" / "ILSVRC2012_val_00000099.JPEG")
    message = message_of("imagenet_a", f"dataset.folder={root}", "dataset.expected_counts=null", *given)
    assert "ILSVRC2012_val_00000099.JPEG is not in the list of labels" in message
    sorted_given = [f"dataset.folder={sorted_root}", f"dataset.test_labels={found}", *here]
    assert message_of("imagenet_a", *sorted_given).startswith("dataset.test_labels: for images without class folders")


def test_lists_that_cannot_be_read_are_named(tmp_path):
    root = lookalike(tmp_path / "imagenet", list(configured("imagenet_a").dataset.classes), 10, 10)
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    Image.new("RGB", (4, 4)).save(root / "val" / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "one.csv").write_text("a.JPEG\n")
    (tmp_path / "empty.csv").write_text("")
    truth = devkit(tmp_path, ["n01440764"])
    (truth.parent / "meta.mat").unlink()
    for file, says in (
        (tmp_path / "none.csv", "found no file"),
        (tmp_path / "one.csv", "line 1 has no second column"),
        (tmp_path / "empty.csv", "is empty"),
        (truth, "expected meta.mat beside"),
        (truth.parents[1], "expected meta.mat beside"),
    ):
        message = message_of("imagenet_a", f"dataset.folder={root}", f"dataset.test_labels={file}")
        assert message.startswith("dataset.test_labels: ")
        assert says in message
