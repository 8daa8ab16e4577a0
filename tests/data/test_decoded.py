"""The store of decoded images: the same bits, decoded once, whole after a kill, and honest about the disk."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from data_parts import SAMPLES, load_folder, message_of, noise_image, write_image

from manifoldgd.data import decoded, image_dataset, image_files
from manifoldgd.data.decoded import DecodedStore
from manifoldgd.data.transforms import Treatment
from manifoldgd.progress import data_size

TRAIN = sum(name.startswith("train") for name in SAMPLES)


@pytest.fixture
def decodings(monkeypatch):
    """The names of the pictures that are decoded, in whatever way."""
    names = []
    opened = image_files.opened

    def watched(data):
        names.append(len(data))
        return opened(data)

    monkeypatch.setattr(image_files, "opened", watched)
    return names


@pytest.mark.parametrize(
    "changes", [{}, {"channels": 1}, {"image_size": 5}, {"fit": "pad"}, {"fit": "stretch"}], ids=str
)
def test_bits_are_those_of_decoding_anew(pets, tmp_path, changes):
    plain = load_folder(pets, **changes)
    for _ in range(2):  # while contents are looked at, and from the store
        kept = load_folder(pets, cache=tmp_path / "cache", **changes)
        assert torch.equal(kept.train.images(), plain.train.images())
        assert torch.equal(kept.test.images(), plain.test.images())
        some = torch.tensor([3, 0, 3])
        assert torch.equal(kept.train.load(some), plain.train.load(some))
        assert kept.train.load(torch.tensor([], dtype=torch.int64)).shape == (0, *plain.image_shape)
        assert (kept.train_fingerprint, kept.test_fingerprint) == (plain.train_fingerprint, plain.test_fingerprint)
        assert kept.train.digests == plain.train.digests


def test_deep_images_are_kept_at_their_white(pets, tmp_path):
    from PIL import Image

    deep = np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)
    for name in ("train/cat/9.png", "test/dog/9.png"):
        Image.fromarray(deep).save(pets / name)
    plain, kept = (load_folder(pets, white=4095, **how) for how in ({}, {"cache": tmp_path / "cache"}))
    assert torch.equal(kept.train.images(), plain.train.images())
    assert int(kept.train.images()[3].max()) == 255


def test_each_picture_is_decoded_once(pets, decodings, tmp_path):
    load_folder(pets, cache=tmp_path / "cache")
    assert len(decodings) == len(SAMPLES)
    dataset = load_folder(pets, cache=tmp_path / "cache")
    for _ in range(3):
        dataset.train.images()
        dataset.test.images()
    assert len(decodings) == len(SAMPLES)
    load_folder(pets, cache=tmp_path / "cache", classes=["dog"]).train.images()
    shutil.copytree(pets, tmp_path / "moved")
    load_folder(tmp_path / "moved", cache=tmp_path / "cache").train.images()
    assert len(decodings) == len(SAMPLES)


def test_each_file_is_read_once(pets, monkeypatch, tmp_path):
    """From the first look at a folder to the last step of a training on it, in as many commands as it takes."""
    read, sizes = image_files.ImageFile.read, []

    def watched(file):
        sizes.append(file.num_bytes)
        return read(file)

    monkeypatch.setattr(image_files.ImageFile, "read", watched)
    for _ in range(3):
        dataset = load_folder(pets, cache=tmp_path / "cache")
        dataset.train.images()
        dataset.test.images()
        dataset.train.load(torch.tensor([0, 1]))
    assert sum(sizes) == sum(file.stat().st_size for file in pets.rglob("*") if file.is_file())


def test_another_size_is_decoded_when_it_is_asked_for(pets, decodings, tmp_path):
    load_folder(pets, cache=tmp_path / "cache")
    del decodings[:]
    dataset = load_folder(pets, cache=tmp_path / "cache", image_size=6)
    assert decodings == []
    dataset.train.load(torch.tensor([2]))
    assert len(decodings) == 1
    dataset.train.images()
    assert len(decodings) == TRAIN


def test_who_asks_for_many_has_the_whole_split_decoded(pets, decodings, monkeypatch, tmp_path):
    monkeypatch.setattr(decoded, "FEW", 1)
    load_folder(pets)
    del decodings[:]
    dataset = load_folder(pets, cache=tmp_path / "cache")
    dataset.train.load(torch.tensor([2]))
    assert len(decodings) == 1
    dataset.train.load(torch.tensor([3]))
    assert len(decodings) == TRAIN


def test_one_flipped_byte_is_found_with_a_remedy_that_works(pets, tmp_path):
    expected = load_folder(pets, cache=tmp_path / "cache").train.images()
    (file,) = (tmp_path / "cache").rglob("*.npy")
    whole = file.read_bytes()
    for place in range(130, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        # A picture whose name is damaged is not found, and decoded again.
        dataset = load_folder(pets, cache=tmp_path / "cache")
        try:
            found = torch.equal(dataset.train.images(), expected)
            dataset.test.images()
        except ValueError as error:
            found = str(error) == f"{file}: damaged (checksum mismatch); remove it to decode its images again"
        assert found
        for other in set(file.parent.glob("*.npy")) - {file}:
            other.unlink()
    file.unlink()
    assert torch.equal(load_folder(pets, cache=tmp_path / "cache").train.images(), expected)


@pytest.mark.parametrize("keep", [0, 40, 400])
def test_a_cut_file_is_named(pets, tmp_path, keep):
    load_folder(pets, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").rglob("*.npy")
    file.write_bytes(file.read_bytes()[:keep])
    message = message_of(load_folder, pets, cache=tmp_path / "cache")
    assert message.startswith(f"{file}: damaged")
    assert "remove it to decode its images again" in message


def test_a_picture_that_changes_under_a_run_is_not_taken(pets, tmp_path):
    load_folder(pets)
    dataset = load_folder(pets, cache=tmp_path / "cache")
    write_image(pets / "train/cat/0.png", "RGB", (12, 9), 99)
    assert "train/cat/0.png has changed since it was checked" in message_of(dataset.train.images)


def test_what_is_to_be_decoded_is_said_before(pets, capsys, monkeypatch, tmp_path):
    from manifoldgd.data import contents

    monkeypatch.setattr(contents, "ANNOUNCED", 2)
    load_folder(pets, cache=tmp_path / "cache")
    said = capsys.readouterr().out
    size = sum((pets / name).stat().st_size for name in SAMPLES)
    assert f"decode 8 images, {data_size(size)}, once: to 8x8 pixels of 3 bytes, 1.8 kB in {tmp_path}" in said
    assert "decode 8 images: done in" in said


def test_a_disk_without_room_is_left_alone(pets, capsys, monkeypatch, tmp_path):
    expected = load_folder(pets).train.images()
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9000, 8000, 1000))
    dataset = load_folder(pets, cache=tmp_path / "cache")
    assert "8 decoded images would take 1.8 kB, too much of what is free" in capsys.readouterr().err
    assert torch.equal(dataset.train.images(), expected)
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_fills_up_later_is_left_alone_too(pets, monkeypatch, tmp_path):
    expected = load_folder(pets).train.images()
    dataset = load_folder(pets, cache=tmp_path / "cache")
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9000, 8000, 1000))
    assert torch.equal(dataset.train.images(), expected)
    assert not list(tmp_path.rglob("*.npy"))


def test_files_are_written_by_size(pets, monkeypatch, tmp_path):
    monkeypatch.setattr(decoded, "LARGEST_FILE", 3 * (8 * 8 * 3 + 32))
    dataset = load_folder(pets, cache=tmp_path / "cache")
    files = list((tmp_path / "cache").rglob("*.npy"))
    assert sorted(len(np.load(file)) for file in files) == [2, 3, 3]
    assert torch.equal(dataset.test.images(), load_folder(pets).test.images())


def test_a_store_is_opened_in_one_look_at_each_file(monkeypatch, tmp_path):
    """A look for each row would make opening a file of 90,000 quadratic."""

    class Watched(np.ndarray):
        def tobytes(self, *order):
            looks.append(len(self))
            return super().tobytes(*order)

    looks, load = [], np.load
    store = DecodedStore(tmp_path, Treatment(2, 1, None, None))
    for contents in (range(5), range(5, 12)):
        with store.adding() as adding:
            for content in contents:
                adding.add(bytes([content]) * 16, torch.full((1, 2, 2), content, dtype=torch.uint8))
    monkeypatch.setattr(decoded.np, "load", lambda *given, **how: load(*given, **how).view(Watched))
    opened = DecodedStore(tmp_path, Treatment(2, 1, None, None))
    assert sorted(looks) == [5, 7]
    assert len(opened) == 12


def test_a_store_that_is_sent_to_another_process_opens_its_files_anew(tmp_path):
    store = DecodedStore(tmp_path, Treatment(4, 3))
    image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
    with store.adding() as adding:
        adding.add(b"a" * 16, image)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent).load([b"a" * 16])[0], image)


def test_treatments_share_nothing(tmp_path):
    folders = {
        DecodedStore(tmp_path, Treatment(*numbers)).folder
        for numbers in ((8, 3), (9, 3), (8, 1), (8, 3, 4095), (8, 3, None, "pad"), (8, 3, None, "stretch"))
    }
    assert len(folders) == 6


PROGRAM = """
import sys
from data_parts import load_folder
from manifoldgd.data import decoded, image_dataset, image_files
decoded.WRITE_EVERY = 0.2
image_dataset.record_of = lambda folder: __import__("pathlib").Path(sys.argv[2])
slow = image_files.opened
def opened(data):
    __import__("time").sleep(0.1)
    return slow(data)
