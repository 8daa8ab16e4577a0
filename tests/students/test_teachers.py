"""Classifiers of real images: what they may see, how they are kept, and the upper bound that is trained like one."""

import dataclasses
import io
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from soft_parts import few_digits, small_student, student
from tiny import cpu

from manifoldgd.artifacts import Key
from manifoldgd.data import digits
from manifoldgd.dataset import Split
from manifoldgd.errors import UserError
from manifoldgd.pipeline import classifiers
from manifoldgd.pipeline.classifiers import (
    full_data_accuracy,
    known_full_data_accuracy,
    teacher_of,
)
from manifoldgd.pipeline.embedded import embed
from manifoldgd.priors import load_prior
from manifoldgd.students import Recipe, fused
from manifoldgd.students.recipe import STANDARD


@pytest.fixture(scope="module")
def small():
    return small_student()


@pytest.fixture(scope="module")
def dataset():
    return few_digits()


@pytest.fixture(scope="module")
def taught(small, dataset, tmp_path_factory):
    """A teacher, and the cache that holds it."""
    cache = tmp_path_factory.mktemp("taught")
    return teacher_of(dataset, small, small.teacher_recipe, cpu(), cache), cache


def test_a_teacher_never_sees_the_test_split(small, dataset, tmp_path, monkeypatch):
    train, finished = classifiers.train_classifier, []

    def train_and_tell(images, labels, **choices):
        assert torch.equal(images, dataset.train.images())
        assert torch.equal(labels, dataset.train.labels)
        taught = train(images, labels, **choices)
        finished.append(True)
        return taught

    def load(positions):
        assert finished, "the test split was read before the end of the training"
        return dataset.test.load(positions)

    monkeypatch.setattr(classifiers, "train_classifier", train_and_tell)
    watched = dataclasses.replace(dataset, test=Split(dataset.test.labels, load))
    assert teacher_of(watched, small, small.teacher_recipe, cpu(), tmp_path).test_accuracy > 0
    assert finished


def test_a_teacher_is_kept_with_its_accuracy(small, dataset, taught, monkeypatch):
    first, cache = taught
    assert first.name == small.name == "ConvNet-3 (width 8)"
    assert first.test_accuracy == first.accuracy(dataset.test.images(), dataset.test.labels) > 0.3
    assert len(list((cache / "teachers").glob("*.safetensors"))) == 1
    monkeypatch.setattr(classifiers, "train_classifier", lambda *_, **__: pytest.fail("trained again"))
    second = teacher_of(dataset, small, small.teacher_recipe, cpu(), cache)
    assert second.test_accuracy == first.test_accuracy
    assert torch.equal(second.logits(dataset.test.images()), first.logits(dataset.test.images()))


