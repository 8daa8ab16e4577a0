"""Images are encoded once: found again by what they depend on, whole or not there, checked when read."""

import copy
import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from latents_cache_parts import blind
from small_disk import small_disk
from tiny import cpu, write_tiny_prior

from manifoldgd.artifacts import Key
from manifoldgd.data import digits
from manifoldgd.errors import UserError
from manifoldgd.latents.encoding import ReadAhead
from manifoldgd.pipeline import latents
from manifoldgd.priors import load_prior
from manifoldgd.priors.prior import Prior
from manifoldgd.prototypes import Divisive, Random, RawLatents
from manifoldgd.store import rows
from manifoldgd.store.cache import cached_latents


@pytest.fixture(scope="module")
def dataset():
    return digits(train_per_class=6, validation=None)


@pytest.fixture
def encoded(dataset, prior, tmp_path):
    return latents.encode(dataset, prior, cpu(), tmp_path)[0]


def test_latents_are_the_prior_s_in_the_order_of_the_split(dataset, prior, encoded):
    torch.testing.assert_close(encoded.latents, prior.encode(dataset.train.images()), atol=1e-5, rtol=1e-5)
    assert torch.equal(encoded.labels, dataset.train.labels)
    assert encoded.class_names == dataset.class_names
    assert encoded.latents.dtype == torch.float32


def test_the_second_run_encodes_nothing(dataset, prior, encoded, tmp_path):
    again, cached = latents.encode(blind(dataset), prior, cpu(batch_size=7), tmp_path)
    assert cached
    assert torch.equal(again.latents, encoded.latents)
    assert again.key == encoded.key


def test_images_that_do_not_fit_are_encoded_in_halves_to_the_same_bits(
    dataset, prior, encoded, tmp_path, monkeypatch, capsys
):
    rows, real = [], Prior.encode

    def small(self, images):
        rows.append(len(images))
        if len(images) > 20:
            raise torch.OutOfMemoryError("out of memory")
        return real(self, images)

    monkeypatch.setattr(Prior, "encode", small)
    other, _ = latents.encode(dataset, prior, cpu(), tmp_path / "other")
    assert torch.equal(other.latents, encoded.latents)
    assert rows == [60, 30, 15, 15, 15, 15]
    assert capsys.readouterr().err.count("\n") == 2


