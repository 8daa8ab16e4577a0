"""Judge a set: students trained from scratch on it, and measures of its embeddings."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

import torch
from torch import Tensor

from manifoldgd import ranks
from manifoldgd.artifacts import DistilledSet
from manifoldgd.dataset import ImageDataset, in_memory_split, judging_split
from manifoldgd.embeddings import Embedding, OwnClassifier
from manifoldgd.errors import UserError, require
from manifoldgd.estimates import Estimate, estimate
from manifoldgd.machine import Machine
from manifoldgd.pipeline.classifiers import embedding_network, teacher_of
from manifoldgd.pipeline.embedded import embed
from manifoldgd.pipeline.sets import ran_away
from manifoldgd.provenance import code_version, hardware
from manifoldgd.randomness import generator
from manifoldgd.store.classifiers import is_saved, save_student
from manifoldgd.store.keys import FORMAT, described, key_of, read_json, write_json
from manifoldgd.store.results import same_where_held
from manifoldgd.students import Classifier, Student
from manifoldgd.students.unfinished import Unfinished

METRIC_IMAGES = 5000  # real images that a set is compared with
FINGERPRINT = "fingerprint"  # of the set that a student learned; students of older versions lack it
JUDGED_ON = "dataset_fingerprint"  # of the test split that judged, formerly of both splits; as above
LEARNED_FROM = "train_fingerprint"  # of the training split that taught a teacher, or that a set was compared with
LEAKED = "test_images_in_train"  # how many of the images that judge show, pixel for pixel, what a training image shows
STUDENTS = "students"  # folder of what is known of each
Embeddings = Embedding | OwnClassifier | Mapping[str, Embedding | OwnClassifier]  # one, or several by name
NEIGHBOURS = 5  # of precision, recall, density and coverage (Naeem et al. 2020)


def check_set(distilled: DistilledSet, dataset: ImageDataset) -> None:
    """Raise :class:`UserError` unless the set has the classes and the image shape of the dataset."""
    require(
        distilled.class_names == dataset.class_names,
        f"set: {distilled.folder} has the classes {list(distilled.class_names)[:5]}..., dataset {dataset.name} has "
        f"{list(dataset.class_names)[:5]}...; choose the dataset that the set was made from",
    )
    shape = tuple(distilled.images.shape[1:])
    require(
        shape == dataset.image_shape,
        f"set: {distilled.folder} has images of shape {shape}, dataset {dataset.name} has {dataset.image_shape}; "
        "choose the dataset, with the image size, that the set was made from",
    )


def check_held_out(distilled: DistilledSet, dataset: ImageDataset) -> None:
    """Raise :class:`UserError` where images that a set may have been made from would judge it.

    They are held out of the training split of their own dataset only. Sets of unknown origin are taken as they are.
    """
    made_from = distilled.manifest.get("inputs", {}).get("dataset")
    require(
        judging_split(dataset.name) == "test" or made_from in (None, *dataset.train_fingerprint.names),
        f"set: {distilled.folder} was not made from the training split of {dataset.name}, so the images held out of "
        "it may be among those it was made from; make the set with the same dataset settings, or judge it on the test "
        "split",
    )


def beside(distilled: DistilledSet, key: str) -> Path:
    """Where the judgement ``key`` of a set goes: into the set's result folder, never among its classes."""
    folder, name = distilled.folder, f"evaluation-{key}"
    if folder is None:
        raise UserError("expected where the judgement goes, as the set lies in no folder itself; name one", "folder")
    return folder.parent / name if folder.name == "set" else folder.with_name(f"{folder.name}-{name}")


