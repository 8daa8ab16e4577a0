"""What teaches is kept apart from what judges: files, pictures, and what depends on which."""

import dataclasses
import json
import os
import shutil

import pytest
import torch
from command import quick
from data_parts import SAMPLES, load_folder, message_of, noise_image, write_image
from soft_parts import few_digits, small_student
from tiny import cpu

from manifoldgd.artifacts import Key
from manifoldgd.data import digits
from manifoldgd.dataset import ImageDataset, hold_out, in_memory_split
from manifoldgd.errors import UserError
from manifoldgd.latents import encoding
from manifoldgd.pipeline import classifiers, latents
from manifoldgd.pipeline.latents import check_ipc
from manifoldgd.priors import load_prior
from manifoldgd.prototypes import select_classes
from manifoldgd.store.classifiers import save_classifier
from manifoldgd.store.keys import CHECKSUM, key_of
from manifoldgd.store.results import NOTE


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard link", "symbolic link"])
def test_a_file_of_both_splits_is_refused(pets, link):
    link(pets / "train/dog/0.png", pets / "test/dog/9.png")
    message = message_of(load_folder, pets)
    assert message.startswith("test: 1 test images are files of the training split")
    assert str(pets / "test/dog/9.png") in message
    assert str(pets / "train/dog/0.png") in message


def test_a_class_folder_linked_into_the_test_split_is_refused(pets):
    shutil.rmtree(pets / "test/dog")
    (pets / "test/dog").symlink_to(pets / "train/dog")
    assert message_of(load_folder, pets).startswith("test: 2 test images are files of the training split")


def test_a_file_that_the_training_split_lists_twice_cannot_be_held_out(pets):
    os.link(pets / "train/dog/0.png", pets / "train/dog/9.png")
    assert len(load_folder(pets).train) == 6
    message = message_of(load_folder, pets, validation=2)
    assert message.startswith("validation: 1 training images are files that the training split lists twice")


def test_equal_pictures_of_both_splits_are_counted(pets):
    assert load_folder(pets).leaked == 0
    shutil.copy(pets / "train/dog/0.png", pets / "test/dog/9.png")
    noise_image(12, 9, seed=0).save(pets / "test/cat/9.bmp")  # train/cat/0.png in another format
    assert load_folder(pets).leaked == 2


def test_pictures_are_counted_in_memory_too():
    train, test = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    train[1], train[2], test[1] = 1, 2, 2
    labels = torch.tensor([0, 0, 1])
    facts = dict(image_shape=(1, 2, 2), mean=(0.5,), std=(0.5,), flip=True)
    facts |= {"train_fingerprint": Key("train"), "test_fingerprint": Key("test")}
    splits = dict(train=in_memory_split(train, labels), test=in_memory_split(test, labels[1:]))
    dataset = ImageDataset(name="toy", class_names=("a", "b"), **splits, **facts)
    assert dataset.leaked == 2
    copies = torch.cat([train, train])
    split = in_memory_split(copies, torch.tensor([0, 0, 1, 0, 1, 1]))  # a copy in another class is no copy of the class
    assert split.distinct.tolist() == [0, 1, 2, 4]
    held = hold_out(dataclasses.replace(dataset, train=split), 2)
    assert set(held.test.digests) == {split.digests[position] for position in positions_of(held.test, copies)}


def positions_of(split, images):
    return [next(i for i, each in enumerate(images) if torch.equal(each, image)) for image in split.images()]


def test_bundled_data_leaks_nothing_and_has_no_copies():
    dataset = digits(train_per_class=None, validation=None)
    assert dataset.leaked == 0
    assert torch.equal(dataset.train.distinct, torch.arange(len(dataset.train)))


def test_leaked_images_are_said_in_terminal_metrics_and_page(capsys, tiny_prior, shared_cache, tmp_path):
    folder = tmp_path / "pictures"
    for split, seeds in (("train", range(3)), ("test", range(2, 4))):
        for name in ("a", "b"):
            for seed in seeds:
                write_image(folder / split / name / f"{seed}.png", "L", (8, 8), seed + 10 * (name == "b"))
    changes = ("source=random", "measures=false", "dataset=image_folder", f"dataset.folder={folder}")
    numbers = ("dataset.image_size=8", "dataset.channels=1", "student=convnet3", "student/protocol=hard_small")
    prior = ("prior=digits", "student.protocol.epochs=1", "student.width=8")
    assert quick("run", tiny_prior, shared_cache, tmp_path / "out", *changes, *numbers, *prior) == 0
    said = "2 of 4 test images of pictures show, pixel for pixel, what a training image shows"
    assert capsys.readouterr().err.count(said) == 1
    held = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (held["test_images_in_train"], held["test_images"]) == (2, 4)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Of the 4 test images 2 show, pixel for pixel, what a training image shows" in page


