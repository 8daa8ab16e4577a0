"""Readers of other formats: look-alikes in exactly the real layout, read to the pixel, and distilled by the command."""

import gzip
import hashlib
import json
import pickle
from importlib.util import find_spec

import lookalikes
import numpy as np
import pytest
import torch
from command import quick
from data_parts import message_of
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lookalikes import CIFAR10, COARSE, FINE, WNIDS, pixels
from PIL import Image

from manifoldgd.cli.components import build
from manifoldgd.cli.compose import conf_dir
from manifoldgd.data.cifar import MD5 as OF_CIFAR
from manifoldgd.data.svhn import MD5 as OF_SVHN
from manifoldgd.data.transforms import image_tensor

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="extra: parquet")


def load(name, *changes, **given):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return build(compose("config", [f"dataset={name}", *changes]), "dataset", **given)


def channels_first(images):
    return torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)


# Hugging Face


@needs_pyarrow
@pytest.mark.parametrize("write", [lookalikes.write_parquet, lookalikes.write_saved], ids=["hub", "saved"])
def test_tables_of_hugging_face(write, tmp_path):
    write(tmp_path / "pets")
    dataset = load("parquet", f"dataset.folder={tmp_path / 'pets'}", "dataset.image_size=8", cache=tmp_path / "cache")
    assert (dataset.name, dataset.class_names) == ("pets", ("zebra", "ant"))  # in the order of the labels, not by name
    assert dataset.train.labels.tolist() == [0, 1] * 6
    assert torch.equal(dataset.train.images(), channels_first(pixels(12, seed=0)))
    assert torch.equal(dataset.test.images(), channels_first(pixels(4, seed=1)))
    assert torch.equal(dataset.train.load(torch.tensor([11, 0, 5])), channels_first(pixels(12, seed=0))[[11, 0, 5]])


@needs_pyarrow
def test_both_forms_of_a_table_are_one_dataset(tmp_path):
    small = "dataset.image_size=8"
    hub = load("parquet", f"dataset.folder={lookalikes.write_parquet(tmp_path / 'hub')}", small)
    saved = load("parquet", f"dataset.folder={lookalikes.write_saved(tmp_path / 'saved')}", small)
    assert (hub.train_fingerprint, hub.test_fingerprint) == (saved.train_fingerprint, saved.test_fingerprint)


