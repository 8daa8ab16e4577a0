"""Datasets in memory: splits, the fixed digits split, IDX files, and what a user is told about bad input."""

import gzip
import hashlib
import importlib
import io
import struct
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from data_parts import message_of

from manifoldgd.data import digits, fashion_mnist
from manifoldgd.dataset import ImageDataset, in_memory_split, limit_per_class
from manifoldgd.set_guidance.networks import RandomNetworks
from manifoldgd.students.inference import Pixels

# The package binds the functions' names, so the modules of the same name are fetched by path.
idx_module = importlib.import_module("manifoldgd.data.fashion_mnist")


def test_subset_and_chunks_keep_the_order():
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    split = in_memory_split(images, torch.arange(10))
    assert torch.equal(split.images(chunk=3), images)
    part = split.subset(torch.tensor([7, 2, 5]))
    assert part.labels.tolist() == [7, 2, 5]
    assert part.load(torch.tensor([2, 0])).flatten().tolist() == [5, 7]


def test_limit_per_class_keeps_the_first_of_each():
    split = in_memory_split(torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1), torch.tensor([1, 0, 1, 1, 0, 0]))
    assert limit_per_class(split, 2).images().flatten().tolist() == [0, 1, 2, 4]
    assert limit_per_class(split, None) is split
    assert "train_per_class" in message_of(limit_per_class, split, 0)


def test_a_class_without_training_images_is_named():
    split = in_memory_split(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]))
    arguments = dict(image_shape=(1, 2, 2), train=split, test=split, mean=(0.0,), std=(1.0,), flip=True)
    arguments |= {"train_fingerprint": "", "test_fingerprint": ""}
    assert "'b'" in message_of(ImageDataset, name="toy", class_names=("a", "b"), **arguments)


def test_digits_split_is_fixed_disjoint_and_stratified():
    from sklearn.datasets import load_digits

    bundle = load_digits()
    dataset = digits(train_per_class=None, validation=None)
    assert (len(dataset.train), len(dataset.test)) == (1442, 355)
    # Independent rule: the 5th, 10th, ... image of each class, in the bundle's order.
    expected = sorted(np.concatenate([np.flatnonzero(bundle.target == label)[4::5] for label in range(10)]))
    pixels = torch.from_numpy(np.rint(bundle.images * 255 / 16).astype(np.uint8))[:, None]
    assert torch.equal(dataset.test.images(), pixels[expected])
    assert dataset.test.labels.tolist() == bundle.target[expected].tolist()
    rest = np.setdiff1d(np.arange(1797), expected)
    assert torch.equal(dataset.train.images(), pixels[rest])
    assert dataset.train.labels.tolist() == bundle.target[rest].tolist()
    assert torch.bincount(dataset.test.labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]


def test_digits_statistics_range_and_limit():
    dataset = digits(train_per_class=None, validation=None)
    images = dataset.train.images()
    assert images.shape[1:] == dataset.image_shape
    assert (images.dtype, int(images.min()), int(images.max())) == (torch.uint8, 0, 255)
    pixels = images.double() / 255
    assert dataset.mean == pytest.approx([float(pixels.mean())], abs=2e-3)
    assert dataset.std == pytest.approx([float(pixels.std())], abs=2e-3)
    few = digits(train_per_class=3, validation=None)
    assert torch.bincount(few.train.labels).tolist() == [3] * 10
    assert len(few.test) == 355
    assert few.train_fingerprint != dataset.train_fingerprint
    assert few.test_fingerprint == dataset.test_fingerprint


def idx_bytes(values, magic):
    return struct.pack(f">{1 + values.ndim}i", magic, *values.shape) + values.tobytes()


def idx_contents(seed=0):
    draw = np.random.default_rng(seed)
    contents = {}
    for prefix, count in (("train", 40), ("t10k", 20)):
        images = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        contents[f"{prefix}-images-idx3-ubyte"] = idx_bytes(images, 2051)
        contents[f"{prefix}-labels-idx1-ubyte"] = idx_bytes(np.arange(count, dtype=np.uint8) % 10, 2049)
    return contents


def write_idx(folder, contents, packed=False):
    folder.mkdir(exist_ok=True)
    for name, raw in contents.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
    return str(folder)


def load_idx(folder, download=False, train_per_class=None, validation=None):
    return fashion_mnist(folder=folder, download=download, train_per_class=train_per_class, validation=None)


def test_plain_and_packed_idx_files_read_alike(tmp_path):
    contents = idx_contents()
    plain = load_idx(write_idx(tmp_path / "plain", contents))
    packed = load_idx(write_idx(tmp_path / "packed", contents, packed=True))
    raw = np.frombuffer(contents["train-images-idx3-ubyte"], np.uint8)[16:].reshape(40, 1, 28, 28)
    for dataset in (plain, packed):
        assert np.array_equal(dataset.train.images().numpy(), raw)
        assert dataset.train.labels.tolist() == [*range(10)] * 4
        assert dataset.test.images().shape == (20, 1, 28, 28)
        assert dataset.image_shape == (1, 28, 28)
    assert plain.train_fingerprint == packed.train_fingerprint
    assert plain.test_fingerprint == packed.test_fingerprint


