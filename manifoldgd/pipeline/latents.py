"""Encode the training split once; cluster it once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from manifoldgd import ranks
from manifoldgd.artifacts import Key, LatentSet, PrototypeSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import UserError, require, under
from manifoldgd.finite import check_finite
from manifoldgd.machine import SINGLE, Machine
from manifoldgd.pipeline.spaces import FeatureTable
from manifoldgd.priors.prior import DAMAGED, Prior
from manifoldgd.progress import progress_bar
from manifoldgd.prototypes.classes import Clusterer, cluster_classes
from manifoldgd.store.cache import cached_latents, cached_prototypes
from manifoldgd.store.keys import key_of
from manifoldgd.store.rows import RowWriter

WORTH_PROCESSES = 10**8  # numbers of all latents from which on clustering takes longer than processes take to start
HALF = "float16"  # in which latents are kept that are computed in half precision; bfloat16 has fewer digits
AGAIN = "set cache=FOLDER to an empty one to have them made again"


def encode(dataset: ImageDataset, prior: Prior, machine: Machine, cache: Path) -> tuple[LatentSet, bool]:
    """The scaled latents of the training split, and whether they were in the cache.

    An encoding that was stopped is continued, in the same batches as one that was not.

    Raises:
        UserError: the prior cannot take such images, an image is broken, or the cached file is damaged.
    """
    from manifoldgd.latents.encoding import encode_split  # here, because it imports Lightning

    prior.check_images(dataset.name, dataset.image_shape)
    prior.hold(machine.precision)
    half = machine.precision != SINGLE
    key = _key(dataset, prior, machine.precision)
    numbers: dict[str, Any] = {"shape": prior.latent_shape, "batch_size": machine.batch_size}
    numbers |= {"dtype": np.float16 if half else np.float32}

    def share(start: int, append: Callable[[Tensor], None]) -> None:
        trainer = machine.trainer(shared=True, enable_progress_bar=False)
        encode_split(prior, dataset.train, append, start=start, batch_size=machine.batch_size, trainer=trainer)

    def write(rows: RowWriter) -> None:
        left = len(dataset.train) - rows.rows
        batches = -(-left // machine.batch_size)

        def append(latents: Tensor) -> None:
            rows.append(latents.numpy())
            advance()

        with progress_bar(f"encode {left} images", batches, enabled=machine.progress) as advance:
            share(ranks.told(rows.rows), append)

    def find() -> tuple[LatentSet, bool]:
        return cached_latents(cache, key, dataset.train.labels, dataset.class_names, write, **numbers)

    if ranks.rank() == 0:
        found, cached = find()
        ranks.told(None if cached else len(dataset.train))
    else:  # told where the first begins, if it has to, and that it has ended
        cached = (start := ranks.told(0)) is None
        if not cached:
            share(start, lambda latents: None)
            ranks.told(0)
        found, _ = find()
    return replace(found, distinct=dataset.train.distinct), cached


def _key(dataset: ImageDataset, prior: Prior, precision: str) -> Key:
    """What latents depend on: images, autoencoder and precision. Half precision keeps them in half the room.

    Formerly the whole prior was part of it, so that they were computed anew for every denoiser.
    """
    parts = [dataset.name, dataset.train_fingerprint, prior.autoencoder_key, prior.image_size, precision]
    if precision != SINGLE:
        return key_of("latents", *parts, HALF)
    key, former = (key_of("latents", *parts[:2], part, *parts[3:]) for part in (prior.autoencoder_key, prior.key))
    return Key(key, [*key.former, *former.names])


def check_ipc(dataset: ImageDataset, ipc: int) -> None:
    """Raise :class:`UserError` unless every class has ``ipc`` different training images and ``ipc`` is positive.

    Copies of an image count once, whatever chooses or clusters: no set holds an image twice.
    """
    require(ipc >= 1, f"ipc: expected at least 1 image per class, got {ipc}; set ipc=1 or more")
    labels, classes = dataset.train.labels, len(dataset.class_names)
    counts = labels.bincount(minlength=classes).tolist()
    different = labels[dataset.train.distinct].bincount(minlength=classes).tolist()
    few = [
        f"{name!r} has {some}" + (f" ({count} with copies)" if count > some else "")
        for name, count, some in zip(dataset.class_names, counts, different, strict=True)
        if some < ipc
    ]
    require(
        not few,
        f"ipc: expected at most the number of different training images of every class, got {ipc}, but class "
        f"{', '.join(few[:5])}; lower ipc or add images",
    )


def cluster(
    latents: LatentSet,
    clusterer: Clusterer,
    clusterer_config: dict[str, Any],
    features: FeatureTable | None = None,
    *,
    ipc: int,
    seed: int,
    machine: Machine,
    cache: Path | None,
) -> tuple[PrototypeSet, bool]:
    """``ipc`` prototypes for each class, and whether they were in the cache.

    ``clusterer_config`` names what ``clusterer`` was built from; goes into the key. Without ``cache`` nothing is kept.
    ``features`` are those that its space asks for (:func:`manifoldgd.pipeline.spaces.features_of`); they are loaded
    only if there is something to find.
    """
    # Without features the key is what it was before there were any, and so are the caches that hold it.
    parts = [latents.key, clusterer_config, ipc, seed] + ([features.key] if features else [])
    key = key_of("prototypes", *parts)

    def find() -> PrototypeSet:
        compared = features.load() if features else None
        # As they lie in the cache: an older version wrote without looking.
        check_finite(latents.latents, "clusterer: the latents of the training images", f"{DAMAGED}; {AGAIN}")
        if compared is not None:
            check_finite(compared, "clusterer: the features of the training images", f"{DAMAGED}; {AGAIN}")
        count = len(latents.class_names)
        with (
            under("clusterer"),
            progress_bar(f"cluster {count} classes", count, enabled=machine.progress) as advance,
        ):
            return cluster_classes(
                latents,
                clusterer,
                ipc,
                seed,
                key,
                lambda name: advance(),
                compared,
                latents.distinct,
                apply=map if latents.latents.numel() < WORTH_PROCESSES else in_processes(machine.cores),
            )

    return (find(), False) if cache is None else cached_prototypes(cache, key, find)


def in_processes(count: int) -> Callable[[Callable[[int], Any], range], Iterator[Any]]:
    """A ``map`` over so many processes, in order.

    A tree is hundreds of small products; threads would wait for the interpreter between them.
    """

    def apply(function: Callable[[int], Any], numbers: range) -> Iterator[Any]:
        # The loader's processes end with this one, however it ends. Its own draws must not touch the global generator.
        work = DataLoader(
            _Results(function, numbers),
            batch_size=None,
            num_workers=min(count, len(numbers)),
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),
        )
        others = set(multiprocessing.active_children())
        try:
            for found in work:
                if isinstance(found, UserError):
                    raise found
                yield found
        except BaseException:
            _kill(set(multiprocessing.active_children()) - others)  # the loader would let each finish its class
            raise

    return apply


def _kill(workers: Iterable[multiprocessing.process.BaseProcess]) -> None:
    """End a loader's processes at once; one that computes does not hear a request before its product is done."""
    listens = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD)
    if listens:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise about those that were killed
    try:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
    finally:
        if listens:
            signal.signal(signal.SIGCHLD, before)


class _Results(Dataset[Any]):
    """Computed where they are asked for."""

    def __init__(self, function: Callable[[int], Any], numbers: range) -> None:
        self._function, self._numbers = function, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> Any:
        try:
            return self._function(self._numbers[place])
        except UserError as error:  # as a value, to which the loader adds no traceback
            return error


def _leave_signals(worker: int) -> None:
    """SIGINT is for the process that started this one, which ends it with SIGTERM; that is no failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def check_neighbourhood(dataset: ImageDataset, size: int) -> None:
    """Raise :class:`UserError` unless every class has at least ``size`` training images."""
    smallest = int(dataset.train.labels.bincount(minlength=len(dataset.class_names)).min())
    require(
        size <= smallest,
        f"expected at most the {smallest} training images of the smallest class, got {size}; lower it",
        key="neighbourhood",
    )
