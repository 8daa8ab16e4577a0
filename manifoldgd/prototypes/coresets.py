"""Real images as distilled sets: the baselines that every table needs.

Each method maps features ``[n, E]`` of one class to ``count`` distinct row numbers in a meaningful order: a shorter
selection of :func:`herding` or :func:`k_center` is a prefix of a longer one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manifoldgd.errors import UserError, require
from manifoldgd.prototypes.flat import kmeans_labels
from manifoldgd.prototypes.representatives import distinct_nearest
from manifoldgd.randomness import generator as keyed_generator

Selection = Callable[[Tensor, int, torch.Generator], Tensor]


def random_real(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` rows of ``[n, E]`` drawn without replacement, in the order of the draw; ``[count]`` int64."""
    _check(features, count)
    return torch.randperm(len(features), generator=generator)[:count]


def herding(features: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Rows whose running mean stays closest to the mean of all (Welling 2009, as in iCaRL, Rebuffi et al. 2017, eq. 4).

    Each step takes the row that, added to those before it, brings their mean nearest to the class mean. Features are
    used as given: normalise them first to reproduce works that do.

    Args:
        features: ``[n, E]``, not modified.
        count: Rows to choose, at most ``n``.
        generator: Not used; the choice is deterministic, the first row wins ties.

    Returns:
        ``[count]`` int64 distinct rows in order of choice.

    Example:
        >>> herding(torch.tensor([[0.0], [4.0], [5.0], [11.0]]), 3).tolist()
        [2, 1, 3]
    """
    _check(features, count)
    centred = features.double() - features.double().mean(0)
    norms = centred.square().sum(1)
    running, chosen = torch.zeros_like(centred[0]), list[int]()
    for _ in range(count):
        # ||running + x||^2 up to a constant: the distance of the new mean from the class mean, times the new count.
        step = norms + 2 * centred @ running
        step[chosen] = torch.inf
        chosen.append(int(step.argmin()))
        running = running + centred[chosen[-1]]
    return torch.tensor(chosen, dtype=torch.int64)


def herding_by_group(features: Tensor, groups: Tensor, target: Tensor) -> Tensor:
    """One row a group, such that the running mean of the rows taken stays closest to ``target``.

    :func:`herding` with two changes: the mean to approach is given, and a group that has given a row gives no other.
    Each step may take a row of any group left, so the groups' order does not matter.

    Args:
        features: ``[n, E]``, not modified.
        groups: ``[n]`` int64, the group of each row.
        target: ``[E]``, the mean to approach.

    Returns:
        ``[number of groups]`` int64 rows, by ascending group; the first row wins ties.

    Example:
        >>> rows = torch.tensor([[0.0], [4.0], [6.0], [11.0]])
        >>> herding_by_group(rows, torch.tensor([0, 1, 1, 0]), torch.tensor([5.0])).tolist()
        [3, 1]
    """
    shapes = tuple(features.shape), tuple(groups.shape), tuple(target.shape)
    if features.ndim != 2 or groups.shape != features.shape[:1] or target.shape != features.shape[1:]:
        raise ValueError(f"features, groups, target: expected [n, E], [n], [E], got {shapes}")
    centred = features.double() - target.double()
    norms = centred.square().sum(1)
    running, kept, free = torch.zeros_like(centred[0]), {}, torch.ones(len(groups), dtype=torch.bool)
    while bool(free.any()):
        step = (norms + 2 * centred @ running).masked_fill(~free, torch.inf)  # as in herding
        row = int(step.argmin())
        kept[int(groups[row])] = row
        free = free & (groups != groups[row])
        running = running + centred[row]
    return torch.tensor([kept[group] for group in sorted(kept)], dtype=torch.int64)


def k_center(features: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Greedy k-center (farthest-first traversal, Gonzalez 1985), starting at the row nearest to the mean.

    Each step takes the row farthest from all rows taken: at most twice the optimal covering radius.

    Args:
        features: ``[n, E]``, not modified.
        count: Rows to choose, at most ``n``.
        generator: Not used; the choice is deterministic, the first row wins ties.

    Returns:
        ``[count]`` int64 distinct rows in order of choice.

    Example:
        >>> k_center(torch.tensor([[0.0], [4.0], [5.0], [11.0]]), 3).tolist()
        [2, 3, 0]
    """
    _check(features, count)
    points = features.double() - features.double().mean(0)
    chosen = [int(points.square().sum(1).argmin())]
    squared = torch.full((len(points),), torch.inf, dtype=points.dtype)
    while len(chosen) < count:
        squared = torch.minimum(squared, (points - points[chosen[-1]]).square().sum(1))
        squared[chosen] = -1.0  # copies of a chosen row are at 0, so they come after all others
        chosen.append(int(squared.argmax()))
    return torch.tensor(chosen, dtype=torch.int64)


def kmeans_nearest(
    features: Tensor, count: int, generator: torch.Generator, *, restarts: int = 5, iterations: int = 50
) -> Tensor:
    """The rows nearest to the means of ``count`` k-means clusters, the largest cluster first; ``[count]`` int64.

    Where there are fewer different rows than clusters, copies fill up.
    """
    _check(features, count)
    labels = kmeans_labels(features, count, restarts=restarts, iterations=iterations, generator=generator)
    sizes = torch.bincount(labels, minlength=count)
    order = sizes.argsort(descending=True, stable=True)
    means = torch.stack([features[labels == label].float().mean(0) for label in order[sizes[order] > 0].tolist()])
    nearest = distinct_nearest(means, features.float()).tolist()
    taken = set(nearest)
    rest = (row for row in range(len(features)) if row not in taken)
    return torch.tensor([*nearest, *(next(rest) for _ in range(count - len(nearest)))], dtype=torch.int64)


SELECTIONS: dict[str, Selection] = {
    "random": random_real,
    "herding": herding,
    "k_center": k_center,
    "kmeans_nearest": kmeans_nearest,
}
# What these choose depends on the features alone: every seed gives the same set.
DRAW_NOTHING = frozenset({"herding", "k_center"})


def select_classes(
    features: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    method: str,
    ipc: int,
    seed: int,
    distinct: Tensor | None = None,
    on_class: Callable[[str], None] | None = None,
) -> Tensor:
    """Apply one selection to every class.

    Args:
        features: ``[N, E]`` of all real training images.
        labels: ``[N]`` int64, index into ``class_names``.
        class_names: Names that key the draws, so that the order of the classes changes nothing.
        method: ``random``, ``herding``, ``k_center`` or ``kmeans_nearest``.
        ipc: Images a class.
        seed: Seed of the draws.
        distinct: ``[m]`` int64 rows of the images that are no copies of others of their class; the copies are left out,
            so that no set holds an image twice. ``None`` where there are none.
        on_class: Called with the name of each class when it is done.

    Returns:
        ``[len(class_names) * ipc]`` int64 rows of ``features``, class by class, in the method's order.

    Raises:
        UserError: The method is unknown, or a class has fewer than ``ipc`` different images.
    """
    require(method in SELECTIONS, f"selection: expected one of {', '.join(SELECTIONS)}, got {method!r}; choose one")
    chosen = []
    kept = torch.arange(len(labels)) if distinct is None else distinct
    for label, name in enumerate(class_names):
        rows = kept[labels[kept] == label]
        require(
            1 <= ipc <= len(rows),
            f"ipc: expected 1 to {len(rows)}, the different images of class {name!r}, got {ipc}; change ipc or add "
            "images",
        )
        draws = keyed_generator(seed, "select", name)
        chosen.append(rows[SELECTIONS[method](features[rows], ipc, draws)])
        if on_class is not None:
            on_class(name)
    return torch.cat(chosen)


def _check(features: Tensor, count: int) -> None:
    if features.ndim != 2:
        raise ValueError(f"features: expected [n, E], got {tuple(features.shape)}")
    if not 1 <= count <= len(features):
        raise UserError(f"ipc: expected 1 to {len(features)}, the images of the class, got {count}; change ipc")
