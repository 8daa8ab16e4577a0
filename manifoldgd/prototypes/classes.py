"""Prototypes of all classes of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from manifoldgd.artifacts import Key, LatentSet, PrototypeSet
from manifoldgd.errors import UserError
from manifoldgd.prototypes.representatives import ClassPrototypes
from manifoldgd.prototypes.spaces import ClusteringSpace
from manifoldgd.randomness import generator


class Clusterer(Protocol):
    """Anything that turns the latents of one class into prototypes."""

    space: ClusteringSpace  # where it compares them

    def __call__(
        self, latents: Tensor, ipc: int, generator: torch.Generator, features: Tensor | None = None
    ) -> ClassPrototypes:
        """``[n, C, H, W]`` latents -> ``ipc`` prototypes, all draws from ``generator``.

        ``features`` ``[n, E]`` of the same images are given where :attr:`space` is one of features.
        """
        ...


def cluster_classes(
    latents: LatentSet,
    clusterer: Clusterer,
    ipc: int,
    seed: int,
    key: Key,
    on_class: Callable[[str], None] | None = None,
    features: Tensor | None = None,
    distinct: Tensor | None = None,
    apply: Callable[[Callable[[int], ClassPrototypes], range], Iterable[ClassPrototypes]] = map,
) -> PrototypeSet:
    """Cluster each class on its own.

    The draws of a class depend on ``seed`` and the class *name* alone, so neither the order of the classes nor the
    number of processes changes anything.

    Args:
        latents: The real training images.
        clusterer: Any of this package's clusterers.
        ipc: Prototypes a class, 1 or more.
        seed: Seed of the draws.
        key: Key of the result: a hash of what made it.
        on_class: Called with the name of each class when it is done.
        features: ``[N, E]`` of the same images, where the clusterer compares features.
        distinct: ``[m]`` int64 rows of the images that are no copies of others of their class; the copies are left out,
            so that no two prototypes are of one image. ``None`` where there are none.
        apply: Does the classes' work, in order; ``map`` does it here, others may share it out.

    Returns:
        ``ipc`` prototypes for each class, class by class; ``nearest`` are rows of ``latents``.

    Raises:
        UserError: A class cannot give ``ipc`` prototypes; the message names it and counts its different images.
    """
    kept = torch.arange(len(latents.labels)) if distinct is None else distinct
    members = [kept[latents.labels[kept] == label] for label in range(len(latents.class_names))]
    work = partial(_cluster, latents, features, members, clusterer, ipc, seed)
    found = []
    for one in apply(work, range(len(members))):
        found.append(one)
        if on_class is not None:
            on_class(latents.class_names[len(found) - 1])
    num_classes = len(latents.class_names)
    return PrototypeSet(
        prototypes=torch.cat([one.prototypes for one in found]),
        labels=torch.arange(num_classes).repeat_interleave(ipc),
        ranks=torch.arange(ipc).repeat(num_classes),
        nearest=torch.cat([rows[one.nearest] for rows, one in zip(members, found, strict=True)]),
        depths=torch.cat([one.depths for one in found]),
        sizes=torch.cat([one.sizes for one in found]),
        class_names=latents.class_names,
        key=key,
    )


def _cluster(
    latents: LatentSet,
    features: Tensor | None,
    members: list[Tensor],
    clusterer: Clusterer,
    ipc: int,
    seed: int,
    label: int,
) -> ClassPrototypes:
    rows, name = members[label], latents.class_names[label]
    own = None if features is None else features[rows]
    try:
        with _one_thread():
            return clusterer(latents.of(rows), ipc, generator(seed, "cluster", name), own)
    except UserError as error:
        raise UserError(f"{error.text} (class {name!r}, {len(rows)} images)", error.own_key, error.path) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, and put the number back.

    A tree is hundreds of small products: on busy cores threads wait for each other far longer than they compute
    (measured: 84 s against 2 s). The sums then also do not depend on the number of cores, nor do the clusters.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