def test_runs_side_by_side_train_one_teacher(small, dataset, taught, tmp_path, monkeypatch):
    made, _ = taught
    started, go_on = [], threading.Event()

    def slowly(*_, **__):
        started.append(True)
        assert go_on.wait(30)
        return made

    monkeypatch.setattr(classifiers, "train_classifier", slowly)
    said = io.StringIO()  # what pytest captures is emptied when it is read, and loses what a thread says meanwhile
    monkeypatch.setattr(sys, "stdout", said)
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(teacher_of, dataset, small, small.teacher_recipe, cpu(), tmp_path / "new") for _ in range(2)
        ]
        while "being trained by another process; waiting for it" not in said.getvalue():
            assert not any(run.done() for run in runs)
            time.sleep(0.01)
        go_on.set()
        found = [run.result() for run in runs]
    assert len(started) == 1
    assert found[0].test_accuracy == found[1].test_accuracy == made.test_accuracy


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 200])
def test_a_damaged_teacher_is_named_with_what_to_do(small, dataset, taught, tmp_path, damage):
    shutil.copytree(taught[1], tmp_path, dirs_exist_ok=True)
    (file,) = (tmp_path / "teachers").glob("*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=rf"{file.name}: damaged file .*remove it to have it trained again"):
        teacher_of(dataset, small, small.teacher_recipe, cpu(), tmp_path)


def test_other_recipes_networks_and_images_have_other_teachers(small, dataset, tmp_path):
    quickest = dataclasses.replace(small.teacher_recipe, images_shown=10)
    named = dataclasses.replace(quickest, architecture="convnet", width=4, depth=2)
    fewer = digits(train_per_class=20, validation=None)
    teachers = [
        teacher_of(dataset, small, quickest, cpu(), tmp_path),
        teacher_of(dataset, small, dataclasses.replace(quickest, learning_rate=0.3), cpu(), tmp_path),
        teacher_of(dataset, small, named, cpu(), tmp_path),
        teacher_of(fewer, small, quickest, cpu(), tmp_path),
    ]
    assert len(list((tmp_path / "teachers").glob("*.safetensors"))) == 4
    assert teachers[2].name == "ConvNet-2 (width 4)"
    assert teachers[0].name == "ConvNet-3 (width 8)"


def test_the_upper_bound_is_the_students_own_network_on_all_images(small, dataset, tmp_path):
    recipe = small.protocol.teacher
    assert isinstance(recipe, Recipe)
    hard = student("student.width=8", protocol="hard_small")
    assert known_full_data_accuracy(dataset, hard, recipe, tmp_path) is None
    bound = full_data_accuracy(dataset, hard, recipe, cpu(), tmp_path)
    assert bound == known_full_data_accuracy(dataset, hard, recipe, tmp_path)
    assert bound == teacher_of(dataset, small, recipe, cpu(), tmp_path).test_accuracy
    assert len(list((tmp_path / "teachers").glob("*.safetensors"))) == 1
    other = dataclasses.replace(recipe, architecture="convnet", width=4, depth=2)
    with pytest.raises(ValueError, match=r"recipe.architecture: expected None, the student's own network"):
        full_data_accuracy(dataset, small, other, cpu(), tmp_path)


def test_student_and_teacher_take_the_fused_path(small, dataset, taught, monkeypatch):
    teacher, kept = taught[0], []
    apply = fused.ConvNormReluPool.apply
    monkeypatch.setattr(
        fused.ConvNormReluPool, "apply", lambda *given: (kept.append(torch.is_grad_enabled()), apply(*given))[1]
    )
    images, labels = dataset.train.images(), dataset.train.labels
    small.train(images[:50], labels[:50], images, labels, num_classes=10, mean=dataset.mean, std=dataset.std, seed=0,
                ipc=5, flip=False, teacher=teacher, progress=False, accelerator="cpu")  # fmt: skip
    assert kept[:4] == [True, True, False, False]  # two blocks after the first of the student, then of the teacher


# Of the images of Fashion-MNIST; data.fashion_mnist computes them from pixels and labels.
FASHION_MNIST = {
    "train_fingerprint": Key(
        "e1f973506d022c501880d27d9c6af175", ["fashion_mnist-a3c342adc5a99fb156dbdf7c47c3703d-firstNone"]
    ),
    "test_fingerprint": Key("07038b8ff8518255b45e74b9f1fa74a6"),
}


def test_the_embedding_network_of_fashion_mnist_is_bundled(dataset, tmp_path, monkeypatch):
    train = classifiers.train_classifier
    monkeypatch.setattr(classifiers, "train_classifier", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(classifiers, "MOST_PASSES", 60_000)  # the images that stand for all of Fashion-MNIST are few
    whole = dataclasses.replace(dataset, name="fashion_mnist", **FASHION_MNIST)
    network = classifiers.embedding_network(whole, cpu(), tmp_path)
    assert network.description["recipe"] == STANDARD.describe()
    assert network.description["images"] == 60_000
    assert network.test_accuracy > 0.9
    assert network.embed(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape == (2, network.embedding_size)
    assert not list(tmp_path.iterdir())
    assert classifiers._embedding_key(whole).former == ("f98705fff1af8d63",)  # its file's name in older versions
    # What older versions noted in sets that were chosen, or clustered, in its features.
    assert classifiers.embedding_key(whole).former == ("065c1df612902b8d",)
    few = dataclasses.replace(whole, train_fingerprint=Key(f"{whole.train_fingerprint}-validation10000"))
    trained = []
    quickest = dataclasses.replace(STANDARD, images_shown=10)
    monkeypatch.setattr(
        classifiers,
        "train_classifier",
        lambda *given, **kw: (trained.append(1), train(*given, recipe=quickest, **kw))[1],
    )
    classifiers.embedding_network(few, cpu(), tmp_path)
    assert trained == [1]


def test_only_priors_are_listed_as_bundled_priors():
    with pytest.raises(UserError, match=r"no bundled prior 'bundled:classifiers'; bundled are digits, fashion_mnist$"):
        load_prior(path="bundled:classifiers", autoencoder=None, cfg_scale=None, cfg_channels=None)


def test_images_that_are_read_in_parts_give_the_same_classifier_and_embeddings(tmp_path, monkeypatch):
    dataset = digits(train_per_class=20, validation=None)
    quick = dataclasses.replace(STANDARD, images_shown=600)
    monkeypatch.setattr(classifiers, "STANDARD", quick)
    monkeypatch.setattr("manifoldgd.students.inference.EVALUATION_BATCH", 100)
    train = classifiers.train_classifier
    monkeypatch.setattr(classifiers, "train_classifier", lambda *given, **kw: train(*given, **kw | {"recipe": quick}))
    held = classifiers.embedding_network(dataset, cpu(), tmp_path / "held")
    asked = []
    split = Split(dataset.train.labels, lambda rows: asked.append(len(rows)) or dataset.train.load(rows))
    monkeypatch.setattr(classifiers, "HELD_BYTES", 0)
    read = classifiers.embedding_network(dataclasses.replace(dataset, train=split), cpu(), tmp_path / "read")
    assert all(map(torch.equal, held.state_dict().values(), read.state_dict().values()))
    assert held.description == read.description
    assert max(asked) <= quick.batch_size
    assert sum(asked) == 1 + 3 * 200  # one tells the shape
    test, asked[:] = dataset.test, []
    split = Split(test.labels, lambda rows: asked.append(len(rows)) or test.load(rows))
    assert torch.equal(embed(read, split), held.embed(test.images()))
    assert read.accuracy_on(split) == held.accuracy(test.images(), test.labels) == held.test_accuracy
    assert asked == 2 * [100, 100, 100, 55]


def test_all_images_are_those_of_the_parts():
    split = digits(train_per_class=None, validation=None).test
    whole = split.images(chunk=100)
    assert torch.equal(whole, split.load(torch.arange(len(split))))
    assert (whole.dtype, len(split.subset(torch.arange(0)).images())) == (torch.uint8, 0)
