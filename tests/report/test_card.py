"""A set's card says how others read it, and that is so: every image, with the labels of its classes."""

import json
import re
import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from manifoldgd.report.card import set_card
from manifoldgd.store.sets import SetWriter

# Names that Hugging Face takes for splits, and words that are something else in YAML.
AWKWARD = ("zebra", "train", "test tube", "val", "dev", "bullet train", "eval", "validation", "007", "no", 'a "b": c')


def write(folder, names):
    writer = SetWriter(folder, names)
    for label in range(len(names)):
        for rank in range(2):
            writer.save(torch.full((3, 8, 8), 20 * label + rank, dtype=torch.uint8), label, rank)
    writer.finish(ipc=2, facts={}, card=set_card("some data: a", names, 2, {}))
    return (folder / "README.md").read_text()


def programs(card, folder):
    """What the card says, a program a library."""
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return [part.replace("FOLDER", str(folder)) for part in block.split("\n\n")]


def found_by(pairs):
    """Label and grey value of each image, from a library."""
    return sorted((label, int(np.asarray(image)[0, 0, 0])) for image, label in pairs)


ALL = [(label, 20 * label + rank) for label in range(len(AWKWARD)) for rank in range(2)]


@pytest.mark.parametrize("names", [AWKWARD, tuple(sorted(AWKWARD))], ids=["own order", "by name"])
def test_torchvision_finds_our_labels(names, monkeypatch, tmp_path):
    """By its rule, as it is not imported here: folders are classes, numbered in the order of their names."""

    class ImageFolder:
        def __init__(self, root, target_transform=lambda label: label):
            folders = sorted(each.name for each in tmp_path.iterdir() if each.is_dir())
            assert root == str(tmp_path)
            self.samples = [
                (Image.open(file), target_transform(label))
                for label, folder in enumerate(folders)
                for file in (tmp_path / folder).glob("*.png")
            ]

    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    module = types.ModuleType("torchvision.datasets")
    module.ImageFolder = ImageFolder
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    scope = {}
    exec(programs(write(tmp_path, names), tmp_path)[1], scope)
    assert found_by(scope["dataset"].samples) == ALL


@pytest.mark.skipif(find_spec("datasets") is None, reason="not installed here")
@pytest.mark.parametrize("names", [AWKWARD, tuple(sorted(AWKWARD))], ids=["own order", "by name"])
def test_hugging_face_finds_our_labels(names, monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    scope = {}
    exec(programs(write(tmp_path / "set", names), tmp_path / "set")[0], scope)
    assert scope["dataset"].features["label"].names == list(names)
    assert found_by((row["image"], row["label"]) for row in scope["dataset"]) == ALL


def test_the_head_is_yaml_and_all_images_are_one_split(tmp_path):
    card = write(tmp_path, AWKWARD)
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["pretty_name"] == "some data: a, distilled to 2 images a class"
    ((files,),) = ([each["data_files"]] for each in head["configs"])
    assert files == [{"split": "train", "path": "*/*.png"}]
    assert len(list(tmp_path.glob("*/*.png"))) == len(json.loads((tmp_path / "manifest.json").read_text())["images"])


def test_wordnet_ids_are_named(tmp_path):
    assert "from label 0 on: Shih-Tzu n02086240, my cat" in set_card("x", ["n02086240", "my cat"], 1, {})
