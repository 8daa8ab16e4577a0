"""The package as a library: what the command does, and each of its steps, as functions of objects.

``import manifoldgd as mgd`` finds these functions under ``mgd`` itself. What a step is not told comes from the
configuration's own defaults, so the numbers stand in ``conf/`` alone. Steps say nothing and draw no bars, unless
a ``machine`` says otherwise; they raise :class:`~manifoldgd.errors.UserError` with one line where something given
cannot work, before long work starts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from manifoldgd.artifacts import DistilledSet, LatentSet, PrototypeSet
from manifoldgd.cli import commands, components
from manifoldgd.cli.compose import Config, compose
from manifoldgd.cli.setup import MANY_IN_A_FOLDER, Setup
from manifoldgd.cli.targets import allowing
from manifoldgd.cli.used import check_keys
from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.protocol import Guidance
from manifoldgd.diffusion.samplers import Sampler
from manifoldgd.diffusion.start import PURE_NOISE, Start
from manifoldgd.distill.overgeneration import Overgeneration
from manifoldgd.embeddings import described as described_embedding
from manifoldgd.errors import UserError, require, under
from manifoldgd.files import one_at_a_time
from manifoldgd.machine import Machine
from manifoldgd.pipeline import distillation, evaluation
from manifoldgd.pipeline.evaluation import Embeddings, Judged
from manifoldgd.pipeline.latents import cluster as find_prototypes
from manifoldgd.pipeline.latents import encode as find_latents
from manifoldgd.pipeline.spaces import features_of
from manifoldgd.priors.prior import Prior
from manifoldgd.prototypes import Clusterer
from manifoldgd.store.classifiers import load_student as read_student
from manifoldgd.store.keys import described, key_of
from manifoldgd.store.results import claim_result
from manifoldgd.store.set_reading import Reading
from manifoldgd.store.set_sources import read_set
from manifoldgd.students import Classifier, Student

__all__ = [
    "build",
    "cluster",
    "compose",
    "encode",
    "evaluate",
    "load_dataset",
    "load_prior",
    "load_set",
    "load_student",
    "run",
    "synthesise",
]


def run(config: Config) -> Judged:
    """Distil a set and judge it, as ``manifoldgd run`` does: the same checks, folder, cache and tracker.

    A finished result is read; one that was stopped is continued. Bars are drawn as ``machine.progress`` says.

    Args:
        config: from :func:`compose`.

    Returns:
        The set, the accuracy of the students and everything measured, in the folder ``output`` or one named by what
        the result is.

    Raises:
        UserError: a value cannot work; nothing was begun.
        RunError: numbers stopped being finite; what was finished is kept.
    """
    with allowing(config.allowed):
        check_keys("run", config)
        require(not config.values.dry_run, "dry_run: a run was asked for, got true; leave it out")
        return commands.run(Setup("run", config))


def build(choice: str, *changes: str) -> Any:
    """A part of the configuration as an object: ``build("student=convnet3", "student.width=32")``.

    Args:
        choice: ``group=name``, a group of the configuration and one of its members.
        changes: further overrides, as on the command line.

    Raises:
        UserError: there is no such group, member or key, or a value is out of range.
    """
    group, given, _ = choice.partition("=")
    require(bool(given), f"{choice!r}: expected a group and one of its members, such as 'student=convnet3'")
    config = compose([choice, *changes])
    with allowing(config.allowed):
        return components.build(config.values, group, cache=Path(config.values.cache))


def load_dataset(name: str, *changes: str) -> ImageDataset:
    """A dataset by the name it has on the command line: ``load_dataset("image_folder", "dataset.folder=photos")``."""
    return build(f"dataset={name}", *changes)


def load_prior(name: str, *changes: str) -> Prior:
    """A latent diffusion model by its name: ``load_prior("folder", "prior.path=my_prior")``; on the processor."""
    return build(f"prior={name}", *changes)


def load_set(source: str | Path, dataset: ImageDataset | None = None, **reading: Any) -> DistilledSet:
    """A distilled set from wherever it comes, checked against its hashes where it has any.

    Args:
        source: a set's folder or the result folder around it; an export; pictures in class folders or a ``.zip`` of
            them; ``.npz``, ``.parquet``, ``.tar`` (WebDataset), ``.pt`` (tensors); or ``bundled:NAME``.
        dataset: to whose classes and image size a set from elsewhere is brought; ``None`` for its own.
        reading: what such a set does not say itself, ``classes``, ``mean``, ``std``, ``labels``, ``run`` and ``fit`` of
            :class:`manifoldgd.store.set_reading.Reading`. What was done is in ``manifest["remarks"]``.

    Raises:
        UserError: there is none, it is damaged, or something has to be stated.
    """
    return read_set(source, Reading(**reading), dataset)


def load_student(folder: str | Path) -> Classifier:
    """A student that was saved: ``logits``, ``accuracy`` and ``embed`` of uint8 images, as it was tested.

    Args:
        folder: its own, ``RESULT/students/SEED``, or a result folder that holds one.

    Raises:
        UserError: there is none, there are several, or it is damaged.
    """
    return read_student(Path(folder))


def encode(
    dataset: ImageDataset, prior: Prior, *, machine: Machine | None = None, cache: str | Path | None = None
) -> LatentSet:
    """The scaled latents ``[N, C, H, W]`` of the training split; from the cache where it has them.

    Args:
        dataset: ``N`` training images.
        prior: its autoencoder encodes them.
        machine: where to run; ``None`` for the configuration's own, silent.
        cache: folder; ``None`` for that of the command line.

    Raises:
        UserError: the prior cannot take such images, or a cached file is damaged.
    """
    machine = machine or _machine()
    return find_latents(dataset, prior.to(machine.device), machine, _cache(cache))[0]


def cluster(
    latents: LatentSet,
    clusterer: Clusterer,
    *,
    ipc: int,
    seed: int = 0,
    dataset: ImageDataset | None = None,
    prior: Prior | None = None,
    machine: Machine | None = None,
    cache: str | Path | None = None,
) -> PrototypeSet:
    """``ipc`` prototypes of each class.

    Args:
        latents: from :func:`encode`.
        clusterer: one of ``mgd.prototypes``, or anything called like one.
        ipc: prototypes a class, at most its different images.
        seed: distillation seed; the draws of a class depend on it and on the name of the class.
        dataset: needed where the clusterer compares features instead of latents.
        prior: as ``dataset``.
        machine: see :func:`encode`.
        cache: see :func:`encode`. What a clusterer of one's own finds is not kept: its code may change.

    Raises:
        UserError: a class has fewer different images, or the space does not suit the latents.
    """
    machine = machine or _machine()
    space = clusterer.space.features if hasattr(clusterer, "space") else None
    features = None
    if space is not None:
        if dataset is None or prior is None:
            missing = "dataset" if dataset is None else "prior"
            raise UserError("the clusterer compares features, which take dataset and prior; got None", missing)
        features = features_of(space, dataset, prior.to(machine.device), latents, machine, _cache(cache))
    kept = _cache(cache) if type(clusterer).__module__.startswith("manifoldgd.") else None
    numbers: dict[str, Any] = {"ipc": ipc, "seed": seed, "machine": machine, "cache": kept}
    return find_prototypes(latents, clusterer, described(clusterer), features, **numbers)[0]


def synthesise(
    dataset: ImageDataset,
    prior: Prior,
    prototypes: PrototypeSet | None,
    *,
    guidance: Guidance,
    folder: str | Path,
    sampler: Sampler | None = None,
    ipc: int | None = None,
    seed: int = 0,
    start: Start = PURE_NOISE,
    overgeneration: Overgeneration | None = None,
    method: str | None = None,
    machine: Machine | None = None,
    cache: str | Path | None = None,
) -> DistilledSet:
    """Synthesise a set into ``folder/set``; a finished one is read, one that was stopped is continued.

    Args:
        dataset: the classes, the size of the images, and the real images that guidance looks at.
        prior: the latent diffusion model.
        prototypes: from :func:`cluster`; ``None`` for unguided sampling.
        guidance: one of ``mgd.guidance``, or one's own (:class:`manifoldgd.diffusion.protocol.Guidance`).
        folder: of the result; holds the set and a note of what it was made of.
        sampler: DDPM, DDIM or Euler of ``mgd.diffusion``; ``None`` for the one that a prior of its kind is sampled by,
            DDPM or Euler, as the configuration has them.
        ipc: images a class; ``None`` for as many as there are prototypes.
        seed: distillation seed. The noise of an image depends on it, its class and its rank alone.
        start: where sampling starts, pure noise or the noised prototypes.
        overgeneration: how many images are sampled for each prototype, and which one is kept; ``None`` for one.
        method: what tables call it; ``None`` for the name of the guidance's class.
        machine: see :func:`encode`.
        cache: see :func:`encode`.

    Returns:
        ``images`` ``[n, C, H, W]`` uint8, ``labels`` ``[n]`` into ``class_names``, ``folder`` and ``manifest``.

    Raises:
        UserError: parts that do not fit together, or a folder that holds a set of other parts.
        RunError: numbers stop being finite.
    """
    machine, folder = machine or _machine(), Path(folder)
    prior, sampler = (
        prior.to(machine.device),
        sampler or build("sampler=euler" if prior.prediction == "flow" else "sampler=ddpm"),
    )
    if ipc is None:
        if prototypes is None:
            raise UserError("expected the number of images a class where there are no prototypes, got None", "ipc")
        ipc = prototypes.ipc
    parts: dict[str, Any] = {"guidance": guidance, "sampler": sampler, "start": start}
    distillation.check_parts(dataset, prior, **parts)
    distillation.check_prototypes(prototypes, guidance, start, ipc)
    parts |= {"overgeneration": overgeneration} if overgeneration else {}
    inputs = {
        "dataset": dataset.train_fingerprint,
        "prior": prior.key,
        "prototypes": None if prototypes is None else prototypes.key,
    }
    config = {"source": "diffusion", "ipc": ipc, "seed": seed, **described(parts)}
    facts = {"method": method or type(guidance).__name__, "config": config, "inputs": inputs}
    parts |= {"ipc": ipc, "seed": seed, "machine": machine, "cache": _cache(cache), "facts": facts}
    with _alone_in(folder):
        found = distillation.finished(folder, facts)
        return found or distillation.synthesise(folder, dataset, prior, prototypes, **parts)


def evaluate(
    distilled: DistilledSet,
    dataset: ImageDataset,
    *,
    student: Student | None = None,
    seeds: Sequence[int] = (0, 1),
    measures: bool = False,
    save_students: bool = False,
    embedding: Embeddings | None = None,
    folder: str | Path | None = None,
    machine: Machine | None = None,
    cache: str | Path | None = None,
) -> Judged:
    """Train students from scratch on a set and test them on the dataset's test split.

    Args:
        distilled: from :func:`synthesise` or :func:`load_set`.
        dataset: that it was made from.
        student: architecture and protocol, from ``build("student=...")`` or ``mgd.students``; ``None`` for the
            configuration's own.
        seeds: one student each; a student that was trained is not trained again.
        save_students: whether to keep the trained networks in ``folder/students``, for :func:`load_student`.
        measures: whether to measure the set in the embeddings of a classifier of the real images too.
        embedding: in whose features to measure, from ``build("embedding=...")``, or several by name; ``None``: in that
            classifier's.
        folder: of the judgement; ``None`` for one beside the set, named by student and dataset.
        machine: see :func:`encode`.
        cache: see :func:`encode`; holds teachers and that classifier.

    Raises:
        UserError: the set is not of this dataset, the student cannot see such images, or the folder holds something
            else.
    """
    machine, student = machine or _machine(), student or build("student=convnet3")
    evaluation.check_set(distilled, dataset)
    evaluation.check_held_out(distilled, dataset)
    ipc = distilled.manifest["ipc"]
    with under("student"):
        student.check(dataset.image_shape, len(dataset.class_names), ipc)
    judged = {
        "dataset": dataset.name,
        "student": {"architecture": student.name, "protocol": described(student.protocol)},
        "student_seeds": list(seeds),
        "set": distilled.manifest.get("config"),
    }
    if measures and embedding:
        judged["embedding"] = (
            {name: described_embedding(each) for name, each in embedding.items()}
            if isinstance(embedding, Mapping)
            else described_embedding(embedding)
        )
    key = key_of({name: value for name, value in judged.items() if name != "student_seeds"})[:8]
    place = Path(folder) if folder is not None else evaluation.beside(distilled, key)
    with _alone_in(place):
        claim_result(place, "evaluation", judged, free=MANY_IN_A_FOLDER)
        numbers: dict[str, Any] = {"machine": machine, "cache": _cache(cache)}
        numbers |= {"measures": measures, "save_students": save_students, "embedding": embedding}
        metrics = evaluation.evaluate(place, distilled, dataset, student, list(seeds), **numbers)
    return Judged(place, distilled, metrics)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a result folder, which is an argument ``folder`` here and ``output`` in a configuration."""
    try:
        with one_at_a_time(folder / "result", lambda: None):
            yield
    except UserError as error:
        raise UserError(error.text, "folder") if error.key == "output" else error from error


@functools.cache
def _machine() -> Machine:
    """The configuration's own machine, silent, with this process set up for it."""
    machine = replace(build("machine=auto"), progress=False)
    machine.prepare()
    return machine


def _cache(folder: str | Path | None) -> Path:
    return Path(compose().values.cache if folder is None else folder).expanduser()