@needs_pyarrow
def test_a_dataset_of_the_hub_is_read_from_its_cache(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = lookalikes.write_hub_cache(tmp_path)
    for revision in ("null", commit):
        dataset = load("parquet", "dataset.folder=someone/pets", f"dataset.revision={revision}", "dataset.image_size=8")
        assert dataset.name == "pets"
        assert len(dataset.train) == 12
    for changes, says in (((), "set dataset.download=true"), (("dataset.download=true",), "check the name")):
        message = message_of(load, "parquet", "dataset.folder=someone/birds", *changes)
        assert message.startswith("dataset.folder: someone/birds is no folder here and not in the Hub's cache")
        assert says in message


@needs_pyarrow
def test_texts_are_classes_by_name(tmp_path):
    import pyarrow.parquet as pq

    (tmp_path / "pets").mkdir()
    for split, count in (("train", 6), ("validation", 3)):
        table = lookalikes.hub_table(pixels(count), [("zebra", "ant", "cow")[k % 3] for k in range(count)], None)
        pq.write_table(table, tmp_path / "pets" / f"{split}.parquet")
    here = [f"dataset.folder={tmp_path / 'pets'}", "dataset.image_size=8"]
    dataset = load("parquet", *here, "dataset.test=validation")
    assert dataset.class_names == ("ant", "cow", "zebra")
    assert dataset.train.labels.tolist() == [2, 0, 1] * 2
    chosen = load("parquet", *here, "dataset.test=validation", "dataset.classes=[zebra,ant]")
    assert chosen.train.labels.tolist() == [0, 1] * 2
    assert torch.equal(chosen.train.images(), channels_first(pixels(6)[[0, 1, 3, 4]]))
    assert "found splits 'train', 'validation'" in message_of(load, "parquet", *here)
    split = load("parquet", *here, "dataset.test_share=0.5")
    assert (len(split.train), len(split.test)) == (3, 3)


@needs_pyarrow
def test_tables_that_do_not_fit_are_refused(tmp_path):
    import pyarrow.parquet as pq

    root = lookalikes.write_parquet(tmp_path / "pets")
    here = [f"dataset.folder={root}", "dataset.image_size=8"]
    assert "dataset.image: expected a column 'img' in" in message_of(load, "parquet", *here, "dataset.image=img")
    assert "dataset.image: expected column 'label' of" in message_of(load, "parquet", *here, "dataset.image=label")
    assert "dataset.label: expected a column 'y' in" in message_of(load, "parquet", *here, "dataset.label=y")
    file = root / "data" / "test-00000-of-00002.parquet"
    pq.write_table(lookalikes.hub_table(pixels(2), [0, -1], ["zebra", "ant"]), file)
    assert "expected labels 0 ... 1 in column 'label', got '-1'" in message_of(load, "parquet", *here)
    pq.write_table(lookalikes.hub_table(pixels(2), [0, 1], ["ant", "zebra"]), file)
    assert "the files say different names" in message_of(load, "parquet", *here)
    pq.write_table(lookalikes.hub_table(pixels(2), [0, 1], ["zebra", "ant"], bytes_there=False), file)
    message = message_of(load, "parquet", *here)
    assert f"{file} (row 0) is truncated or damaged (the table holds its path and not its bytes" in message
    file.write_bytes(b"PAR1 no")
    assert f"dataset.folder: {file} cannot be read" in message_of(load, "parquet", *here)
    assert "found no folder" in message_of(load, "parquet", f"dataset.folder={tmp_path}/nowhere")


@needs_pyarrow
@pytest.mark.skipif(find_spec("datasets") is None, reason="not installed here")
def test_what_datasets_itself_writes_is_read(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as Picture

    features = Features({"image": Picture(), "label": ClassLabel(names=["zebra", "ant"])})
    rows = {"image": [Image.fromarray(each) for each in pixels(12)], "label": [0, 1] * 6}
    whole = DatasetDict({"train": Dataset.from_dict(rows, features), "test": Dataset.from_dict(rows, features)})
    whole.save_to_disk(tmp_path / "saved")
    (tmp_path / "hub").mkdir()
    for split in whole:
        whole[split].to_parquet(tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    for form in ("saved", "hub"):
        dataset = load("parquet", f"dataset.folder={tmp_path / form}", "dataset.image_size=8")
        assert dataset.class_names == ("zebra", "ant")
        assert torch.equal(dataset.train.images(), channels_first(pixels(12)))


# CIFAR

ANY = ("dataset.checksums=false", "dataset.expected_counts=null")


def test_both_forms_of_cifar_10_are_one_dataset(tmp_path):
    for write in (lookalikes.write_cifar10_python, lookalikes.write_cifar10_binary):
        root = write(tmp_path / write.__name__)
        for folder in (root, root.parent):
            dataset = load("cifar10", f"dataset.folder={folder}", *ANY)
            planes = np.random.default_rng(2).integers(0, 256, (4, 3072), dtype=np.uint8).reshape(4, 3, 32, 32)
            assert torch.equal(dataset.train.load(torch.arange(8, 12)), torch.from_numpy(planes))
            assert dataset.train.labels.tolist() == [k % 10 for k in range(20)]
            assert (dataset.name, dataset.class_names) == ("cifar10", tuple(CIFAR10))
            assert dataset.test.labels.tolist() == list(range(8))
    first, second = (
        load("cifar10", f"dataset.folder={tmp_path / write.__name__}", *ANY).train_fingerprint
        for write in (lookalikes.write_cifar10_python, lookalikes.write_cifar10_binary)
    )
    assert first == second


@pytest.mark.parametrize(("labels", "names", "step"), [("fine", FINE, 1), ("coarse", COARSE, 5)])
def test_both_forms_of_cifar_100_are_one_dataset(tmp_path, labels, names, step):
    found = []
    for write in (lookalikes.write_cifar100_python, lookalikes.write_cifar100_binary):
        dataset = load("cifar100", f"dataset.folder={write(tmp_path)}", f"dataset.labels={labels}", *ANY)
        assert dataset.class_names == tuple(names)
        assert dataset.train.labels.tolist() == [k % 100 // step for k in range(200)]
        found.append((dataset.train_fingerprint, dataset.test_fingerprint))
    assert found[0] == found[1]


def test_official_files_are_known_by_their_hashes(monkeypatch, tmp_path):
    root = lookalikes.write_cifar10_python(tmp_path)
    message = message_of(load, "cifar10", f"dataset.folder={root}", "dataset.expected_counts=null")
    assert "has MD5" in message
    assert f"the official file {OF_CIFAR['batches.meta']}" in message
    assert "has 50,000 images in its train split, found 20" in message_of(
        load, "cifar10", f"dataset.folder={root}", "dataset.checksums=false"
    )
    found = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in root.iterdir()}
    monkeypatch.setattr("manifoldgd.data.cifar.MD5", found)
    assert len(load("cifar10", f"dataset.folder={root}", "dataset.expected_counts=null").train) == 20


def never(*_):
    pytest.fail("ran")


class Runs:
    def __reduce__(self):
        return never, ("anything",)


@pytest.mark.parametrize("value", [{b"data": Runs()}, {b"labels": Runs()}, never, print])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, value):
    root = lookalikes.write_cifar10_python(tmp_path)
    (root / "data_batch_3").write_bytes(pickle.dumps(value, protocol=2))
    message = message_of(load, "cifar10", f"dataset.folder={root}", *ANY)
    assert f"{root / 'data_batch_3'} cannot be read (names " in message
    assert "which no file of CIFAR does" in message


@pytest.mark.parametrize("file", ["data_batch_2", "batches.meta"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_cut_pickle_is_named(tmp_path, file, keep):
    root = lookalikes.write_cifar10_python(tmp_path)
    data = (root / file).read_bytes()
    (root / file).write_bytes(data[: int(keep * len(data))])
    assert f"{root / file} cannot be read" in message_of(load, "cifar10", f"dataset.folder={root}", *ANY)


def test_binary_files_of_another_size_are_refused(tmp_path):
    root = lookalikes.write_cifar10_binary(tmp_path)
    with (root / "test_batch.bin").open("ab") as file:
        file.write(b"x")
    message = message_of(load, "cifar10", f"dataset.folder={root}", *ANY)
    assert f"expected records of 3073 bytes in {root / 'test_batch.bin'}, got 24,585 bytes" in message
    assert "expected test_batch or test_batch.bin" in message_of(load, "cifar10", f"dataset.folder={tmp_path / 'x'}")


# Arrays


@pytest.mark.parametrize(
    ("images", "labels", "changes"),
    [
        ("x_{}", "y_{}", ()),
        ("{}_images", "{}_labels", ()),
        ("images_{}", "labels_{}", ()),
        ("X_{}", "y_{}", ()),
    ],
)
def test_arrays_in_an_npz_file(tmp_path, images, labels, changes):
    file = lookalikes.write_npz(tmp_path / "mine.npz", images=images, labels=labels)
    dataset = load("npz", f"dataset.file={file}", "dataset.image_size=8", "dataset.channels=1", *changes)
    assert (dataset.name, dataset.class_names) == ("mine", ("0", "1", "2"))
    assert dataset.train.labels.tolist() == [0, 1, 2] * 3
    assert torch.equal(dataset.train.images(), channels_first(pixels(9, channels=1)))
    assert torch.equal(dataset.test.load(torch.tensor([4])), channels_first(pixels(6, seed=1, channels=1))[4:5])


def test_arrays_in_npy_files_and_other_layouts(tmp_path):
    images = pixels(9)
    for place, form in enumerate((images, images.transpose(0, 3, 1, 2))):
        (folder := tmp_path / f"f{place}").mkdir()
        for split in ("train", "test"):
            np.save(folder / f"{split}_images.npy", form)
            np.save(folder / f"{split}_labels.npy", np.arange(9) % 3)
        dataset = load("npz", f"dataset.file={folder}", "dataset.image_size=8", "dataset.names=[a,b,c]")
        assert dataset.class_names == ("a", "b", "c")
        assert torch.equal(dataset.train.images(), channels_first(images))
    np.savez(tmp_path / "one.npz", images=images, labels=np.arange(9) % 3)
    dataset = load("npz", f"dataset.file={tmp_path / 'one.npz'}", "dataset.image_size=8", "dataset.test_share=0.3")
    assert (len(dataset.train), len(dataset.test)) == (6, 3)


def test_arrays_are_scaled_and_turned_grey_as_pictures_are(tmp_path):
    file = lookalikes.write_npz(tmp_path / "mine.npz", channels=3)
    for size, channels in ((8, 1), (6, 3), (8, 3)):
        here = (f"dataset.file={file}", f"dataset.image_size={size}", f"dataset.channels={channels}")
        found = load("npz", *here).train.images()
        wanted = torch.stack([image_tensor(Image.fromarray(each), size, channels) for each in pixels(9)])
        assert torch.equal(found, wanted)
    assert "white: expected null, as no image has 16 bits" in message_of(load, "npz", *here, "dataset.white=4095")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x_train": pixels(3)}, "expected arrays x_train and y_train or train_images and train_labels"),
        (
            {"x_train": pixels(3) / 255, "y_train": np.arange(3)},
            "to be uint8 of shape [N, h, w] or [N, h, w, 3], got float",
        ),
        ({"x_train": pixels(3), "y_train": np.arange(4)}, "expected y_train"),
        ({"x_train": pixels(3), "y_train": np.eye(3)}, "expected y_train"),
        ({"x_train": pixels(3), "y_train": np.array([0, -1, 1])}, "expected y_train"),
        ({"x_train": pixels(3), "y_train": np.array([0, 2, 2])}, "no training image in"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, says):
    given = {**arrays, "x_test": pixels(3), "y_test": np.arange(3)}
    np.savez(tmp_path / "mine.npz", **given)
    assert says in message_of(load, "npz", f"dataset.file={tmp_path / 'mine.npz'}", "dataset.image_size=8")


def test_arrays_that_hold_objects_are_not_opened(tmp_path):
    np.savez(tmp_path / "mine.npz", x_train=np.array([Runs()], object), y_train=np.arange(1))
    message = message_of(load, "npz", f"dataset.file={tmp_path / 'mine.npz'}", "dataset.image_size=8")
    assert message.startswith(f"dataset.file: {tmp_path / 'mine.npz'} cannot be read (Object arrays cannot be loaded")
    (tmp_path / "mine.npz").write_bytes(b"PK no")
    assert "cannot be read" in message_of(load, "npz", f"dataset.file={tmp_path / 'mine.npz'}", "dataset.image_size=8")
    assert "found no" in message_of(load, "npz", f"dataset.file={tmp_path / 'x.npz'}", "dataset.image_size=8")


# SVHN


def test_house_numbers(monkeypatch, tmp_path):
    root = lookalikes.write_svhn(tmp_path / "svhn")
    dataset = load("svhn", f"dataset.folder={root}", *ANY)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.train.labels.tolist() == [*np.repeat(range(1, 10), 2), 0, 0]
    assert torch.equal(dataset.train.images(), channels_first(pixels(20, 32, 0)))
    assert torch.equal(dataset.test.images(), channels_first(pixels(20, 32, 1)))
    more = load("svhn", f"dataset.folder={root}", "dataset.extra=true", *ANY)
    assert torch.equal(more.train.images()[20:], channels_first(pixels(20, 32, 2)))
    assert OF_SVHN["train_32x32.mat"] in message_of(load, "svhn", f"dataset.folder={root}")
    (root / "test_32x32.mat").write_bytes(b"no")
    assert "test_32x32.mat cannot be read" in message_of(load, "svhn", f"dataset.folder={root}", *ANY)
    (root / "test_32x32.mat").unlink()
    assert "expected test_32x32.mat in" in message_of(load, "svhn", f"dataset.folder={root}", *ANY)


# Tiny-ImageNet


def test_tiny_imagenet(tmp_path):
    root = lookalikes.write_tiny_imagenet(tmp_path)
    dataset = load("tiny_imagenet", f"dataset.folder={tmp_path}", "dataset.expected_counts=null")
    assert dataset.class_names == tuple(sorted(WNIDS))
    assert [split.labels.bincount().tolist() for split in (dataset.train, dataset.test)] == [[3] * 3, [2] * 3]
    assert dataset.image_shape == (3, 64, 64)
    listed = dict(line.split("\t")[:2] for line in (root / "val" / "val_annotations.txt").read_text().splitlines())
    for name, wnid in listed.items():
        shown = image_tensor(Image.open(root / "val" / "images" / name), 64, 3)
        (place,) = [k for k, image in enumerate(dataset.test.images()) if torch.equal(image, shown)]
        assert dataset.class_names[dataset.test.labels[place]] == wnid
    few = ("dataset.expected_counts=null", "dataset.classes=[n04067472,n01443537]")
    assert load("tiny_imagenet", f"dataset.folder={root}", *few).test.labels.bincount().tolist() == [2, 2]
    assert "100,000 images in its train split, found 9" in message_of(load, "tiny_imagenet", f"dataset.folder={root}")
    (root / "val" / "val_annotations.txt").unlink()
    assert "val_annotations.txt" in message_of(load, "tiny_imagenet", f"dataset.folder={root}", *few)
    assert "no wnids.txt" in message_of(load, "tiny_imagenet", f"dataset.folder={root / 'train'}", *few)


# WebDataset


def test_shards_with_numbers(tmp_path):
    root = lookalikes.write_shards(tmp_path / "pets", form="png")
    here = (f"dataset.folder={root}", "dataset.image_size=8")
    dataset = load("webdataset", *here, cache=tmp_path / "cache")
    assert (dataset.name, dataset.class_names) == ("pets", ("0", "1"))
    assert dataset.train.labels.tolist() == [0, 1] * 4
    assert torch.equal(dataset.train.images(), channels_first(pixels(8, seed=0)))
    assert torch.equal(dataset.test.images(), channels_first(pixels(4, seed=1)))
    assert load("webdataset", *here, "dataset.names=[cat,dog]").class_names == ("cat", "dog")
    assert "dataset.names: expected a name for each label" in message_of(
        load, "webdataset", *here, "dataset.names=[cat]"
    )


def test_shards_with_texts(tmp_path):
    root = lookalikes.write_shards(tmp_path / "pets", labels="json")
    dataset = load("webdataset", f"dataset.folder={root}", "dataset.image_size=8")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.test.labels.tolist() == [0, 1] * 2
    message = message_of(load, "webdataset", f"dataset.folder={root}", "dataset.label=class")
    assert "(sample000000.jpg) has no label" in message
    split = load("webdataset", f"dataset.folder={root}", "dataset.train='*.tar'", "dataset.test_share=0.25")
    assert (len(split.train), len(split.test)) == (8, 4)


def test_shards_that_cannot_be_read_are_named(tmp_path):
    root = lookalikes.write_shards(tmp_path / "pets")
    here = (f"dataset.folder={root}", "dataset.image_size=8")
    assert "expected shards '*val*.tar' in" in message_of(load, "webdataset", *here, "dataset.test='*val*.tar'")
    shard = root / "pets-train-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(gzip.compress(whole))
    assert f"{shard} is no plain tar file" in message_of(load, "webdataset", *here)
    start = whole.index(b"\xff\xd8\xff")
    shard.write_bytes(whole[: start + 40] + bytes(60) + whole[start + 100 :])
    message = message_of(load, "webdataset", *here)
    assert f"{shard} (sample000004.jpg) is truncated or damaged" in message


def test_a_shard_that_judges_what_it_teaches_is_refused(tmp_path):
    root = lookalikes.write_shards(tmp_path / "pets")
    message = message_of(
        load, "webdataset", f"dataset.folder={root}", "dataset.image_size=8", "dataset.test='*train*.tar'"
    )
    assert message.startswith("dataset.test: 8 test images are files of the training split")


# All of them, by the command


def arrays(folder):
    folder.mkdir()
    return lookalikes.write_npz(folder / "x.npz", channels=3, side=32)


READERS = {
    "parquet": ("folder", lookalikes.write_parquet, ("image_size=8",)),
    "cifar10": ("folder", lookalikes.write_cifar10_python, ("checksums=false", "expected_counts=null")),
    "cifar100": ("folder", lookalikes.write_cifar100_binary, ("checksums=false", "expected_counts=null")),
    "npz": ("file", arrays, ("image_size=32",)),
    "svhn": ("folder", lookalikes.write_svhn, ("checksums=false", "expected_counts=null")),
    "tiny_imagenet": ("folder", lookalikes.write_tiny_imagenet, ("expected_counts=null",)),
    "webdataset": ("folder", lookalikes.write_shards, ("image_size=8",)),
}


@pytest.mark.parametrize("name", READERS)
def test_each_is_distilled_by_the_command(name, tiny_prior, tmp_path):
    if name == "parquet" and find_spec("pyarrow") is None:
        pytest.skip("extra: parquet")
    key, write, changes = READERS[name]
    place = write(tmp_path / "data")
    here = (f"dataset={name}", f"dataset.{key}={place}", *(f"dataset.{change}" for change in changes))
    cache, out = tmp_path / "cache", tmp_path / "out"
    assert quick("distill", tiny_prior, cache, out, *here, "source=random", "ipc=1") == 0
    manifest = json.loads((out / "set" / "manifest.json").read_text())
    dataset = load(name, *here[1:])
    assert manifest["class_names"] == list(dataset.class_names)
    kept = list((out / "set").glob("*/*.png"))
    assert len(kept) == len(dataset.class_names)
    assert bool(list((cache / "decoded").rglob("*.npy"))) == (name in ("parquet", "tiny_imagenet", "webdataset"))
