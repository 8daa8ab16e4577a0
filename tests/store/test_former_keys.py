"""What an earlier version made of the same content is found again under today's keys."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from command import quick
from latents_cache_parts import blind
from safetensors.torch import load_file, save_file
from tiny import cpu

from manifoldgd.artifacts import Key
from manifoldgd.data import digits
from manifoldgd.errors import UserError
from manifoldgd.pipeline import classifiers, latents, spaces
from manifoldgd.priors import load_prior
from manifoldgd.priors.prior import Prior
from manifoldgd.prototypes import DenoiserFeatures, Random
from manifoldgd.store.cache import cache_entry
from manifoldgd.store.keys import key_of, read_json
from manifoldgd.store.results import check_claim, check_inputs, claim_result, same_config


def test_a_key_is_its_text():
    key = Key("new", ["old"])
    assert key == "new"
    assert json.dumps([key]) == '["new"]'
    assert key.names == ("new", "old")
    assert f"{key}" == "new"


def test_keys_of_keys_had_former_names_too():
    plain = key_of("x", {"a": ["p1", 3]}, "d1")
    key = key_of("x", {"a": [Key("p1", ["p0"]), 3]}, Key("d1", ["d0"]))
    assert key == plain
    assert plain.former == ()
    wanted = [key_of("x", {"a": [p, 3]}, d) for p, d in (("p1", "d0"), ("p0", "d1"), ("p0", "d0"))]
    assert list(key.former) == wanted
    assert list(key_of("y", key).former) == [key_of("y", each) for each in wanted]


@pytest.mark.parametrize(("name", "former"), [("digits", "57416228fd61a66f1f674c77be21e21f"),
                                              ("fashion_mnist", "8f3bdace7edc14c617b771e45d80ec5f")])  # fmt: skip
def test_bundled_priors_are_known_by_the_hash_of_earlier_versions(name, former):
    prior = load_prior(path=f"bundled:{name}", autoencoder=None, cfg_scale=None, cfg_channels=None)
    assert prior.key.former == (former,)


def test_an_entry_is_given_today_s_name_once(tmp_path):
    (tmp_path / "old.x").write_text("content")
    assert cache_entry(tmp_path, Key("new", ["other", "old"]), ".x") == tmp_path / "new.x"
    assert [each.name for each in tmp_path.iterdir()] == ["new.x"]
    # Another content that the old name could not tell apart.
    assert not cache_entry(tmp_path, Key("newer", ["old"]), ".x").exists()


def test_where_both_are_there_today_s_counts(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    assert cache_entry(tmp_path, Key("new", ["old"])).read_text() == "new"


@pytest.fixture(scope="module")
def dataset():
    return digits(train_per_class=6, validation=None)


SPACE = DenoiserFeatures(layer=0.5, timestep=200)


def make(dataset, prior, cache):
    encoded, cached = latents.encode(dataset, prior, cpu(), cache)
    features = spaces.features_of(SPACE, dataset, prior, encoded, cpu(), cache)
    clusterer = Random()
    found, again = latents.cluster(encoded, clusterer, {"a": 1}, features, ipc=2, seed=0, machine=cpu(), cache=cache)
    return encoded, features.load(), found, (cached, again)


def without_checksums(cache):
    """The cache as the first version left it."""
    for file in cache.rglob("*.safetensors"):
        tensors = {name: each.clone() for name, each in load_file(file).items()}
        metadata = {"class_names": json.dumps([str(i) for i in range(10)]), "format": "1"}
        save_file(tensors, file, metadata=metadata if file.parent.name == "prototypes" else None)
    for file in cache.rglob("meta.json"):
        file.write_text(json.dumps(read_json(file)))


def _as_before(dataset, prior_key):
    return dataset.name, dataset.train_fingerprint, prior_key, 8, "32-true"


def _before(encoded, labels, space):
    return key_of("denoiser", encoded.key, labels, space.layer, space.timestep)


def test_priors_of_one_autoencoder_share_latents_and_prototypes_but_no_features(dataset, prior, tmp_path):
    one, another = (make(dataset, dataclasses.replace(prior, key=Key(name)), tmp_path) for name in ("p1", "p2"))
    assert (one[3], another[3]) == ((False, False), (True, False))  # they were clustered by the features of a denoiser
    assert one[0].key == another[0].key
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == 2
    plain = [
        latents.cluster(each[0], Random(), {"a": 1}, None, ipc=2, seed=0, machine=cpu(), cache=tmp_path)
        for each in (one, another)
    ]
    assert [cached for _, cached in plain] == [False, True]


def test_a_cache_of_an_earlier_version_is_found(dataset, prior, tmp_path, capsys, monkeypatch):
    former = prior.key.former[0]  # as the first version called it
    with monkeypatch.context() as earlier:  # when latents were known by the whole prior
        earlier.setattr(latents, "_key", lambda *_: key_of("latents", *_as_before(dataset, former)))
        earlier.setattr(spaces, "_denoiser_key", lambda _, encoded, labels, space: _before(encoded, labels, space))
        before = make(dataset, dataclasses.replace(prior, key=Key(former)), tmp_path)
    without_checksums(tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(Prior, "encode", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(Prior, "block_features", lambda *_: pytest.fail("looked at again"))
    after = make(blind(dataset), prior, tmp_path)
    assert after[3] == (True, True)
    assert (after[0].key, after[2].key) != (before[0].key, before[2].key)
    assert after[0].key == key_of("latents", *_as_before(dataset, prior.autoencoder_key))
    assert torch.equal(before[0].latents, after[0].latents)
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[2].prototypes, after[2].prototypes)
    names = sorted(each.name for each in tmp_path.glob("*/*") if each.name[0] != ".")
    assert len(names) == 3
    assert before[0].key not in names
    assert capsys.readouterr().out.count("without a checksum") == 2
    damaged = next((tmp_path / "prototypes").glob("*.safetensors"))
    data = bytearray(damaged.read_bytes())
    data[-3] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(UserError, match="checksum mismatch"):
        make(dataset, prior, tmp_path)


def test_latents_of_an_earlier_version_are_the_same_to_the_last_byte(dataset, prior, tmp_path):
    encoded, _ = latents.encode(dataset, prior, cpu(batch_size=7), tmp_path)
    rows = [prior.encode(dataset.train.load(part)).numpy() for part in torch.arange(60).split(7)]
    other = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(60, 2, 4, 4))
    other[:] = np.concatenate(rows)
    other.flush()
    assert (tmp_path / "latents" / encoded.key / "latents.npy").read_bytes() == (tmp_path / "x.npy").read_bytes()


INPUTS = {"dataset": Key("d1", ["d0"]), "prior": Key("p1", ["p0"]), "card": {"cfg_scale": 1.5}}


def test_finished_folders_are_compared_by_former_hashes_too(tmp_path):
    old = {"dataset": "d0", "prior": "p0", "card": {"cfg_scale": 1.5}}
    check_inputs(tmp_path, old, INPUTS)
    claim_result(tmp_path / "r", "inputs", old)
    check_claim(tmp_path / "r", "inputs", INPUTS)
    assert same_config(old, INPUTS)
    claim_result(tmp_path / "r", "inputs", INPUTS)
    assert read_json(tmp_path / "r" / "result.json")["inputs"] == INPUTS  # a set that is begun goes on under new ones
    for other in ({**old, "prior": "p2"}, {**old, "dataset": "p0"}):
        with pytest.raises(UserError, match=r"(prior is 'p2' there, 'p1' here|dataset is 'p0' there, 'd1' here)"):
            check_inputs(tmp_path, other, INPUTS)


def test_how_files_are_got_is_no_part_of_what_they_are(tmp_path):
    config = {"prior": {"path": "a/b"}, "ipc": 1}
    claim_result(tmp_path / "r", "set", config)
    asked = {"prior": {"path": "a/b", "revision": "abc", "allow_bin": True, "autoencoder_revision": None}, "ipc": 1}
    check_claim(tmp_path / "r", "set", asked)


def test_numbers_that_name_entries_are_those_of_the_note(tmp_path):
    claim_result(tmp_path / "r", "set", {"epochs": {1: 300, 10: (200, 100)}})
    check_claim(tmp_path / "r", "set", {"epochs": {1: 300, 10: (200, 100)}})


def test_a_finished_result_of_an_earlier_version_is_read(tiny_prior, tmp_path, shared_cache, capsys):
    folder = tmp_path / "out"
    assert quick("run", tiny_prior, shared_cache, folder, "measures=false") == 0
    former = load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None).key.former[0]
    for file in (*folder.glob("*.json"), *folder.glob("*/*.json")):
        held = read_json(file)
        for where in (held, *held.get("images", [])):
            where.pop("content_hash", None)
        if "inputs" in held:
            held["inputs"]["prior"] = former
        if file.name == "manifest.json":
            held = {**held, "format": 1}
            del held["image_shape"]
        file.write_text(json.dumps(held))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "result.json"}
    capsys.readouterr()
    assert quick("run", tiny_prior, shared_cache, folder, "measures=false") == 0
    assert "last-epoch accuracy" in capsys.readouterr().out
    after = {file: file.read_bytes() for file in before}
    changed = {file.name for file in before if before[file] != after[file]}
    assert changed <= {"config.yaml"}


def test_few_images_are_shown_less_often_and_a_network_of_before_is_found():
    """Shown 180,000 images, 120 pictures were seen 1,500 times each: minutes for nothing."""
    few, many = (digits(train_per_class=count, validation=None) for count in (12, None))
    assert (classifiers.images_shown(few), classifiers.images_shown(many)) == (150 * 120, 180_000)
    for dataset in (few, many):
        before = key_of("classifier", *dataset.as_learned, classifiers.CLASSIFIER_SEED)
        key = classifiers.embedding_key(dataset)
        assert (key == key_of(before, None)) == (dataset is many)
        assert key_of(before, None) in key.names