def train_students(
    folder: Path,
    distilled: DistilledSet,
    dataset: ImageDataset,
    student: Student,
    seeds: Sequence[int],
    teacher: Classifier | None,
    *,
    machine: Machine,
    logger_of: Callable[[int], Any],
    save: bool = False,
) -> list[dict[str, Any]]:
    """One student for each seed; a finished one of the same images lies in ``folder`` and is not trained again.

    Ranks share the seeds, and all return when all students are there.

    With ``save`` the networks themselves are kept, each in ``folder/<seed>``; one that was not kept is trained again.
    Where a folder holds one, the next to be trained takes its place.

    Returns:
        For each seed the fields of a :class:`StudentResult`.
    """
    origin = {FINGERPRINT: distilled.fingerprint, JUDGED_ON: dataset.test_fingerprint}
    origin |= {LEARNED_FROM: dataset.train_fingerprint} if teacher else {}
    test_images = functools.cache(dataset.test.images)  # read once, and not where no student is left
    for seed in ranks.share(list(seeds)):
        file, place = folder / f"{seed}.json", folder / f"{seed}"
        if not _judged(file, origin) or (save and not is_saved(place)):
            keeps = save or is_saved(place)
            unfinished = Unfinished(folder / f"{seed}.ckpt", key_of(origin))
            result = student.train(
                distilled.images,
                distilled.labels,
                test_images(),
                dataset.test.labels,
                num_classes=len(dataset.class_names),
                mean=dataset.mean,
                std=dataset.std,
                seed=seed,
                ipc=len(distilled.images) // len(dataset.class_names),
                flip=dataset.flip,
                teacher=teacher,
                on_trained=_saver(place, distilled, dataset, student) if keeps else None,
                progress=machine.progress,
                accelerator=machine.accelerator,
                logger=logger_of(seed),
                precision=machine.student_precision,
                compile=machine.compile,
                unfinished=unfinished,
            )
            write_json(file, asdict(result) | origin)
            unfinished.remove()
    ranks.barrier()
    held = [read_json(folder / f"{seed}.json") for seed in seeds]
    return [{name: value for name, value in one.items() if name not in origin} for one in held]


def _saver(place: Path, distilled: DistilledSet, dataset: ImageDataset, student: Student) -> Callable[..., None]:
    """What writes a trained student and all that is known of it into a folder."""

    def save(trained: Classifier) -> None:
        made = {name: distilled.manifest.get(name) for name in ("method", "ipc", "seed")}
        trained.description |= {
            "dataset": dataset.name,
            "class_names": list(dataset.class_names),
            "set": {**made, FINGERPRINT: distilled.fingerprint},
            "protocol": described(student.protocol),
            JUDGED_ON: dataset.test_fingerprint,
            "code_version": code_version(),
        }
        save_student(trained, place)

    return save


def _judged(file: Path, origin: dict[str, str]) -> bool:
    """Whether a student's file is there, and is of these images and this data."""
    return file.is_file() and same_where_held(read_json(file), origin)


@dataclass(frozen=True)
class Sides:
    """A set and real *training* images as a network sees them, which set metrics compare.

    The real side is a fixed draw of :data:`METRIC_IMAGES` training images, as some metrics compare all pairs. The test
    split is left to the students.
    """

    synthetic: Tensor  # [n, E] float32
    labels: Tensor  # [n] int64
    real: Tensor  # [N, E] float32
    real_labels: Tensor  # [N] int64

    @classmethod
    def seen_by(cls, network: Classifier | Embedding, distilled: DistilledSet, dataset: ImageDataset) -> Sides:
        """Both sides as ``network`` sees them; all ranks call this, and share the work."""
        draw = torch.randperm(len(dataset.train), generator=generator("metrics", dataset.name))[:METRIC_IMAGES]
        synthetic, real = in_memory_split(distilled.images, distilled.labels), dataset.train.subset(draw)
        return cls(embed(network, synthetic), synthetic.labels, embed(network, real), real.labels)

    def compare(self) -> dict[str, float | None]:
        """Every set metric; ``None`` for one that so few images do not define. Of several ranks, when they parted."""
        from manifoldgd.metrics import set_metrics  # here, because it imports torchmetrics

        metrics = set_metrics(k=NEIGHBOURS)
        metrics.update(embeddings=self.synthetic, real=False, labels=self.labels)
        metrics.update(embeddings=self.real, real=True, labels=self.real_labels)
        values = {name: float(value) for name, value in metrics.compute().items()}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True)