def test_batch_size_changes_nothing_beyond_rounding(dataset, prior, encoded, tmp_path):
    other, cached = latents.encode(dataset, prior, cpu(batch_size=7), tmp_path / "other")
    assert not cached
    torch.testing.assert_close(other.latents, encoded.latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_latents_of_half_precision_take_half_the_room(dataset, prior, encoded, tmp_path, precision):
    # Of its own: weights that were held in half precision stay so.
    found, _ = latents.encode(dataset, copy.deepcopy(prior), cpu(precision=precision), tmp_path)
    sizes = [(tmp_path / "latents" / key / "latents.npy").stat().st_size - 128 for key in (encoded.key, found.key)]
    assert sizes[0] == 2 * sizes[1] == 4 * encoded.latents.numel()
    rows = torch.tensor([[3, 5], [59, 0]])
    assert found.latents.dtype == torch.float16
    assert found.of(rows).dtype == encoded.of(rows).dtype == torch.float32
    assert torch.equal(found.of(rows), found.latents.float()[rows])
    torch.testing.assert_close(found.of(rows), encoded.latents[rows], atol=0.05, rtol=0.05)  # bfloat16's rounding
    one, another = (cluster(each, tmp_path)[0] for each in (encoded, found))
    torch.testing.assert_close(one.prototypes, another.prototypes, atol=0.1, rtol=0.1)


def test_one_batch_is_read_ahead_and_an_error_comes_in_its_turn(dataset):
    read, batches = [], list(torch.arange(20).split(5))

    def load(positions):
        read.append(int(positions[0]))
        if positions[0] == 10:
            raise UserError("no picture")
        return dataset.train.load(positions)

    ahead = iter(ReadAhead(dataclasses.replace(dataset.train, load=load), batches, pinned=False))
    assert torch.equal(next(ahead), dataset.train.load(batches[0]))
    assert torch.equal(next(ahead), dataset.train.load(batches[1]))  # while the third is read, which fails
    with pytest.raises(UserError, match="no picture"):
        next(ahead)
    assert read == [0, 5, 10]


def test_writing_to_the_latents_never_reaches_the_file(dataset, prior, encoded, tmp_path):
    encoded.latents.zero_()
    again, _ = latents.encode(blind(dataset), prior, cpu(), tmp_path)
    assert float(again.latents.abs().sum()) > 0


def test_the_key_depends_on_prior_dataset_and_precision(dataset, prior, encoded, tmp_path):
    other_prior = load_prior(
        path=str(write_tiny_prior(tmp_path / "p", seed=8)), autoencoder=None, cfg_scale=None, cfg_channels=None
    )
    keys = {
        encoded.key,
        latents.encode(dataset, other_prior, cpu(), tmp_path)[0].key,
        latents.encode(digits(train_per_class=5, validation=None), prior, cpu(), tmp_path)[0].key,
        latents.encode(dataset, prior, cpu(precision="bf16-mixed"), tmp_path)[0].key,
    }
    assert len(keys) == 4
    same = dataclasses.replace(prior, cfg_scale=9.0, name="elsewhere")
    assert latents.encode(blind(dataset), same, cpu(), tmp_path)[1]


@pytest.mark.parametrize("name", ["latents.npy", "labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damage_is_named_and_says_what_to_remove(dataset, prior, encoded, tmp_path, name, damage):
    folder = tmp_path / "latents" / encoded.key
    data = bytearray((folder / name).read_bytes())
    if damage == "gone":
        (folder / name).unlink()
    elif damage == "cut":
        (folder / name).write_bytes(data[: len(data) // 2])
    else:
        data[-9] ^= 0x41
        (folder / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        latents.encode(blind(dataset), prior, cpu(), tmp_path)
    assert str(folder) in str(caught.value)
    assert "remove" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failed_encoding_leaves_nothing(dataset, prior, tmp_path):
    with pytest.raises(AssertionError, match="decoded again"):
        latents.encode(blind(dataset), prior, cpu(), tmp_path)
    assert [each.name for each in (tmp_path / "latents").iterdir() if each.suffix != ".lock"] == []
    assert not latents.encode(dataset, prior, cpu(), tmp_path)[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_encoding_that_was_stopped_goes_on_where_it_was(dataset, prior, encoded, tmp_path, monkeypatch, error):
    monkeypatch.setattr(rows, "NOTE_SECONDS", -1.0)
    cache, whole, loaded = tmp_path / "stopped", prior.encode(dataset.train.images()), []

    def load(positions):
        if len(loaded) == 3:
            raise error
        loaded.append(positions)
        return dataset.train.load(positions)

    stopping = dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, load=load))
    with pytest.raises((error, SystemExit)):  # Lightning ends the process at an interrupt
        latents.encode(stopping, prior, cpu(batch_size=7), cache)
    loaded.clear()
    monkeypatch.setattr(rows, "NOTE_SECONDS", 1.0)

    def note(positions):
        loaded.append(positions)
        return dataset.train.load(positions)

    again = dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, load=note))
    found, cached = latents.encode(again, prior, cpu(batch_size=7), cache)
    assert not cached
    assert torch.cat(loaded).tolist() == list(range(21, 60))
    other, _ = latents.encode(dataset, prior, cpu(batch_size=7), tmp_path / "at once")
    assert torch.equal(found.latents, other.latents)
    torch.testing.assert_close(found.latents, whole, atol=1e-5, rtol=1e-5)
    names = sorted(each.name for each in (cache / "latents").glob("*/*"))
    assert names == ["labels.npy", "latents.npy", "meta.json"]


def test_a_full_cache_disk_is_an_error_and_loses_nothing(dataset, prior, tmp_path):
    with small_disk(tmp_path / "disk", "16k") as disk:
        for _ in range(2):
            with pytest.raises(OSError, match="No space left on device"):
                latents.encode(digits(train_per_class=None, validation=None), prior, cpu(), disk)
            assert not list((disk / "latents").glob("*/*"))


def _encode_slowly(cache, value, started, encoded):
    def encode(rows):
        encoded.put(value)
        rows.append(np.full((3, 1, 2, 2), value, dtype=np.float32))
        started.set()
        time.sleep(0.5)  # the other one comes meanwhile

    if value > 1:
        assert started.wait(60)
    labels, shape = torch.tensor([0, 0, 1]), (1, 2, 2)
    numbers = {"shape": shape, "batch_size": 3, "dtype": np.float32}
    found, there = cached_latents(cache, Key("key"), labels, ("a", "b"), encode, **numbers)
    assert (float(found.latents.mean()), there) == (1.0, value > 1)


def test_of_two_processes_one_encodes_and_the_other_waits(tmp_path):
    left = tmp_path / "latents" / ".key.0123456789abcdef"  # of a process that was killed
    left.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    started, encoded = context.Event(), context.Queue()
    both = [context.Process(target=_encode_slowly, args=(tmp_path, value, started, encoded)) for value in (1.0, 2.0)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert encoded.get(timeout=10) == 1.0
    assert encoded.empty()
    assert sorted(each.name for each in (tmp_path / "latents").iterdir()) == [".key.lock", "key"]


def cluster(encoded, tmp_path, clusterer=None, config="divisive", **changes):
    numbers = {"ipc": 2, "seed": 0, "machine": cpu(), "cache": tmp_path} | changes
    clusterer = clusterer or Divisive(criterion="sse", representative="nearest", space=RawLatents(), restarts=2)
    return latents.cluster(encoded, clusterer, {"_target_": config}, **numbers)


def test_prototypes_are_found_once(encoded, tmp_path):
    found, cached = cluster(encoded, tmp_path)
    again, cached_again = cluster(encoded, tmp_path, Random())  # would give others, if asked
    assert (cached, cached_again) == (False, True)
    for name in ("prototypes", "labels", "ranks", "nearest", "depths", "sizes"):
        assert torch.equal(getattr(found, name), getattr(again, name))
    assert (again.class_names, again.key, again.ipc) == (found.class_names, found.key, 2)
    others = [
        cluster(encoded, tmp_path, ipc=3),
        cluster(encoded, tmp_path, seed=1),
        cluster(encoded, tmp_path, None, "x"),
    ]
    assert len({found.key, *(other.key for other, _ in others)}) == 4


def test_damaged_prototypes_are_named(encoded, tmp_path):
    found, _ = cluster(encoded, tmp_path)
    file = tmp_path / "prototypes" / f"{found.key}.safetensors"
    for data in (file.read_bytes()[:40], b"", b"{}"):
        file.write_bytes(data)
        with pytest.raises(UserError, match=f"{found.key}.* remove it to cluster again") as caught:
            cluster(encoded, tmp_path)
        assert "\n" not in str(caught.value)


def test_checks_before_long_work(dataset):
    latents.check_ipc(dataset, 6)
    latents.check_neighbourhood(dataset, 6)
    with pytest.raises(UserError, match=r"ipc: .*got 7, but class '0' has 6.*lower ipc"):
        latents.check_ipc(dataset, 7)
    with pytest.raises(UserError, match="ipc: expected at least 1"):
        latents.check_ipc(dataset, 0)
    with pytest.raises(UserError, match=r"^neighbourhood: expected at most the 6 .* got 7"):
        latents.check_neighbourhood(dataset, 7)


def test_images_that_do_not_fit_are_refused_before_anything_is_written(dataset, prior, tmp_path):
    large = dataclasses.replace(dataset, image_shape=(1, 16, 16))
    with pytest.raises(UserError, match="at most 8x8"):
        latents.encode(large, prior, cpu(), tmp_path / "c")
    assert not (tmp_path / "c").exists()
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_processes_cluster_as_one_does_and_their_errors_are_whole(dataset, encoded, monkeypatch):
    def clustered(ipc):
        clusterer = Divisive(criterion="sse", representative="nearest", space=RawLatents(), restarts=2)
        machine = dataclasses.replace(cpu(), threads=2)
        return latents.cluster(encoded, clusterer, {}, ipc=ipc, seed=0, machine=machine, cache=None)[0]

    here = clustered(3)
    with pytest.raises(UserError) as told:
        clustered(9)
    monkeypatch.setattr(latents, "WORTH_PROCESSES", 1)
    there = clustered(3)
    assert torch.equal(here.prototypes, there.prototypes)
    assert torch.equal(here.nearest, there.nearest)
    with pytest.raises(UserError) as told_there:
        clustered(9)
    assert (str(told_there.value), told_there.value.key) == (str(told.value), told.value.key)


COMPUTING = """
import hashlib, os
from manifoldgd.pipeline.latents import in_processes
from manifoldgd.stopping import Stopped, listening

def compute(number):
    os.write(1, b"ready\\n")  # in one piece, as both processes say it
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # a long call that hears no signal

try:
    with listening():
        list(in_processes(2)(compute, range(4)))
except Stopped as stop:
    print(stop.exit_code, flush=True)
"""


def test_processes_that_compute_end_at_once_with_the_one_that_waits():
    number = signal.SIGTERM
    command = [sys.executable, "-c", COMPUTING]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, start_new_session=True)
    try:
        assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n", "ready\n"]
        began = time.monotonic()
        process.send_signal(number)
        assert process.stdout.readline() == f"{128 + number}\n"
        assert time.monotonic() - began < 4
        said, errors = process.communicate(timeout=60)  # until the last of them has closed it
        assert (process.returncode, said, errors) == (0, "", "")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started would compute for an hour
