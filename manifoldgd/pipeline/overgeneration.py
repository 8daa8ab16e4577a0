"""Keep one of the images that were sampled for each prototype.

The candidates are whole sets, one a replica, each sampled like a set that has no others: replica 0 is, to the last bit,
the set of a run without over-generation, and guidances that judge sets judge each replica by itself. What is kept is
decided by real training images and the candidates alone; no student is trained and no test image is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.distill.overgeneration import Overgeneration
from manifoldgd.report.card import set_card
from manifoldgd.store.sets import CONTENT, SetWriter, load_set

Embed = Callable[[Tensor], Tensor]  # uint8 [n, C, H, W] -> [n, E] float32

# Of a candidate's manifest: what the candidates have in common.
SHARED = ("method", "config", "inputs", "prior_revision", "prior_autoencoder_revision", "prior_labels", "seed")

# Of a candidate's manifest row: what the writer of the kept set says itself.
PLACE = ("file", "label", "rank", CONTENT)


def keep_one_a_prototype(
    folder: Path,
    candidates: Sequence[DistilledSet],
    dataset: ImageDataset,
    embed: Embed,
    overgeneration: Overgeneration,
) -> DistilledSet:
    """Write the set of the images kept into ``folder``; a finished one is read.

    Args:
        folder: of the set.
        candidates: a set of every replica, in order, all with the same images a class.
        dataset: its training split gives the real class means.
        embed: the space of the rule.
        overgeneration: the rule.

    Returns:
        The set; each image's row in the manifest is its candidate's and says which ``replica`` it was.
    """
    writer = SetWriter(folder, dataset.class_names)
    if writer.complete:
        return load_set(folder)
    started = time.perf_counter()
    features = torch.stack([embed(one.images) for one in candidates])  # [R, classes * ipc, E]
    means = class_means(dataset, embed)
    for label in range(len(dataset.class_names)):
        rows = torch.nonzero(candidates[0].labels == label).flatten()
        for row, replica in zip(
            rows.tolist(), overgeneration.choose(features[:, rows], means[label]).tolist(), strict=True
        ):
            _copy(writer, candidates[replica], row, replica)
    first = candidates[0].manifest
    facts = {key: first[key] for key in SHARED if key in first}
    seconds = sum(one.manifest["seconds"]["distill"] for one in candidates) + time.perf_counter() - started
    facts["seconds"] = {**first["seconds"], "distill": round(seconds, 2)}
    ipc = first["ipc"]
    writer.finish(ipc=ipc, facts=facts, card=set_card(dataset.name, dataset.class_names, ipc, facts))
    return load_set(folder)


def _copy(writer: SetWriter, candidate: DistilledSet, row: int, replica: int) -> None:
    held = candidate.manifest["images"][row]
    facts = {key: value for key, value in held.items() if key not in PLACE}
    writer.save(candidate.images[row], held["label"], held["rank"], **facts, replica=replica)


def class_means(dataset: ImageDataset, embed: Embed, chunk: int = 1024) -> Tensor:
    """Mean embedding ``[classes, E]`` float64 of each class's real training images, ``chunk`` at a time."""
    labels, sums = dataset.train.labels, None
    for rows in torch.arange(len(labels)).split(chunk):
        features = embed(dataset.train.load(rows)).double()
        if sums is None:
            sums = features.new_zeros(len(dataset.class_names), features.shape[1])
        sums.index_add_(0, labels[rows], features)
    if sums is None:
        raise ValueError(f"dataset {dataset.name}: expected training images, got none")
    return sums / labels.bincount(minlength=len(sums))[:, None]
