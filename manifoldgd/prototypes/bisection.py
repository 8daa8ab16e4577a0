"""Two-means on one cluster: the split that divisive clustering repeats.

Shape letters: ``m`` points of the cluster, ``D`` dimensions, ``R`` restarts. A partition in two is a boolean mask, and
with two clusters Lloyd's assignment is the sign of a projection, so all restarts advance together in two matrix
products an iteration: ``[m, D] x [D, R]`` to assign and ``[R, m] x [m, D]`` to update.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bisect(
    rows: Tensor, *, restarts: int, generator: torch.Generator, subset: int = 1024, movable: int = 256
) -> Tensor:
    """Partition a cluster in two with a small sum of squared distances to the two means.

    k-means++ seeds (Arthur and Vassilvitskii 2007), Lloyd's iterations to a fixed point, the best of ``restarts``, then
    single-point moves (Hartigan 1975) until none lowers the sum: in few points of many dimensions Lloyd's fixed points
    often leave some. Clusters of more than ``subset`` points restart on a random subset of that size; the best
    partition is carried to all points and refined by Lloyd until at most one point in 500 changes side.

    Args:
        rows: ``[m, D]`` float32 points *centred at their mean*, not all identical. Not modified.
        restarts: Number ``R`` of seedings to choose from.
        generator: Source of every draw; equal states give equal partitions.
        subset: Largest cluster whose restarts see every point.
        movable: Largest cluster that is finished with single-point moves.

    Returns:
        ``[m]`` bool mask with at least one ``True`` and one ``False``.
    """
    if len(rows) <= subset:
        side = _best_lloyd(rows, _seeded_sides(rows, restarts, generator))
    else:
        sample = rows[torch.randperm(len(rows), generator=generator)[:subset]]
        side = _best_lloyd(sample, _seeded_sides(sample, restarts, generator))
        side = _nearer_mean(rows, sample, side)
        side = _best_lloyd(rows, side[:, None], tolerance=1 / 500, max_iterations=20)
    if bool(side.all()) or not bool(side.any()):
        # Only rounding gets here, or a subset of copies of one point: exact comparison always separates something.
        side = (rows != rows[0]).any(1)
    return _single_point_moves(rows, side) if len(rows) <= movable else side


def _seeded_sides(rows: Tensor, restarts: int, generator: torch.Generator) -> Tensor:
    """Masks ``[m, R]``: which of two k-means++ seeds is nearer."""
    first = rows[torch.randint(len(rows), (restarts,), generator=generator)]
    # Differences, not the expanded square: a copy of the first seed must have probability exactly zero.
    squared = torch.cdist(first, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    squared[squared.sum(1) == 0] = 1.0  # every point of a subset may be a copy; the caller then falls back
    second = rows[torch.multinomial(squared, 1, generator=generator).flatten()]
    return _assign(rows, first, second)


def _assign(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Masks ``[m, R]`` of the points strictly nearer to the second centre ``[R, D]`` than to the first."""
    normal = second - first
    offset = ((second + first) * normal).sum(1) / 2
    return rows @ normal.T > offset


def _best_lloyd(rows: Tensor, sides: Tensor, *, tolerance: float = 0.0, max_iterations: int = 100) -> Tensor:
    """Lloyd's iterations on ``R`` masks ``[m, R]`` at once; the mask ``[m]`` of the smallest within-cluster sum."""
    total = rows.sum(0)
    for _ in range(max_iterations):
        second, first, between = _means(rows, total, sides)
        updated = _assign(rows, first, second)
        changed = int((updated != sides).sum(0).max())
        sides = updated
        if changed <= tolerance * len(rows):
            break
    *_, between = _means(rows, total, sides)
    return sides[:, int(between.nan_to_num(nan=-1.0).argmax())]


def _means(rows: Tensor, total: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means ``[R, D]`` of both sides and the between-cluster sum of squares ``[R]`` (nan where a side is empty)."""
    inside = sides.to(rows.dtype)
    size = inside.sum(0)[:, None]
    sums = inside.T @ rows
    second, first = sums / size, (total - sums) / (len(rows) - size)
    between = (second * sums).sum(1) + (first * (total - sums)).sum(1)
    return second, first, between


def _nearer_mean(rows: Tensor, sample: Tensor, side: Tensor) -> Tensor:
    """Carry a partition of ``sample`` to all ``rows``."""
    if bool(side.all()) or not bool(side.any()):
        return (rows != sample[0]).any(1)
    return _assign(rows, sample[~side].mean(0)[None], sample[side].mean(0)[None])[:, 0]


def _single_point_moves(rows: Tensor, side: Tensor, tolerance: float = 1e-6) -> Tensor:
    """Move the most rewarding point to the other side until no move lowers the within-cluster sum (Hartigan).

    Taking ``x`` from a cluster of size ``a`` saves ``a / (a - 1) * d^2`` and adding it to one of size ``b`` costs
    ``b / (b + 1) * d^2``, with ``d`` the distance to the respective mean.
    """
    side = side.clone()
    norms = rows.square().sum(1)
    floor = tolerance * float(norms.sum())  # below float32's resolution of the sum a move could be undone for ever
    for _ in range(len(rows)):
        own = torch.stack([~side, side], dim=1).to(rows.dtype)
        size = own.sum(0)
        if float(size.min()) == 0:
            break
        means = own.T @ rows / size[:, None]
        squared = norms[:, None] - 2 * rows @ means.T + means.square().sum(1)
        # A cluster of one has d = 0 and stays: what it would save is 0 whatever the factor.
        saved = (own * squared * (size / (size - 1).clamp(min=1))).sum(1)
        paid = ((1 - own) * squared * (size / (size + 1))).sum(1)
        best = int((saved - paid).argmax())
        if float(saved[best] - paid[best]) <= floor:
            break
        side[best] = ~side[best]
    return side
