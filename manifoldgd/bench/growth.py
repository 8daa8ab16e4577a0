"""How time and memory grow with the latents of a class, the classes and the images of a set.

Each point is measured in a process of its own, whose largest memory is that point's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from manifoldgd.artifacts import Key, LatentSet
from manifoldgd.geometry.neighbours import neighbourhood_indices
from manifoldgd.prototypes import Divisive, RawLatents, cluster_classes
from manifoldgd.randomness import generator
from manifoldgd.store.sets import SetWriter, load_set
from manifoldgd.system import peak_memory

Row = dict[str, Any]
LATENT = (4, 8, 8)
OF_A_CLASS = 100  # latents, where the classes grow
IPC, NEIGHBOURS = 10, 64


def growth(latents: Iterable[int], classes: Iterable[int], images: Iterable[int]) -> list[Row]:
    """Seconds and GiB for each size: latents of one class, classes of 100 latents, images of a set."""
    rows = []
    for kind, work, sizes in (
        ("latents of a class", _prototypes_of_a_class, latents),
        ("classes", _prototypes_of_classes, classes),
        ("images of a set", _set_of_images, images),
    ):
        for size in sizes:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                rows.append({"growing": kind, "size": size, **process.submit(_measured, work, size).result()})
    return rows


def _measured(work: Callable[[int], dict[str, float]], size: int) -> Row:
    torch.set_num_threads(1)
    before, found = peak_memory(), work(size)
    return {**found, "gib": (peak_memory() - before) / 2**30}


def _prototypes_of_a_class(size: int) -> dict[str, float]:
    return _prototypes(1, size)


def _prototypes_of_classes(size: int) -> dict[str, float]:
    return _prototypes(size, OF_A_CLASS)


def _prototypes(classes: int, each: int) -> dict[str, float]:
    latents = LatentSet(
        latents=torch.randn(classes * each, *LATENT, generator=generator("bench", "growth")),
        labels=torch.arange(classes).repeat_interleave(each),
        class_names=tuple(map(str, range(classes))),
        key=Key("bench"),
    )
    started = time.perf_counter()
    clusterer = Divisive(criterion="sse", representative="nearest", space=RawLatents(), restarts=10)
    found = cluster_classes(latents, clusterer, IPC, 0, Key("bench"))
    clustered = time.perf_counter()
    numbers: dict[str, Any] = {"class_names": latents.class_names}
    neighbourhood_indices(found.prototypes, found.labels, latents.latents, latents.labels, NEIGHBOURS, **numbers)
    return {"cluster_seconds": clustered - started, "neighbours_seconds": time.perf_counter() - clustered}


def _set_of_images(size: int) -> dict[str, float]:
    draws = generator("bench", "images")
    with tempfile.TemporaryDirectory() as folder:
        names, ipc = [str(name) for name in range(10)], size // 10
        started = time.perf_counter()
        writer = SetWriter(Path(folder), names)
        for label in range(10):
            for rank in range(ipc):
                writer.save(torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=draws), label, rank)
        writer.finish(ipc=ipc, facts={"method": "bench", "config": {}}, card="")
        written = time.perf_counter()
        load_set(Path(folder))
        return {"write_seconds": written - started, "read_seconds": time.perf_counter() - written}