def test_weights_depend_on_training_images_and_accuracies_on_test_images(monkeypatch, tmp_path):
    dataset, student = few_digits(), small_student()
    recipe = dataclasses.replace(student.teacher_recipe, images_shown=1000)
    first = classifiers.teacher_of(dataset, student, recipe, cpu(), tmp_path)
    monkeypatch.setattr(classifiers, "train_classifier", lambda *_, **__: pytest.fail("trained again"))
    half = dataset.test.subset(torch.arange(0, len(dataset.test), 2))
    other = dataclasses.replace(dataset, test=half, test_fingerprint=Key("half"))
    again = classifiers.teacher_of(other, student, recipe, cpu(), tmp_path)
    assert again.test_accuracy == first.accuracy(half.images(), half.labels) != first.test_accuracy
    broken = dataclasses.replace(dataset.test, load=lambda positions: pytest.fail("measured again"))
    known = dataclasses.replace(dataset, test=broken)
    assert classifiers.teacher_of(known, student, recipe, cpu(), tmp_path).test_accuracy == first.test_accuracy


def test_classifiers_of_earlier_versions_keep_their_accuracy(monkeypatch, tmp_path):
    """They lie under a name that stood for both splits, with their accuracy inside."""
    student = small_student()
    dataset = dataclasses.replace(
        few_digits(), train_fingerprint=Key("now", ["old"]), test_fingerprint=Key("test", ["old"])
    )
    recipe = dataclasses.replace(student.teacher_recipe, images_shown=1000)
    made = classifiers.teacher_of(dataset, student, recipe, cpu(), tmp_path)
    (file,), (note,) = (tmp_path / "teachers").glob("*.safetensors"), (tmp_path / "teachers").glob("*.json")
    note.unlink()
    made.description["test_accuracy"] = 0.125
    file.unlink()
    shape, told = student.input_shape(dataset.image_shape), student.of_own_design(recipe).describe()
    former = key_of("teacher", dataset.name, "old", classifiers.CLASSIFIER_SEED, shape, told)
    save_classifier(made, tmp_path / "teachers" / f"{former}.safetensors")
    monkeypatch.setattr(classifiers, "train_classifier", lambda *_, **__: pytest.fail("trained again"))
    for _ in range(2):
        assert classifiers.teacher_of(dataset, student, recipe, cpu(), tmp_path).test_accuracy == 0.125
    assert file.is_file()
    changed = dataclasses.replace(dataset, test_fingerprint=Key("other"))
    assert classifiers.teacher_of(changed, student, recipe, cpu(), tmp_path).test_accuracy != 0.125


def picture_arguments(folder, *changes):
    return (
        "dataset=image_folder", f"dataset.folder={folder}", "dataset.image_size=8", "dataset.channels=1",
        "dataset.classes=[0,1]", "prior=digits", "student=convnet3", "student/protocol=hard_small", "student.width=8",
        "student.protocol.epochs=1", "measures=false", "guidance=mode", "clusterer=divisive", *changes,
    )  # fmt: skip


@pytest.fixture
def pictures(tmp_path):
    """Two classes that the tiny prior knows."""
    for split, seeds in (("train", range(6)), ("test", range(6, 8))):
        for name in ("0", "1"):
            for seed in seeds:
                write_image(tmp_path / "pictures" / split / name / f"{seed}.png", "L", (8, 8), seed + 10 * int(name))
    return tmp_path / "pictures"


def test_test_images_may_change_under_a_finished_set(pictures, tiny_prior, tmp_path):
    arguments = picture_arguments(pictures)
    cache, out = tmp_path / "cache", tmp_path / "out"
    assert quick("run", tiny_prior, cache, out, *arguments) == 0
    first = json.loads((out / "metrics.json").read_text())
    made = {file: file.stat().st_mtime_ns for file in [*cache.rglob("*.*"), *(out / "set").rglob("*.png")]}
    student = out / "students" / "0.json"
    trained = student.stat().st_mtime_ns

    os.utime(pictures / "test/0/6.png", ns=(0, 7))
    os.utime(pictures / "train/0/1.png", ns=(0, 7))
    assert quick("run", tiny_prior, cache, out, *arguments) == 0
    assert student.stat().st_mtime_ns == trained  # nothing is done again

    write_image(pictures / "test/0/6.png", "L", (8, 8), 99)
    assert quick("run", tiny_prior, cache, out, *arguments) == 0
    second = json.loads((out / "metrics.json").read_text())
    assert student.stat().st_mtime_ns > trained  # judged anew
    assert first["dataset_fingerprint"] != second["dataset_fingerprint"]
    assert first["train_fingerprint"] == second["train_fingerprint"]
    assert {file: file.stat().st_mtime_ns for file in made} == made

    write_image(pictures / "train/0/1.png", "L", (8, 8), 99)
    assert quick("run", tiny_prior, cache, out, *arguments) == 2  # another set