class Judged:
    """A set that students were trained on, and how they did."""

    folder: Path  # of the result: metrics.json, students/, and for a command's result report.html
    set: DistilledSet
    metrics: dict[str, Any]  # content of metrics.json

    @property
    def accuracy(self) -> Estimate:
        """Test accuracy in [0, 1] after the last epoch: mean over the students and half its 95 % interval."""
        return estimate(self.metrics["accuracy"]["last"]["values"], of="students")

    @property
    def by_student(self) -> dict[int, float]:
        """The same of each student, by its seed."""
        values = self.metrics["accuracy"]["last"]["values"]
        return dict(zip(self.metrics["student_seeds"], values, strict=True))


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and half the 95 % interval (Student's t) of accuracies in [0, 1]."""
    found = estimate(values, of="students")
    std = stdev(values) if found.count > 1 else None
    return {"mean": found.mean, "std": std, "ci95": found.half, "values": list(values)}


def finished(
    folder: Path,
    distilled: DistilledSet,
    dataset: ImageDataset,
    student: Student,
    seeds: Sequence[int],
    *,
    measures: bool,
    save_students: bool = False,
) -> dict[str, Any] | None:
    """What :func:`evaluate` wrote, if it is of these images, students and measures; ``None`` leaves it to be made.

    With ``save_students`` the students themselves have to be there too.
    """
    file = folder / "metrics.json"
    held = read_json(file) if file.is_file() else {}
    data = {JUDGED_ON: dataset.test_fingerprint}
    if measures or student.teacher_recipe is not None:
        data |= {LEARNED_FROM: dataset.train_fingerprint}
    same = held.get(FINGERPRINT) == distilled.fingerprint and same_where_held(held, data)
    measured = held.get("set_metrics") or not measures
    there = not save_students or all(is_saved(folder / STUDENTS / f"{seed}") for seed in seeds)
    return held if same and measured and there and held.get("student_seeds") == list(seeds) else None


def evaluate(
    folder: Path,
    distilled: DistilledSet,
    dataset: ImageDataset,
    student: Student,
    seeds: Sequence[int],
    *,
    machine: Machine,
    cache: Path,
    measures: bool,
    save_students: bool = False,
    embedding: Embeddings | None = None,
    logger_of: Callable[[int], Any] = lambda seed: False,
    run_url: str | None = None,
) -> dict[str, Any]:
    """Train students, measure the set, write ``folder/metrics.json`` and return its content; a finished one is read.

    Of several ranks the first judges, when all have trained their students; the others return nothing.

    Args:
        folder: result folder.
        distilled: the set.
        dataset: where it comes from; its test split judges.
        student: architecture and protocol.
        seeds: one student each.
        machine: where to run.
        cache: holds the embedding network, and the teacher where the labels are soft.
        measures: whether to measure the set's embeddings too.
        save_students: whether to keep the trained networks, for :func:`manifoldgd.store.classifiers.load_student`.
        embedding: in whose features; ``None`` for those of the classifier of the real training split. Of several the
            metrics are called ``<name>/<metric>``, and ``embedding`` of the result says what each name stands for.
        logger_of: Lightning logger for a student's seed, or ``False``.
        run_url: where the curves can be looked at, if anywhere.
    """
    held = finished(folder, distilled, dataset, student, seeds, measures=measures, save_students=save_students)
    ranks.barrier()  # all have seen the same
    if held is not None:
        return held
    started = time.perf_counter()
    recipe = student.teacher_recipe
    teacher = None if recipe is None else teacher_of(dataset, student, recipe, machine, cache)
    taught = time.perf_counter() - started
    numbers: dict[str, Any] = {"machine": machine, "logger_of": logger_of, "save": save_students}
    students = train_students(folder / STUDENTS, distilled, dataset, student, seeds, teacher, **numbers)
    judged = time.perf_counter()
    each = embedding if isinstance(embedding, Mapping) else {"": embedding}
    seen = {name: _seen(distilled, dataset, machine, cache, one) for name, one in each.items()} if measures else {}
    first = ranks.rank() == 0
    ranks.leave()
    if not first:
        return {}
    set_measures = {
        f"{name}/{metric}" if name else metric: value
        for name, (sides, _) in seen.items()
        for metric, value in sides.compare().items()
    }
    described_embedding: dict[str, Any] | None = {name: said for name, (_, said) in seen.items()} or None
    if described_embedding and not isinstance(embedding, Mapping):
        described_embedding = described_embedding[""]
    seconds = {"teacher": taught} if teacher else {}
    seconds |= {"students": sum(one["seconds"] for one in students), "metrics": time.perf_counter() - judged}
    manifest = distilled.manifest
    result = {
        "format": FORMAT,
        "dataset": dataset.name,
        "source": manifest["config"]["source"],
        "method": manifest["method"],
        "ipc": manifest["ipc"],
        "distillation_seed": manifest["seed"],
        "run_url": run_url,
        "num_images": len(distilled.images),
        "remarks": manifest.get("remarks", []),  # how a set from elsewhere was read
        "fingerprint": distilled.fingerprint,
        JUDGED_ON: dataset.test_fingerprint,
        LEARNED_FROM: dataset.train_fingerprint,
        "test_images": len(dataset.test),
        LEAKED: dataset.leaked,
        "label_protocol": student.protocol.name,
        "epochs": students[0]["last_epoch"],
        "student": student.name,
        "student_seeds": list(seeds),
        "student_precision": machine.student_precision,
        "teacher": None if teacher is None else {"name": teacher.name, "test_accuracy": teacher.test_accuracy},
        "accuracy": {epoch: summary([one[f"{epoch}_top1"] for one in students]) for epoch in ("last", "best")},
        "students": students,
        "set_metrics": set_measures,
        "embedding": described_embedding,
        "guidance": guidance_steps(distilled),
        "code_version": code_version(),
        "hardware": hardware(machine.device),
        "seconds": manifest.get("seconds", {}) | {name: round(value, 2) for name, value in seconds.items()},
    }
    write_json(folder / "metrics.json", result)
    return result


def _seen(
    distilled: DistilledSet,
    dataset: ImageDataset,
    machine: Machine,
    cache: Path,
    embedding: Embedding | OwnClassifier | None,
) -> tuple[Sides, dict[str, Any]]:
    """What the set metrics compare, and in whose embeddings."""
    if isinstance(embedding, Embedding):
        return Sides.seen_by(embedding.to(machine.device), distilled, dataset), embedding.describe()
    network = embedding_network(dataset, machine, cache)
    described = {
        "name": "classifier of the real training split",
        "test_accuracy": network.test_accuracy,
        "size": network.embedding_size,
    }
    return Sides.seen_by(network, distilled, dataset), described


def guidance_steps(distilled: DistilledSet) -> dict[str, Any] | None:
    """What guidance did at each step, mean and spread over images, and how many images ran away, from the manifest.

    ``None`` if it did nothing.
    """
    curves = [row["guidance"] for row in distilled.manifest.get("images", []) if "guidance" in row]
    if not curves:
        return None
    ratio, kept = (
        torch.tensor([[math.nan if value is None else value for value in curve[name]] for curve in curves])
        for name in ("ratio", "kept")
    )
    steps = ratio.shape[1]
    runaway, at_once = ran_away(curves)
    return {
        "runaway": runaway,
        "runaway_at_once": at_once,
        "steps": [
            {"index": steps - 1 - step, **_spread("ratio", ratio[:, step]), **_spread("kept", kept[:, step])}
            for step in range(steps)
        ],
    }


def _spread(name: str, values: torch.Tensor) -> dict[str, float | None]:
    known = values[values.isfinite()]
    return {
        f"{name}_mean": float(known.mean()) if len(known) else None,
        f"{name}_std": float(known.std(correction=0)) if len(known) else None,
    }
