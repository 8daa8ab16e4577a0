"""Weight files are hashed whole, once; damage is found where there is something to compare with."""

import hashlib
import json
import os
import shutil
from fnmatch import fnmatch

import pytest
from tiny import write_tiny_prior

from manifoldgd import files
from manifoldgd.errors import UserError
from manifoldgd.priors import load_prior
from manifoldgd.priors.loading import BUNDLED_FOLDER
from manifoldgd.priors.weights import CHECKSUMS, check_files, write_checksums

WEIGHTS = ("transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")
CONFIGS = ("transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def load(path, **changes):
    return load_prior(**{"path": str(path), "autoencoder": None, "cfg_scale": None, "cfg_channels": None} | changes)


def flip(file, position=None):
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 0x04
    file.write_bytes(data)


@pytest.fixture
def folder(tiny_prior, tmp_path):
    return shutil.copytree(tiny_prior, tmp_path / "prior")


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_byte_in_the_middle_changes_the_key(folder, name):
    before = load(folder).key
    flip(folder / name)
    assert load(folder).key != before


def test_a_byte_in_the_middle_of_a_large_file_changes_the_key_and_not_the_former_one(folder):
    before = load(folder).key
    file = folder / "transformer" / "more.safetensors"  # never read, but beside those that are
    file.write_bytes(bytes(5 << 20))
    large = load(folder).key
    flip(file)
    after = load(folder).key
    assert len({before, large, after}) == 3
    assert large.former == after.former


def test_the_scheduler_is_part_of_the_key(folder):
    before = load(folder).key
    file = folder / CONFIGS[2]
    file.write_text(json.dumps({**json.loads(file.read_text()), "beta_end": 0.03}))
    after = load(folder).key
    assert after != before
    assert after.former == before.former


@pytest.mark.parametrize("name", [*WEIGHTS, *CONFIGS, "model_index.json", "manifoldgd.json"])
def test_damage_to_a_file_that_is_listed_is_found(folder, name):
    (folder / "manifoldgd.json").write_text('{"cfg_scale": 1.5}')
    write_checksums(folder)
    load(folder)
    flip(folder / name)
    wanted = rf"path: .*{name} is damaged \(checksum mismatch\); restore it"
    with pytest.raises(UserError, match=wanted) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    (folder / CHECKSUMS).unlink()  # one who changed it on purpose
    if name in WEIGHTS:
        load(folder)


def test_a_missing_or_damaged_list_is_named(folder):
    write_checksums(folder)
    (folder / WEIGHTS[0]).unlink()
    with pytest.raises(UserError, match="is missing; restore it"):
        load(folder)
    for text in ("{", "[]", "{}", '{"../x": "y"}', '{"/x": "y"}'):
        (folder / CHECKSUMS).write_text(text)
        with pytest.raises(UserError, match=rf"{CHECKSUMS} is damaged"):
            load(folder)


def test_an_autoencoder_of_its_own_is_checked_too(tiny_prior, folder):
    write_checksums(folder / "vae")
    load(tiny_prior, autoencoder=str(folder / "vae"))
    flip(folder / WEIGHTS[1])
    with pytest.raises(UserError, match=r"autoencoder: .* is damaged"):
        load(tiny_prior, autoencoder=str(folder / "vae"))


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "classifiers"])
def test_all_bundled_files_are_listed_and_as_listed(name):
    folder = BUNDLED_FOLDER / name
    held = json.loads((folder / CHECKSUMS).read_text())
    assert set(held) == {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and file.suffix in (".safetensors", ".json") and file.name != CHECKSUMS
    }
    check_files(folder, "path", {}, remedy="")


def hub_cache(prior, place, large):
    """A prior as the hub's client keeps it: links to blobs that are called by their hashes."""
    snapshot, blobs = place / "snapshots" / "c0ffee", place / "blobs"
    blobs.mkdir(parents=True)
    for file in sorted(prior.rglob("*.*")):
        data = file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        name = hashlib.sha256(data).hexdigest() if file.suffix in large else git
        (blobs / name).write_bytes(data)
        link = snapshot / file.relative_to(prior)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / name, link.parent))
    return snapshot


@pytest.mark.parametrize("name", [*WEIGHTS, *CONFIGS, "model_index.json"])
def test_damage_to_what_the_hub_s_client_keeps_is_found(tiny_prior, tmp_path, name):
    folder = hub_cache(tiny_prior, tmp_path / "models--me--prior", (".safetensors",))
    prior = load(folder)
    assert prior.key == load(tiny_prior).key
    assert prior.revision == "c0ffee"
    assert load(tiny_prior).revision is None
    flip((folder / name).resolve())
    with pytest.raises(UserError, match=r"is damaged \(checksum mismatch\); remove \S+/blobs/\w+ and \S+ to have it"):
        load(folder)


def taken(patterns, file):
    return any(fnmatch(file, pattern) for pattern in patterns)


def snapshots(monkeypatch, cached):
    import huggingface_hub

    asked = []

    def snapshot(path, *, revision, allow_patterns, local_files_only=False):
        asked.append((path, revision, tuple(allow_patterns)))
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr("manifoldgd.hub.check_network", lambda: None)
    return asked


def test_the_hub_is_asked_for_a_revision_and_for_safetensors(monkeypatch, tiny_prior):
    asked = snapshots(monkeypatch, tiny_prior)
    load("me/prior", revision="abc", autoencoder="me/vae", autoencoder_revision="def")
    assert [each[:2] for each in asked] == [("me/prior", "abc"), ("me/vae", "def")]
    for *_, patterns in asked:
        assert taken(patterns, "transformer/diffusion_pytorch_model.safetensors")
        assert not taken(patterns, "transformer/diffusion_pytorch_model.bin")


def test_pickles_are_taken_when_asked_for(monkeypatch, dit_lookalike):
    asked = snapshots(monkeypatch, dit_lookalike)
    with pytest.raises(UserError, match=r"me/prior holds no weights as safetensors; set allow_bin=true"):
        load("me/prior")
    assert load("me/prior", allow_bin=True).variance == "learned_range"
    assert taken(asked[-1][2], "transformer/diffusion_pytorch_model.bin")


def test_pickles_are_read_as_weights_alone(dit_lookalike, tmp_path):
    import pickle

    folder = shutil.copytree(dit_lookalike, tmp_path / "prior")

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trapped"),))

    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(UserError, match="could not be loaded"):
        load(folder)
    assert not (tmp_path / "trapped").exists()


def test_a_file_is_hashed_once(folder, monkeypatch):
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    key = load(folder).key
    monkeypatch.setattr(files.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert load(folder).key == key


def test_other_priors_have_other_keys(folder, tmp_path):
    assert load(folder).key != load(write_tiny_prior(tmp_path / "other", seed=5)).key
