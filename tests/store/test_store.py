"""Folders of sets and results: whole or not there, readable by other tools, never mixed up."""

import hashlib
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from store_parts import NAMES, picture, write

from manifoldgd.artifacts import DistilledSet, LatentSet, PrototypeSet
from manifoldgd.errors import UserError
from manifoldgd.store import sets
from manifoldgd.store.keys import CHECKSUM, is_intact, key_of, read_json, sealed
from manifoldgd.store.results import check_inputs, claim_result
from manifoldgd.store.sets import SetWriter, image_file, load_set, to_picture


@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_comes_back(tmp_path, channels):
    found = load_set(write(tmp_path / "set", channels=channels))
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.ranks.tolist() == [0, 1, 0, 1]
    assert found.class_names == NAMES
    assert torch.equal(found.images, torch.stack([picture(v, channels) for v in (0, 1, 10, 11)]))
    assert load_set(write(tmp_path / "result" / "set").parent).manifest["seed"] == 3


def mapping_of(tensor):
    """What the memory of a tensor is mapped from, as the system calls it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split(maxsplit=1)[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.split(maxsplit=5)[-1]
    return ""


@pytest.mark.parametrize("writable", [True, False])
def test_the_pixels_of_a_large_set_are_mapped(tmp_path, monkeypatch, writable):
    folder = write(tmp_path / "set", ipc=3)
    held = load_set(folder)
    monkeypatch.setattr(sets, "IN_MEMORY", held.images.numel() - 1)
    monkeypatch.setattr(sets.os, "access", lambda place, mode: writable)
    before = sorted(folder.rglob("*"))
    found = load_set(folder)
    assert str(folder if writable else tempfile.gettempdir()) in mapping_of(found.images)
    assert torch.equal(found.images, held.images)
    assert found.fingerprint == held.fingerprint
    assert sorted(folder.rglob("*")) == before
    found.images[0] = 0  # as with any tensor, without a trace in the set
    assert load_set(folder).fingerprint == held.fingerprint


def test_what_lies_in_the_folder(tmp_path):
    folder = write(tmp_path / "set")
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    images = [image_file(name, rank) for name in NAMES for rank in range(2)]
    assert images[3] == "great dane/00001.png"
    assert files == {*images, "manifest.json", "README.md"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == 2
    assert manifest["image_shape"] == [3, 4, 6]
    assert manifest["ipc"] == 2
    assert manifest["class_names"] == list(NAMES)
    assert [row["file"] for row in manifest["images"]] == images
    assert [row["note"] for row in manifest["images"]] == ["00", "01", "10", "11"]
    assert np.array(Image.open(folder / images[0]))[1, 2].tolist() == [255, 0, 0]


def test_grey_and_colour_pictures_keep_their_pixels():
    assert np.array_equal(np.array(to_picture(picture(7, 1))), picture(7, 1)[0].numpy())
    assert np.array_equal(np.array(to_picture(picture(7))), picture(7).permute(1, 2, 0).numpy())


def test_a_set_stays_incomplete_until_every_image_is_there(tmp_path):
    writer = SetWriter(tmp_path, NAMES)
    writer.save(picture(1), 0, 0)
    with pytest.raises(RuntimeError, match=r"1 images are missing, the first is \(1, 0\)"):
        writer.finish(ipc=1, facts={}, card="")
    assert not writer.complete
    with pytest.raises(UserError, match="no complete distilled set"):
        load_set(tmp_path)


def test_a_writer_takes_up_where_another_stopped(tmp_path):
    writer = SetWriter(tmp_path, NAMES)
    for label, rank in ((0, 0), (0, 1), (1, 0)):
        writer.save(picture(label + rank), label, rank)
    writer.spend(1.5)
    with (tmp_path / "progress.jsonl").open("a") as stream:
        stream.write('{"file": "great dane/00001.png", "lab')  # killed while writing
    (tmp_path / "cat" / "00001.png").unlink()  # and someone removed an image
    again = SetWriter(tmp_path, NAMES)
    assert set(again.rows) == {(0, 0), (1, 0)}
    assert again.seconds == 1.5
    again.save(picture(1), 0, 1)
    assert set(SetWriter(tmp_path, NAMES).rows) == {(0, 0), (0, 1), (1, 0)}  # the cut line did not swallow it
    again.save(picture(2), 1, 1)
    again.spend(2.0)
    assert again.seconds == SetWriter(tmp_path, NAMES).seconds == 3.5
    assert set(SetWriter(tmp_path, NAMES).rows) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    again.finish(ipc=2, facts={}, card="")
    assert again.complete
    assert not (tmp_path / "progress.jsonl").exists()
    assert len(load_set(tmp_path).images) == 4


def test_facts_without_json_form_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        SetWriter(tmp_path, NAMES).save(picture(1), 0, 0, ratio=float("nan"))


def _break(folder, what):
    if what == "missing image":
        (folder / "cat" / "00001.png").unlink()
    elif what == "broken image":
        (folder / "cat" / "00001.png").write_bytes(b"\x89PNG no more")
    elif what == "truncated image":
        data = (folder / "cat" / "00001.png").read_bytes()
        (folder / "cat" / "00001.png").write_bytes(data[: len(data) // 2])
    elif what == "other format":
        (folder / "manifest.json").write_text(json.dumps({"format": 99}))
    elif what == "broken manifest":
        (folder / "manifest.json").write_text("{")
    elif what == "lean manifest":
        (folder / "manifest.json").write_text(json.dumps({"format": 1}))


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("missing image", "00001.png"),
        ("broken image", "00001.png"),
        ("truncated image", "00001.png"),
        ("other format", "format 99, expected 2"),
        ("broken manifest", "manifest.json"),
        ("lean manifest", "manifest.json"),
    ],
)
def test_damaged_sets_are_named(tmp_path, what, named):
    folder = write(tmp_path / "set")
    _break(folder, what)
    with pytest.raises(UserError) as caught:
        load_set(folder)
    assert named in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_set_at_all(tmp_path):
    with pytest.raises(UserError, match=r"no complete distilled set .*manifoldgd distill"):
        load_set(tmp_path / "nothing")


CONFIG = {"ipc": 1, "guidance": {"scale": 0.1, "kernel": "rbf"}, "seeds": [0, 1]}


def test_a_result_folder_is_claimed_once(tmp_path):
    folder = tmp_path / "a" / "b"
    claim_result(folder, "set", CONFIG)
    claim_result(folder, "set", dict(reversed(CONFIG.items())))
    claim_result(folder, "evaluation", {"student": "x"})
    assert read_json(folder / "result.json") == {
        "format": 1,
        "set": CONFIG,
        "evaluation": {"student": "x"},
    }


def test_some_keys_of_a_claim_may_differ(tmp_path):
    folder = tmp_path / "r"
    claim_result(folder, "evaluation", {"student": "x", "student_seeds": [0]}, free=("student_seeds",))
    claim_result(folder, "evaluation", {"student": "x", "student_seeds": [0, 1]}, free=("student_seeds",))
    claim_result(folder, "evaluation", {"student": "x"}, free=("student_seeds",))
    with pytest.raises(UserError, match=r"student is 'x' there, 'y' here"):
        claim_result(folder, "evaluation", {"student": "y"}, free=("student_seeds",))


def test_inputs_are_compared_as_far_as_they_were_noted(tmp_path):
    check_inputs(tmp_path, {"dataset": "a"}, {"dataset": "a", "classifier": "new"})
    check_inputs(tmp_path, {"dataset": "a", "classifier": "new"}, {"dataset": "a", "classifier": "new"})
    with pytest.raises(UserError, match=r"classifier is 'old' there, 'new' here"):
        check_inputs(tmp_path, {"dataset": "a", "classifier": "old"}, {"dataset": "a", "classifier": "new"})


def test_a_note_cut_short_by_a_kill_claims_nothing(tmp_path):
    (tmp_path / ".result.0123.json").write_text("{")
    claim_result(tmp_path, "set", CONFIG)
    assert "ipc" in (tmp_path / "result.json").read_text()


def test_a_claim_names_every_difference(tmp_path):
    claim_result(tmp_path / "r", "set", CONFIG)
    other = {"ipc": 2, "guidance": {"scale": 0.2, "kernel": "rbf"}, "seeds": [0, 1], "new": None, "x": 1}
    before = (tmp_path / "r" / "result.json").read_text()
    with pytest.raises(UserError) as caught:
        claim_result(tmp_path / "r", "set", other)
    text = str(caught.value)
    assert text.startswith("output: ")
    assert "different: guidance.scale is 0.1 there, 0.2 here, ipc is 1 there, 2 here, x is None there, 1 here)" in text
    assert "kernel" not in text
    assert "seeds" not in text
    assert "choose another one" in text
    assert (tmp_path / "r" / "result.json").read_text() == before


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="is not empty and holds no result of ours"):
        claim_result(tmp_path, "set", CONFIG)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_results_of_another_format_are_refused(tmp_path):
    (tmp_path / "result.json").write_text('{"format": 0}')
    with pytest.raises(UserError, match="format 0, expected 1"):
        claim_result(tmp_path, "set", CONFIG)


def test_keys_ignore_the_order_of_dictionaries_and_nothing_else():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    different = [("a", 1), (1, "a"), ("a1",), (["a", 1],), ("a", 1.0), ("a", "1"), ("a", None)]
    assert len({key_of(*parts) for parts in different}) == len(different)


def test_unreadable_json_is_named(tmp_path):
    for text in (None, "{"):
        if text is not None:
            (tmp_path / "f.json").write_text(text)
        with pytest.raises(UserError, match=r"f\.json: cannot be read"):
            read_json(tmp_path / "f.json")
    (tmp_path / "f.json").write_text("[1]")
    with pytest.raises(UserError, match=r"f\.json: holds no JSON object"):
        read_json(tmp_path / "f.json")


def _labels(*values):
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LatentSet(torch.zeros(2, 3), _labels(0, 0), ("a",), "k"), r"latents: expected \[N, C, H, W\]"),
        (lambda: LatentSet(torch.zeros(2, 1, 1, 1), _labels(0), ("a",), "k"), r"labels: expected shape \(2,\)"),
        (lambda: LatentSet(torch.zeros(1, 1, 1, 1), torch.zeros(1), ("a",), "k"), "expected int64"),
        (lambda: LatentSet(torch.zeros(1, 1, 1, 1), _labels(1), ("a",), "k"), r"values in \[0, 1\), got \[1, 1\]"),
        (lambda: LatentSet(torch.zeros(1, 1, 1, 1), _labels(-1), ("a",), "k"), r"got \[-1, -1\]"),
        (lambda: DistilledSet(torch.zeros(1, 1, 1, 1), _labels(0), _labels(0), ("a",)), "images: expected uint8"),
        (
            lambda: DistilledSet(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), _labels(0), _labels(0, 1), ("a",)),
            "ranks: expected",
        ),
    ],
)
def test_artifacts_check_themselves(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_prototypes_know_their_ipc_and_latents_their_classes():
    zeros, six = torch.zeros(6, 1, 1, 1), torch.zeros(6, dtype=torch.int64)
    labels = _labels(0, 0, 0, 1, 1, 1)
    assert PrototypeSet(zeros, labels, six, six, six, six, ("a", "b"), "k").ipc == 3
    assert LatentSet(zeros, _labels(0, 1, 0, 1, 1, 0), ("a", "b"), "k").indices_of(0).tolist() == [0, 2, 5]
    with pytest.raises(ValueError, match="nearest: expected shape"):
        PrototypeSet(zeros, labels, six, six[:2], six, six, ("a", "b"), "k")


def test_a_class_may_be_called_set(tmp_path):
    names = ("set", "cat")
    writer = SetWriter(tmp_path / "set", names)
    for label in range(2):
        writer.save(picture(label), label, 0)
    writer.finish(ipc=1, facts={}, card="")
    for place in (tmp_path, tmp_path / "set"):
        assert load_set(place).class_names == names


@pytest.mark.parametrize(
    "value",
    [{}, {"b": {"z": 1, "a": [2, {}]}, "a": [1, {"y": [], "x": None}]}, {"empty": [], "é\ud800": "ü\n", "n": math.nan}],
)
def test_a_checksum_is_of_the_whole_text_though_that_is_never_held(value):
    text = json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")
    assert sealed(value)[CHECKSUM] == hashlib.blake2b(text, digest_size=16).hexdigest()
    assert is_intact(json.loads(json.dumps(sealed(value))))
