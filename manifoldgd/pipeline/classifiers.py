"""Classifiers of the real training split, trained once and kept in the cache: instrument, teacher, upper bound."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manifoldgd.artifacts import Key
from manifoldgd.dataset import ImageDataset
from manifoldgd.files import one_at_a_time
from manifoldgd.machine import Machine
from manifoldgd.priors.weights import check_files
from manifoldgd.store.cache import cache_entry
from manifoldgd.store.classifiers import load_classifier, save_classifier
from manifoldgd.store.keys import key_of, read_json, write_json
from manifoldgd.students import Classifier, Recipe, Student, train_classifier
from manifoldgd.students.recipe import STANDARD
from manifoldgd.students.unfinished import Unfinished

CLASSIFIER_SEED = 0  # these are instruments: one for a dataset, whatever the run's seed
HELD_BYTES = 2**30  # of training images that go to the device; of more, each batch is read when its turn comes
MOST_PASSES = 150  # of the embedding network over the images; those of fewer than 1,200 are not shown 180,000 times
BUNDLED_FOLDER = Path(__file__).parents[1] / "weights" / "classifiers"


def embedding_network(dataset: ImageDataset, machine: Machine, cache: Path) -> Classifier:
    """The classifier whose embeddings the metrics and the real-image baselines compare, and which judges priors.

    Trained on two processors it differs enough for herding and k-center to choose other images in it. That of whole
    Fashion-MNIST is therefore bundled, as the cache kept it; with the same weights they choose the same.
    """
    key = _embedding_key(dataset)
    if bundled := _bundled(key):
        check_files(BUNDLED_FOLDER, "measures", {}, remedy="install the package again")
        network = load_classifier(bundled, ours=False).to(machine.device)
        return _judged(network, dataset, [bundled, cache / "classifiers" / bundled.name])
    shown = images_shown(dataset)
    choices = {} if shown == STANDARD.images_shown else {"recipe": replace(STANDARD, images_shown=shown)}
    return _kept(cache / "classifiers", key, dataset, machine, **choices)


def embedding_key(dataset: ImageDataset) -> Key:
    """A hash of what :func:`embedding_network` is: of the bundled weights, else of the data that it is trained on."""
    key = _embedding_key(dataset)
    bundled = _bundled(key)
    return key_of(key, None if bundled is None else hashlib.blake2b(bundled.read_bytes(), digest_size=8).hexdigest())


def images_shown(dataset: ImageDataset) -> int:
    """How many training images the embedding network sees in all: a fixed number, or fewer where there are but few."""
    assert STANDARD.images_shown is not None
    return min(STANDARD.images_shown, MOST_PASSES * len(dataset.train))


def _embedding_key(dataset: ImageDataset) -> Key:
    """Of few images the former name is that of a network that saw them longer; one that is kept is used on."""
    known, shown = key_of("classifier", *dataset.as_learned, CLASSIFIER_SEED), images_shown(dataset)
    if shown == STANDARD.images_shown:
        return known
    today = key_of("classifier", *dataset.as_learned, CLASSIFIER_SEED, shown)
    return Key(today, (*today.former, *known.names))


def _bundled(key: Key) -> Path | None:
    file = BUNDLED_FOLDER / f"{key}.safetensors"
    return file if file.is_file() else None


def teacher_of(dataset: ImageDataset, student: Student, recipe: Recipe, machine: Machine, cache: Path) -> Classifier:
    """The teacher of a student on a dataset, trained with class labels on the real training split alone.

    Args:
        dataset: its training split teaches; its test split gives :attr:`Classifier.test_accuracy` afterwards.
        student: gives the network where the recipe names none, and the size of the images.
        recipe: what it is and how it is trained.
        machine: where to run.
        cache: keeps it under ``teachers/``.

    Raises:
        UserError: images too small for the network, or a damaged file in the cache.
    """
    size = student.input_shape(dataset.image_shape)[1:]
    key, recipe = _teacher_key(dataset, student, recipe), student.of_own_design(recipe)
    return _kept(cache / "teachers", key, dataset, machine, recipe=recipe, size=size, title="teacher")


def _teacher_key(dataset: ImageDataset, student: Student, recipe: Recipe) -> Key:
    shape = student.input_shape(dataset.image_shape)
    return key_of("teacher", *dataset.as_learned, CLASSIFIER_SEED, shape, student.of_own_design(recipe).describe())


def full_data_accuracy(dataset: ImageDataset, student: Student, recipe: Recipe, machine: Machine, cache: Path) -> float:
    """Test accuracy, in [0, 1], of the student's own network trained with class labels on all real training images.

    The upper bound that the hard-label recovery of :mod:`manifoldgd.study.scores` compares with. A distilled set's
    protocol would show every image hundreds of times, so a recipe of its own says how long; it is the same network as
    the teacher of that recipe (:func:`teacher_of`), and shares its file.

    Raises:
        ValueError: the recipe names another network.
    """
    if recipe.architecture is not None:
        raise ValueError(f"recipe.architecture: expected None, the student's own network, got {recipe.architecture!r}")
    return teacher_of(dataset, student, recipe, machine, cache).test_accuracy


def known_full_data_accuracy(dataset: ImageDataset, student: Student, recipe: Recipe, cache: Path) -> float | None:
    """What :func:`full_data_accuracy` gives where it was measured before; ``None`` elsewhere, as nothing is trained."""
    file = cache_entry(cache / "teachers", _teacher_key(dataset, student, recipe), ".safetensors")
    known = _judgement(file, dataset)
    return read_json(known)["test_accuracy"] if known.is_file() else None


def _kept(folder: Path, key: Key, dataset: ImageDataset, machine: Machine, **choices: Any) -> Classifier:
    """The classifier of ``key``, trained now if there is none; ``choices`` go to :func:`train_classifier`.

    Runs side by side need the same one: the first trains it, the others wait.
    """
    file = cache_entry(folder, key, ".safetensors")
    if not file.is_file():
        with one_at_a_time(file, lambda: print(f"{file}: being trained by another process; waiting for it")):
            if not file.is_file():
                train, unfinished = dataset.train, Unfinished(file.with_suffix(".ckpt"), str(key))
                held = len(train) * math.prod(dataset.image_shape) <= HELD_BYTES
                classifier = train_classifier(
                    train.images() if held else train.load,
                    train.labels,
                    num_classes=len(dataset.class_names),
                    mean=dataset.mean,
                    std=dataset.std,
                    seed=CLASSIFIER_SEED,
                    flip=dataset.flip,
                    progress=machine.progress,
                    accelerator=machine.accelerator,
                    unfinished=unfinished,
                    **choices,
                )
                save_classifier(classifier, file)
                unfinished.remove()
    return _judged(load_classifier(file).to(machine.device), dataset, [file])


def _judged(classifier: Classifier, dataset: ImageDataset, files: Sequence[Path]) -> Classifier:
    """The classifier with its accuracy on the test split, which is read once for it; a new one goes to the last file.

    The accuracy lies beside the weights, in a file of the test split's own: weights depend on training images alone.
    Earlier versions kept it with the weights, under a name that stood for both splits; so weights beside which no
    accuracy lies are of such a name, and theirs is that of this test split.
    """
    notes = [_judgement(file, dataset) for file in files]
    known = next((note for note in notes if note.is_file()), None)
    if known is None:
        accuracy = classifier.description.get("test_accuracy")
        if accuracy is None or any(any(file.parent.glob(f"{file.stem}-*.json")) for file in files):
            accuracy = classifier.accuracy_on(dataset.test)
        known = notes[-1]
        write_json(known, {"test_accuracy": accuracy})
    classifier.description["test_accuracy"] = read_json(known)["test_accuracy"]
    return classifier


def _judgement(file: Path, dataset: ImageDataset) -> Path:
    """Where the accuracy of the weights in ``file`` on the test split of a dataset lies."""
    return file.with_name(f"{file.stem}-{key_of('test', dataset.test_fingerprint)}.json")
