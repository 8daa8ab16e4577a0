"""Trained students on disk: as they were tested, whole or not at all, and only where they are asked for."""

import dataclasses
import json

import pytest
import torch
from soft_parts import few_digits
from student_parts import student as any_student
from tiny import cpu

import manifoldgd as mgd
from manifoldgd.artifacts import DistilledSet
from manifoldgd.errors import UserError
from manifoldgd.pipeline import evaluation
from manifoldgd.store import classifiers
from manifoldgd.store.keys import read_json
from manifoldgd.students import Student

QUICK = ("student.width=8", "student.protocol.epochs=2", "student.protocol.evaluations=1")


@pytest.fixture(scope="module")
def dataset():
    return few_digits()


@pytest.fixture(scope="module")
def made(dataset):
    rows = torch.cat([torch.nonzero(dataset.train.labels == label)[:2, 0] for label in range(10)])
    names = {"method": "random", "ipc": 2, "seed": 3, "config": {"source": "random"}}
    ranks = torch.arange(20) % 2
    return DistilledSet(dataset.train.load(rows), dataset.train.labels[rows], ranks, dataset.class_names, None, names)


def judged(folder, made, dataset, *, seeds=(0,), learner=None, machine=None, save=True, **told):
    numbers = {"machine": machine or cpu(), "cache": folder / "cache", "measures": False}
    learner = learner or any_student(*QUICK)
    return evaluation.evaluate(folder, made, dataset, learner, list(seeds), save_students=save, **numbers, **told)


def test_a_saved_student_says_what_it_said_when_it_was_tested(made, dataset, tmp_path, monkeypatch):
    seen = {}
    save = evaluation.save_student

    def save_and_look(student, folder):
        seen[folder.name] = student.logits(dataset.test.images()[:50])
        save(student, folder)

    monkeypatch.setattr(evaluation, "save_student", save_and_look)
    metrics = judged(tmp_path / "result", made, dataset, seeds=[0, 1])
    for seed, accuracy in zip((0, 1), metrics["accuracy"]["last"]["values"], strict=True):
        loaded = mgd.load_student(tmp_path / "result" / "students" / f"{seed}")
        assert torch.equal(loaded.logits(dataset.test.images()[:50]), seen[f"{seed}"])
        assert loaded.accuracy(dataset.test.images(), dataset.test.labels) == accuracy == loaded.test_accuracy
        assert loaded.embed(dataset.test.images()[:3]).shape == (3, loaded.embedding_size)
    with pytest.raises(UserError, match=r"result: expected a saved student, got 2 of them; name one of "):
        mgd.load_student(tmp_path / "result")


def test_saving_changes_no_number(made, dataset, tmp_path):
    plain = judged(tmp_path / "plain", made, dataset, save=False)
    assert [each.name for each in (tmp_path / "plain" / "students").iterdir()] == ["0.json"]
    saved = judged(tmp_path / "saved", made, dataset)
    without_time = [
        {name: value for name, value in one["students"][0].items() if name != "seconds"} for one in (plain, saved)
    ]
    assert without_time[0] == without_time[1]
    assert saved["accuracy"] == plain["accuracy"]


def test_the_card_and_the_file_say_what_a_student_is(made, dataset, tmp_path):
    judged(tmp_path, made, dataset)
    folder = tmp_path / "students" / "0"
    assert {each.name for each in folder.iterdir()} == {"README.md", "student.safetensors"}
    facts, card = mgd.load_student(tmp_path).description, (folder / "README.md").read_text()
    assert facts["class_names"] == list(dataset.class_names)
    assert facts["recipe"] == {"architecture": "convnet", "width": 8, "depth": 3}
    assert facts["set"] == {"method": "random", "ipc": 2, "seed": 3, "fingerprint": made.fingerprint}
    assert facts["protocol"]["_target_"] == "manifoldgd.students.HardLabel"
    assert (facts["mean"], facts["std"]) == (list(dataset.mean), list(dataset.std))
    for told in (made.fingerprint, "ConvNet-3 (width 8)", "hard_small, 2 epochs", f"{100 * facts['test_accuracy']:.2f}",
                 ", ".join(dataset.class_names), "mgd.load_student", str(list(dataset.mean))):  # fmt: skip
        assert told in card
    assert json.loads(card.split("```json")[1].split("```")[0]) == facts["protocol"]


def test_what_was_judged_without_saving_is_trained_again_to_be_saved(made, dataset, tmp_path, monkeypatch):
    first = judged(tmp_path, made, dataset, save=False)
    again = judged(tmp_path, made, dataset)
    assert again["accuracy"] == first["accuracy"]
    monkeypatch.setattr(Student, "train", lambda *_, **__: pytest.fail("trained again"))
    assert judged(tmp_path, made, dataset) == again
    assert judged(tmp_path, made, dataset, save=False) == again


def test_another_set_in_the_folder_replaces_the_saved_student(made, dataset, tmp_path):
    judged(tmp_path, made, dataset)
    other = dataclasses.replace(made, images=made.images.flip(3))
    judged(tmp_path, other, dataset, save=False)
    assert mgd.load_student(tmp_path).description["set"]["fingerprint"] == other.fingerprint


def test_a_student_appears_whole_or_not_at_all(made, dataset, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(classifiers, "save_classifier", full)
        with pytest.raises(OSError, match="No space left"):
            judged(tmp_path, made, dataset)
    assert not (tmp_path / "metrics.json").exists()
    with pytest.raises(
        UserError, match=r"expected a saved student, got none; students are saved by save_students=true"
    ):
        mgd.load_student(tmp_path)
    judged(tmp_path, made, dataset)
    file = tmp_path / "students" / "0" / "student.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"student\.safetensors: damaged file"):
        mgd.load_student(tmp_path)


def test_students_of_half_precision_and_another_size_see_images_as_they_did(made, dataset, tmp_path):
    told = ("student.protocol.image_size=12", "student.protocol.test_cover=8/7")
    machine = dataclasses.replace(cpu(), student_precision="bf16-mixed")
    judged(tmp_path, made, dataset, learner=any_student(*QUICK, *told), machine=machine)
    loaded, held = mgd.load_student(tmp_path), read_json(tmp_path / "students" / "0.json")
    assert loaded.image_shape == (1, 12, 12)
    assert (loaded.description["cover"], loaded.description["precision"]) == ("8/7", "bf16-mixed")
    assert loaded.accuracy(dataset.test.images(), dataset.test.labels) == held["last_top1"]
    full = {**loaded.description, "precision": "32-true"}
    other = type(loaded).restored(full, loaded.network.state_dict())
    assert not torch.equal(other.logits(dataset.test.images()), loaded.logits(dataset.test.images()))
