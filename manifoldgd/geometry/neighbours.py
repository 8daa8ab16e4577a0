"""Nearest neighbours among real latents: FAISS on the processor or a GPU, and an exact twin in torch.

All find candidates by single-precision arithmetic and re-rank a few more than asked for by exact differences, ties by
the lower index. The result therefore does not depend on the backend, on threads or on the order of summation (unless
more than ``_SPARE`` points tie for the last places).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from manifoldgd.errors import require
from manifoldgd.machine import Backend, faiss_library, has_faiss

_SPARE = 8
_AT_ONCE = 2**26  # distances that the exact twin holds at once: 256 MiB


@dataclass(frozen=True)
class Neighbours:
    """The ``K`` nearest points of a bank for each query, nearest first."""

    indices: Tensor  # [Q, K] int64
    squared_distances: Tensor  # [Q, K] float32


def nearest(queries: Tensor, bank: Tensor, count: int, *, backend: Backend | None = None) -> Neighbours:
    """Exact nearest neighbours in squared Euclidean distance.

    Args:
        queries: ``[Q, D]`` float32, finite.
        bank: ``[N, D]`` float32, finite.
        count: ``K`` in [1, N].
        backend: ``faiss`` or ``faiss-gpu`` (``IndexFlatL2``), or ``exact`` (matrix product and top-k, on the device of
            the bank); ``None`` for FAISS where it is installed, else exact. The same neighbours by all.

    Raises:
        ValueError: for wrong shapes, dtypes or counts. FAISS itself answers these with an empty message, or with
            indices of -1 that torch would read as the last point.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(f"expected queries [Q, D], bank [N, D], got {tuple(queries.shape)}, {tuple(bank.shape)}")
    if queries.dtype != torch.float32 or bank.dtype != torch.float32:
        raise ValueError(f"expected float32 queries and bank, got {queries.dtype} and {bank.dtype}")
    if not 1 <= count <= len(bank):
        raise ValueError(f"count: expected 1 to {len(bank)} points of the bank, got {count}")
    backend = backend or ("faiss" if has_faiss() else "exact")
    if backend not in get_args(Backend):
        raise ValueError(f"backend: expected one of {', '.join(get_args(Backend))}, got {backend!r}")
    # Around the bank's mean: |x|^2 - 2 x y + |y|^2 loses digits when the points lie far from the origin.
    centre = bank.mean(dim=0)
    centred, wanted = (queries - centre, bank - centre), min(count + _SPARE, len(bank))
    if backend == "exact":
        candidates = _search_exact(*centred, wanted)
    else:
        candidates = _search_faiss(*centred, wanted, gpu=backend == "faiss-gpu")
    return _rerank(queries, bank, candidates, count)


def neighbourhood_indices(
    prototypes: Tensor,
    prototype_labels: Tensor,
    latents: Tensor,
    latent_labels: Tensor,
    size: int,
    *,
    class_names: Sequence[str],
    backend: Backend | None = None,
) -> Tensor:
    """The real latents of its own class that lie nearest to each prototype.

    Args:
        prototypes: ``[P, ...]`` scaled latents.
        prototype_labels: ``[P]`` int64.
        latents: ``[N, ...]`` scaled latents, may be memory-mapped: one class is read at a time.
        latent_labels: ``[N]`` int64.
        size: ``M``, neighbours of each prototype.
        class_names: names by label, for messages.
        backend: see :func:`nearest`.

    Returns:
        ``[P, M]`` int64 rows of ``latents``, nearest first.

    Raises:
        UserError: if a class has fewer than ``M`` latents.
    """
    result = torch.empty(len(prototypes), size, dtype=torch.int64)
    for label in prototype_labels.unique().tolist():
        members = torch.nonzero(latent_labels == label).flatten()
        require(
            size <= len(members),
            f"needs to be at most the number of images of every class, got {size} with "
            f"{len(members)} images in class {class_names[label]!r}; lower it",
            key="size",
        )
        rows = torch.nonzero(prototype_labels == label).flatten()
        bank = latents[members].flatten(1).float()
        result[rows] = members[nearest(prototypes[rows].flatten(1).float(), bank, size, backend=backend).indices]
    return result


def nearest_in_cloud(x: Tensor, cloud: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The points of each row's own cloud that lie nearest to the row.

    Args:
        x: ``[B, D]``.
        cloud: ``[B, M, D]``.
        count: ``K`` in [1, M].

    Returns:
        The neighbours ``[B, K, D]``, nearest first, and their (not squared) distances ``[B, K]``.
    """
    squared = cloud.square().sum(-1) - 2 * (cloud @ x[:, :, None])[:, :, 0] + x.square().sum(-1, keepdim=True)
    values, indices = squared.topk(count, dim=1, largest=False)
    neighbours = cloud.gather(1, indices[:, :, None].expand(-1, -1, cloud.shape[2]))
    return neighbours, values.clamp(min=0).sqrt()


def _search_faiss(queries: Tensor, bank: Tensor, count: int, *, gpu: bool) -> Tensor:
    faiss = faiss_library(gpu=gpu)
    index = (
        faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), bank.shape[1]) if gpu else faiss.IndexFlatL2(bank.shape[1])
    )
    index.add(bank.detach().cpu().contiguous().numpy())
    _, indices = index.search(queries.detach().cpu().contiguous().numpy(), count)
    return torch.from_numpy(indices).to(bank.device)


def _search_exact(queries: Tensor, bank: Tensor, count: int) -> Tensor:
    # The query's own norm is the same for all points and does not change their order.
    norms, rows = bank.square().sum(dim=1), max(1, _AT_ONCE // len(bank))
    return torch.cat(
        [(norms - 2 * some @ bank.T).topk(count, dim=1, largest=False).indices for some in queries.split(rows)]
    )


def _rerank(queries: Tensor, bank: Tensor, candidates: Tensor, count: int) -> Neighbours:
    candidates = candidates.sort(dim=1).values  # so that the stable sort below breaks ties by index
    distances = torch.stack(
        [(bank[row] - query).double().square().sum(dim=1) for query, row in zip(queries, candidates, strict=True)]
    )
    order = distances.sort(dim=1, stable=True).indices[:, :count]
    return Neighbours(candidates.gather(1, order), distances.gather(1, order).float())