def test_idx_fingerprint_follows_contents_and_limit(tmp_path):
    folder = write_idx(tmp_path / "a", idx_contents())
    one = load_idx(folder)
    other = load_idx(write_idx(tmp_path / "b", idx_contents(seed=1)))
    mixed = {name: raw for name, raw in idx_contents(seed=1).items() if name.startswith("t10k")}
    judged_otherwise = load_idx(write_idx(tmp_path / "c", {**idx_contents(), **mixed}))
    assert other.train_fingerprint != one.train_fingerprint == judged_otherwise.train_fingerprint
    assert other.test_fingerprint == judged_otherwise.test_fingerprint != one.test_fingerprint
    few = load_idx(folder, train_per_class=2, validation=None)
    assert few.train_fingerprint != one.train_fingerprint
    assert few.test_fingerprint == one.test_fingerprint
    assert (len(few.train), len(few.test)) == (20, 20)


def replaced(name, raw):
    return {**idx_contents(), name: raw}


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        (IMAGES, idx_contents()[IMAGES][:-1], "31360 bytes"),
        (IMAGES, idx_contents()[IMAGES] + b"\0", "31361 bytes"),
        (IMAGES, idx_contents()[IMAGES][:10], "not a readable IDX file"),
        (IMAGES, b"", "not a readable IDX file"),
        (LABELS, b"\x00\x00\x08\x03" + idx_contents()[LABELS][4:], "magic 2051"),
        (LABELS, idx_bytes(np.full(20, 10, np.uint8), 2049), "labels up to 10"),
        (LABELS, idx_bytes(np.zeros(19, np.uint8), 2049), "19 labels"),
        (IMAGES, idx_bytes(np.zeros((40, 27, 28), np.uint8), 2051), "27x28"),
    ],
)
def test_bad_idx_file_is_named(tmp_path, name, raw, says):
    message = message_of(load_idx, write_idx(tmp_path / "bad", replaced(name, raw)))
    assert says in message
    assert "folder" in message
    assert (name in message) or (str(tmp_path / "bad" / name.split("-")[0]) in message)


@pytest.mark.parametrize("damage", [lambda packed: packed[:-20], lambda packed: b"PK" + packed, "flip"])
def test_damaged_gzip_is_named(tmp_path, damage):
    folder = write_idx(tmp_path / "bad", idx_contents(), packed=True)
    path = tmp_path / "bad" / f"{IMAGES}.gz"
    packed = bytearray(path.read_bytes())
    if damage == "flip":
        packed[10:60] = bytes(255 - value for value in packed[10:60])
    path.write_bytes(packed if damage == "flip" else damage(bytes(packed)))
    message = message_of(load_idx, folder)
    assert "folder" in message
    assert str(path) in message


def test_missing_idx_files_are_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network unasked"))
    message = message_of(load_idx, str(tmp_path / "nothing"))
    assert str(tmp_path / "nothing") in message
    assert "folder" in message
    assert "download=true" in message


def serve(monkeypatch, answer):
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return answer(url.rsplit("/", 1)[1].removesuffix(".gz"))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_download_fetches_what_is_missing_and_only_once(tmp_path, monkeypatch):
    contents = idx_contents()
    for name, raw in contents.items():
        monkeypatch.setitem(idx_module.SHA256, name, hashlib.sha256(raw).hexdigest())
    asked = serve(monkeypatch, lambda name: io.BytesIO(gzip.compress(contents[name], mtime=0)))
    folder = write_idx(tmp_path / "cache", {IMAGES: contents[IMAGES]})
    dataset = load_idx(folder, download=True)
    assert len(asked) == 3
    assert all(url.startswith("https://") and IMAGES not in url for url in asked)
    assert load_idx(folder, download=True).train_fingerprint == dataset.train_fingerprint
    assert len(asked) == 3


def test_download_with_another_checksum_is_refused_and_not_kept(tmp_path, monkeypatch):
    contents = idx_contents()
    serve(monkeypatch, lambda name: io.BytesIO(gzip.compress(contents[name], mtime=0)))
    message = message_of(load_idx, str(tmp_path / "cache"), download=True)
    assert "download" in message
    assert hashlib.sha256(contents[IMAGES]).hexdigest() in message
    assert idx_module.SHA256[IMAGES] in message
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("answer", [b"<html>captive portal</html>", gzip.compress(bytes(9000), mtime=0)[:-9], None])
def test_failed_download_says_what_to_do(tmp_path, monkeypatch, answer):
    def reply(name):
        if answer is None:
            raise urllib.error.URLError("no network")
        return io.BytesIO(answer)

    serve(monkeypatch, reply)
    message = message_of(load_idx, str(tmp_path / "cache"), download=True)
    assert "download" in message
    assert "folder" in message
    assert f"{IMAGES}.gz" in message


@pytest.mark.parametrize(("mean", "std"), [(122.0, 0.5), (0.5, 57.0), (-3.0, 0.5), (0.5, 1e-9), (0.5, float("nan"))])
def test_statistics_that_no_pixels_have_are_refused_wherever_they_enter(mean, std):
    split = in_memory_split(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0]))
    facts = dict(train=split, test=split, train_fingerprint="", test_fingerprint="", flip=True)
    for entry in (
        lambda: ImageDataset(name="x", class_names=("a",), image_shape=(1, 8, 8), mean=(mean,), std=(std,), **facts),
        lambda: Pixels((mean,), (std,)),
        lambda: RandomNetworks((1, 8, 8), count=1, width=4, mean=(mean,), std=(std,), precision="32-true", seed=None),
    ):
        assert message_of(entry).startswith(("mean: expected 1 number in", "std: expected 1 number in"))