def test_results_of_earlier_versions_are_found(monkeypatch, pictures, tiny_prior, tmp_path):
    """One hash of both splits stood in caches' names, notes, manifests, students and metrics; it still counts."""
    arguments = picture_arguments(pictures)
    cache, out = tmp_path / "cache", tmp_path / "out"
    assert quick("run", tiny_prior, cache, out, *arguments) == 0
    dataset = load_folder(pictures, channels=1, classes=["0", "1"], flip=True)
    (former,) = dataset.train_fingerprint.former
    for file in (out / NOTE, out / "set" / "manifest.json", out / "metrics.json", out / "students" / "0.json"):
        text = file.read_text().replace(dataset.train_fingerprint, former).replace(dataset.test_fingerprint, former)
        held = {name: each for name, each in json.loads(text).items() if name != CHECKSUM}  # files had none then
        file.write_text(json.dumps(held))
    assert former in (out / "set" / "manifest.json").read_text()
    held = json.loads((out / "metrics.json").read_text())
    del held["train_fingerprint"]
    (out / "metrics.json").write_text(json.dumps(held))
    before = {file: file.stat().st_mtime_ns for file in (out / "students" / "0.json", out / "metrics.json")}
    assert quick("run", tiny_prior, cache, out, *arguments) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before

    prior = load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    (folder,) = (each for each in (cache / "latents").iterdir() if each.is_dir())
    old = key_of("latents", dataset.name, former, prior.key, prior.image_size, "32-true")
    folder.rename(folder.with_name(str(old)))
    monkeypatch.setattr(encoding, "encode_split", lambda *_, **__: pytest.fail("encoded again"))
    found, cached = latents.encode(dataset, prior, cpu(), cache)
    assert cached
    assert found.key == folder.name


@pytest.mark.parametrize("source", ["random", "herding", "k_center", "kmeans_nearest"])
def test_no_source_of_real_images_takes_an_image_twice(source):
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 0)
    labels, distinct = torch.zeros(24, dtype=torch.int64), torch.arange(0, 24, 4)
    chosen = select_classes(features, labels, ("a",), method=source, ipc=6, seed=0, distinct=distinct)
    assert sorted(chosen.tolist()) == distinct.tolist()
    with pytest.raises(UserError, match=r"^ipc: expected 1 to 6, the different images of class 'a', got 7"):
        select_classes(features, labels, ("a",), method=source, ipc=7, seed=0, distinct=distinct)


def test_too_few_different_images_are_said_before_any_work(pets):
    for name in ("7.png", "8.png"):
        shutil.copy(pets / "train/dog/0.png", pets / "train/dog" / name)
    dataset = load_folder(pets)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    check_ipc(dataset, 2)
    message = message_of(check_ipc, dataset, 3)
    assert message.startswith("ipc: expected at most the number of different training images of every class, got 3")
    assert "class 'dog' has 2 (4 with copies)" in message


def test_a_share_is_held_out_of_each_class():
    whole, tuned = digits(train_per_class=None, validation=None), digits(train_per_class=None, validation=0.25)
    counts = whole.train.labels.bincount()
    assert tuned.test.labels.bincount().tolist() == [round(count / 4) for count in counts.tolist()]
    assert len(tuned.train) + len(tuned.test) == len(whole.train)
    assert tuned.train_fingerprint == f"{whole.train_fingerprint}-validation0.25"
    assert digits(train_per_class=3, validation=0.01).test.labels.bincount().tolist() == [1] * 10
    for share in (0.0, 1.0, 1.5, -0.2, float("nan")):
        with pytest.raises(UserError, match=r"validation: expected null, .* or a share in \(0, 1\)"):
            digits(train_per_class=None, validation=share)
    with pytest.raises(UserError, match=r"fewer than the 1 training images"):
        digits(train_per_class=1, validation=0.5)


def test_samples_hold_no_copies(pets):
    assert len(load_folder(pets).train.distinct) == sum(name.startswith("train") for name in SAMPLES)