image_files.opened, image_files.THREADS = opened, 1
load_folder(sys.argv[1], cache=__import__("pathlib").Path(sys.argv[3]))
"""


# SIGTERM, which nobody listens to there, ends the process as SIGKILL does.
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_what_a_killed_process_decoded_is_not_decoded_again(decodings, monkeypatch, tmp_path, number):
    for split in ("train", "test"):
        for k in range(24):
            path = tmp_path / "photos" / split / "a" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise_image(9, 9, seed=k + 100 * (split == "test")).save(path)
    cache, record = tmp_path / "cache", tmp_path / "record.bin"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", PROGRAM, tmp_path / "photos", record, cache]
    with subprocess.Popen(arguments, env=environment) as process:
        while process.poll() is None and not (list(cache.rglob("[!.]*.npy")) and record.exists()):
            time.sleep(0.01)
        process.send_signal(number)
    left = len(DecodedStore(cache, Treatment(8, 3)))
    assert 0 < left < 48
    monkeypatch.setattr(image_dataset, "record_of", lambda folder: record)
    dataset = load_folder(tmp_path / "photos", cache=cache)
    assert 48 - left - 8 <= len(decodings) <= 48 - left
    assert torch.equal(dataset.train.images(), load_folder(tmp_path / "photos").train.images())
    assert not list(cache.rglob(".*.npy"))
