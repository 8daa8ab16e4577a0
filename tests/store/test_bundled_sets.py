"""The sets that come with the package are those that were measured, and are judged like any other."""

import hashlib
from pathlib import Path

import pytest
from command import quick

import manifoldgd as mgd
from manifoldgd.store.set_sources import bundled_set, read_set

# SHA-256 of the data, fingerprint of the pixels, classes, shape of the images.
SETS = {
    "digits-ipc1": (
        "d9b349e22079aa0e7cf83da1f0b0e3df81aebfae1f82d9f318c9186776bb046e",
        "0c91ec1f746f812e",
        "digits",
        (10, 1, 8, 8),
    ),
    "digits-ipc10": (
        "556e11ae21a5fb463e809e84e0693504fea76c91add328080518c1bddcc3cbb4",
        "824a25041201daef",
        "digits",
        (100, 1, 8, 8),
    ),
    "fashion_mnist-ipc1": (
        "65e3c611d6ec5db95af6774280cdaab612656137cbae21ec3d1950e3dce26301",
        "24a8cdb54103cda5",
        "fashion_mnist",
        (10, 1, 28, 28),
    ),
    "fashion_mnist-ipc10": (
        "9c3b8a5a5eb9b2c61a813f75e4181ee2a895b30cf8b45ece6241a30a5d206a94",
        "a9da73a1fd4ee759",
        "fashion_mnist",
        (100, 1, 28, 28),
    ),
    "fashion_mnist-ipc50": (
        "5ed19c65d4ac13e8c5b0bb0e62c5e8a60bb65a58526fabb892f2fabcb2503be3",
        "ea01baa9d11a7609",
        "fashion_mnist",
        (500, 1, 28, 28),
    ),
}


def test_every_set_is_listed_on_its_page():
    root = Path(mgd.__file__).parent / "sets"
    assert {each.name for each in root.iterdir() if each.is_dir()} == SETS.keys()
    assert all(f"| `{name}` |" in (root / "README.md").read_text() for name in SETS)
    assert sum(file.stat().st_size for file in root.rglob("*")) < 3e6


@pytest.mark.parametrize("name", SETS)
def test_a_bundled_set_is_the_one_that_was_measured(name):
    checksum, fingerprint, dataset, shape = SETS[name]
    data = (bundled_set(f"bundled:{name}") / "train.npz").read_bytes()
    assert hashlib.sha256(data).hexdigest() == checksum
    held = read_set(f"bundled:{name}")
    assert held.fingerprint == fingerprint
    assert tuple(held.images.shape) == shape
    assert (held.manifest["dataset"], held.manifest["ipc"], held.manifest["seed"]) == (dataset, shape[0] // 10, 0)
    assert len(held.class_names) == 10
    (judged,) = held.manifest["judged"]
    assert (judged["student"], judged["protocol"]) == ("ConvNet-3", "hard_small")
    assert f"{100 * judged['accuracy']:.1f}" in (bundled_set(f"bundled:{name}") / "README.md").read_text()


def test_its_classes_are_those_of_its_dataset():
    dataset = mgd.load_dataset("digits")
    assert mgd.load_set("bundled:digits-ipc1", dataset).class_names == dataset.class_names


def test_the_command_judges_one_and_writes_nothing_into_the_package(capsys, monkeypatch, shared_cache, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(bundled_set("bundled:digits-ipc1").parent.rglob("*"))
    assert quick("evaluate", None, shared_cache, None, "set=bundled:digits-ipc1", "measures=false") == 0
    said = capsys.readouterr().out
    assert "set: digits-ipc1: 10 images, 1 a class; classes by name" in said
    assert len(list((tmp_path / "outputs" / "digits").glob("digits-ipc1-evaluation-*/report.html"))) == 1
    assert sorted(bundled_set("bundled:digits-ipc1").parent.rglob("*")) == before
