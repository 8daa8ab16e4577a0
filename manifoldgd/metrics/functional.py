"""How a synthetic set compares with a real one, as pure functions on embeddings.

Shape letters: ``n`` synthetic and ``N`` real images, ``E`` dimensions of the embedding, ``k`` neighbours. All work is
done in float64 and every result is a float64 scalar, or one number an image. A metric that is not defined for so few
images is ``nan``, as all are for an empty set: one image has no diversity, and a table should say so instead of a run
failing.

The first five reproduce the conventions of the evaluation in the released code of ManifoldGD (arXiv 2602.23295).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from manifoldgd.randomness import generator

_CHUNK = 1024  # rows of a distance matrix held at a time ...
_BLOCK = 2**23  # ... fewer where they would be more numbers than this, 64 MiB
_PAIRS = 2**25  # distances whose median is found in one piece, 256 MiB
_DIGIT = 16  # bits of a distance that a pass over all pairs decides


def mean_l2(synthetic: Tensor, real: Tensor) -> Tensor:
    """Euclidean (not squared) distance between the mean embeddings, in units of the embedding; 0 is best.

    Args:
        synthetic: ``[n, E]``.
        real: ``[N, E]``.

    Raises:
        ValueError: The shapes are not ``[n, E]`` and ``[N, E]``.

    Example:
        >>> mean_l2(torch.tensor([[0.0, 0.0], [6.0, 0.0]]), torch.tensor([[0.0, 4.0]])).item()
        5.0
    """
    synthetic, real = _pair(synthetic, real)
    return torch.linalg.vector_norm(synthetic.mean(0) - real.mean(0))


def mean_cosine(synthetic: Tensor, real: Tensor) -> Tensor:
    """Cosine *distance* between the mean embeddings, ``1 - cos``, in [0, 2]; 0 is best.

    The means are taken of the embeddings as given, not of normalised ones.

    Args:
        synthetic: ``[n, E]``.
        real: ``[N, E]``.

    Raises:
        ValueError: The shapes are not ``[n, E]`` and ``[N, E]``.

    Example:
        >>> mean_cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item()
        1.0
    """
    synthetic, real = _pair(synthetic, real)
    return 1 - functional.cosine_similarity(synthetic.mean(0), real.mean(0), dim=0)


def rbf_mmd(synthetic: Tensor, real: Tensor, *, max_real: int = 5000, max_median_rows: int = 4000) -> Tensor:
    """Maximum mean discrepancy, unbiased in its square (Gretton et al. 2012, eq. 3), with a Gaussian kernel.

    The kernel is ``exp(-||x - y||^2 / m)`` with ``m`` the (lower) median *squared* distance over all pairs of different
    rows of the two sets pooled. The result is the square root of the estimate, a negative estimate counting as 0: at
    least 0, where 0 is best.

    Args:
        synthetic: ``[n, E]``; ``nan`` for ``n < 2``.
        real: ``[N, E]``; ``nan`` for ``N < 2``.
        max_real: Above this many real rows a fixed random choice stands for them; the cost grows with the square.
        max_median_rows: Above this many pooled rows the median is that of a fixed random choice.

    Raises:
        ValueError: The shapes are not ``[n, E]`` and ``[N, E]``.

    Example:
        >>> round(rbf_mmd(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])).item(), 4)
        0.7304
    """
    synthetic, real = _pair(synthetic, real)
    if min(len(synthetic), len(real)) < 2:
        return _undefined(synthetic)
    pooled = _thinned(torch.cat([synthetic, real]), max_median_rows)
    bandwidth = _median_squared(pooled)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y).square() / bandwidth)

    return _unbiased_mmd2(synthetic, _thinned(real, max_real), kernel).clamp(min=0).sqrt()


def kid(synthetic: Tensor, real: Tensor, *, max_real: int = 5000) -> Tensor:
    """Kernel distance (Binkowski et al. 2018): unbiased squared MMD with the kernel ``(x . y / E + 1)^3``.

    Computed once on all rows. The usual mean over random subsets of equal size estimates the same quantity with more
    variance, and would need draws.

    Args:
        synthetic: ``[n, E]``; ``nan`` for ``n < 2``.
        real: ``[N, E]``; ``nan`` for ``N < 2``.
        max_real: Above this many real rows a fixed random choice stands for them; the cost grows with the square.

    Returns:
        The estimate, 0 in expectation for equal distributions, so it can be negative.

    Raises:
        ValueError: The shapes are not ``[n, E]`` and ``[N, E]``.

    Example:
        >>> kid(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])).item()
        9.5
    """
    synthetic, real = _pair(synthetic, real)
    if min(len(synthetic), len(real)) < 2:
        return _undefined(synthetic)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1).pow(3)

    return _unbiased_mmd2(synthetic, _thinned(real, max_real), kernel)


def class_mmd2(
    synthetic: Tensor,
    synthetic_labels: Tensor,
    real: Tensor,
    real_labels: Tensor,
    *,
    scales: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
) -> Tensor:
    """Squared maximum mean discrepancy of each class from the real class, unbiased and signed, averaged over classes.

    A distilled set holds equally many images of each class, so two of its images are of one class less often than two
    independent draws would be. That alone pushes the estimate of :func:`rbf_mmd` below zero, where it is cut off, for
    good sets and for real images alike. Inside a class nothing is balanced, and the unbiased estimate (Gretton et al.
    2012, eq. 3) has expectation 0 for real images. It is neither cut off nor rooted: differences between sets of a
    seed stay differences of means.

    The kernel is the mean over ``scales`` ``s`` of ``exp(-||x - y||^2 / (2 s^2 m_c))`` with ``m_c`` the (lower) median
    squared distance between different *real* images of the class. It does not depend on the synthetic images, so values
    of different sets are comparable, and near and far differences both count (several widths as in Li et al. 2015,
    *Generative Moment Matching Networks*).

    Args:
        synthetic: ``[n, E]``; ``nan`` where a class that occurs has a single image.
        synthetic_labels: ``[n]`` integers.
        real: ``[N, E]``; ``nan`` where a class of the synthetic set has fewer than two real images.
        real_labels: ``[N]`` integers. Classes without synthetic images are left out.
        scales: widths of the kernel, each > 0, in units of the class's median distance.

    Returns:
        The estimate, 0 in expectation for equal class distributions, so it can be negative.

    Raises:
        ValueError: The shapes are not ``[n, E]``, ``[n]``, ``[N, E]``, ``[N]``.

    Example:
        >>> labels = torch.zeros(2, dtype=torch.int64)
        >>> pair, far = torch.tensor([[0.0], [1.0]]), torch.tensor([[9.0], [10.0]])
        >>> round(class_mmd2(pair, labels, far, labels, scales=[1.0]).item(), 4)
        1.2131
        >>> round(class_mmd2(pair, labels, pair, labels, scales=[1.0]).item(), 4)
        -0.3935
    """
    synthetic, real = _pair(synthetic, real)
    for name, rows, labels in (("synthetic", synthetic, synthetic_labels), ("real", real, real_labels)):
        if labels.shape != (len(rows),):
            raise ValueError(f"{name}_labels: expected shape ({len(rows)},), got {tuple(labels.shape)}")
    estimates = []
    for label in synthetic_labels.unique().tolist():
        own, target = synthetic[synthetic_labels == label], real[real_labels == label]
        if min(len(own), len(target)) < 2:
            return _undefined(synthetic)
        median = _median_squared(target)
        estimates.append(_unbiased_mmd2(own, target, _gaussian_mixture([2 * s**2 * median for s in scales])))
    return torch.stack(estimates).mean() if estimates else _undefined(synthetic)


def _gaussian_mixture(widths: Sequence[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = torch.cdist(x, y).square()
        return sum((torch.exp(-squared / width) for width in widths), torch.zeros_like(squared)) / len(widths)

    return kernel


def representativeness(synthetic: Tensor, real: Tensor) -> Tensor:
    """Cosine similarity to its nearest real image of the synthetic image that is farthest from all, in [-1, 1].

    ``min`` over synthetic of ``max`` over real images, as in Minimax Diffusion (Gu et al. 2024); 1 is best.

    Args:
        synthetic: ``[n, E]``.
        real: ``[N, E]``.

    Raises:
        ValueError: The shapes are not ``[n, E]`` and ``[N, E]``.

    Example:
        >>> real = torch.tensor([[1.0, 0.0]])
        >>> round(representativeness(torch.tensor([[2.0, 0.0], [3.0, 4.0]]), real).item(), 4)
        0.6
    """
    synthetic, real = _pair(synthetic, real)
    if not (len(synthetic) and len(real)):
        return _undefined(synthetic)
    unit, targets = functional.normalize(synthetic), functional.normalize(real)
    return torch.stack([(part @ targets.T).max(1).values.min() for part in _blocks(unit, targets)]).min()


def diversity(synthetic: Tensor) -> Tensor:
    """Cosine distance of the two most similar synthetic images, in [0, 2]: 0 means that two point the same way.

    Args:
        synthetic: ``[n, E]``; ``nan`` for ``n < 2``.

    Raises:
        ValueError: The shape is not ``[n, E]``.

    Example:
        >>> round(diversity(torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, -1.0]])).item(), 4)
        0.4
    """
    synthetic = _embeddings("synthetic", synthetic)
    if len(synthetic) < 2:
        return _undefined(synthetic)
    unit = functional.normalize(synthetic)
    largest = unit.new_tensor(-torch.inf)
    for rows in _blocks(torch.arange(len(unit), device=unit.device), unit):
        others = (unit[rows] @ unit.T).scatter_(1, rows[:, None], -torch.inf)  # without itself
        largest = torch.maximum(largest, others.max())
    return 1 - largest


def nearest_distances(synthetic: Tensor, real: Tensor) -> Tensor:
    """Euclidean distance of each synthetic image to its nearest real one: how near a set comes to copying.

    With the *training* images as the real side, 0 is a copy. What is natural depends on the data and on their number:
    compare with the same figures for real images that are not among them.

    Args:
        synthetic: ``[n, E]``.
        real: ``[N, E]``; taken to double precision a part at a time, as it may be a whole training split.

    Returns:
        ``[n]`` float64, at least 0, in units of the embedding; infinite where there is no real image.

    Raises:
        ValueError: The shapes are not ``[n, E]`` and ``[N, E]``.

    Example:
        >>> nearest_distances(torch.tensor([[0.0, 0.0], [6.0, 0.0]]), torch.tensor([[0.0, 4.0], [6.0, 1.0]])).tolist()
        [4.0, 1.0]
    """
    if synthetic.ndim != 2 or real.ndim != 2 or synthetic.shape[1] != real.shape[1]:
        raise ValueError(f"expected synthetic [n, E], real [N, E], got {tuple(synthetic.shape)}, {tuple(real.shape)}")
    synthetic = synthetic.double()
    nearest = synthetic.new_full((len(synthetic),), torch.inf)
    for part in _blocks(real, synthetic):
        part = part.double()
        row = torch.cdist(synthetic, part).argmin(1)
        nearest = nearest.minimum((synthetic - part[row]).norm(dim=1))  # not the rounded one: a copy is at 0
    return nearest


class Fidelity(NamedTuple):
    """Float64 scalars: precision, recall and coverage in [0, 1], density at least 0; real sets have about 1 in each."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def precision_recall_density_coverage(synthetic: Tensor, real: Tensor, k: int, *, max_real: int = 5000) -> Fidelity:
    """Fidelity and coverage by balls around images that reach to their ``k``-th nearest neighbour in their own set.

    Precision: share of synthetic images within some real ball. Recall: share of real images within some synthetic ball
    (Kynkaanniemi et al. 2019, eq. 1 and 2). Density: real balls around a synthetic image, over ``k``, on average.
    Coverage: share of real balls with a synthetic image in them (Naeem et al. 2020, eq. 3 and 4). Points on a ball's
    surface are within it, and an image is not its own neighbour.

    Args:
        synthetic: ``[n, E]``; recall is ``nan`` for ``n <= k``.
        real: ``[N, E]``; the other three are ``nan`` for ``N <= k``.
        k: Neighbours, 1 or more (the papers use 3 and 5).
        max_real: Above this many real rows a fixed random choice stands for them. The values depend on it, as radii
            shrink when images are added: compare at equal ``N`` only (the papers use 10,000 to 50,000).

    Raises:
        ValueError: The shapes are not ``[n, E]`` and ``[N, E]``, or ``k < 1``.

    Example:
        >>> synthetic, real = torch.tensor([[0.4], [9.0]]), torch.tensor([[0.0], [1.0], [3.0]])
        >>> [round(v.item(), 4) for v in precision_recall_density_coverage(synthetic, real, k=1)]
        [0.5, 1.0, 1.0, 0.6667]
    """
    synthetic, real = _pair(synthetic, real)
    if k < 1:
        raise ValueError(f"k: expected 1 or more, got {k}")
    real = _thinned(real, max_real)
    origin = real.mean(0)  # distances do not depend on it, their rounding does
    synthetic, real = synthetic - origin, real - origin
    # A set of at most k images has no balls: nothing is within them, and what would count them is not defined.
    reach = _radii(synthetic, k) if len(synthetic) > k else synthetic.new_full((len(synthetic),), -torch.inf)
    real_reach = _radii(real, k) if len(real) > k else real.new_full((len(real),), -torch.inf)
    recalled, covered = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    balls = torch.zeros(len(synthetic), dtype=torch.int64, device=real.device)  # real ones around each synthetic image
    for rows in _blocks(torch.arange(len(synthetic), device=real.device), real):
        distances = torch.cdist(synthetic[rows], real)
        recalled |= (distances <= reach[rows, None]).any(0)
        within = distances <= real_reach
        covered |= within.any(0)
        balls[rows] = within.sum(1)
    precision = recall = density = coverage = _undefined(synthetic)
    if len(synthetic) > k:
        recall = recalled.double().mean()
    if len(real) > k and len(synthetic):
        precision, coverage = (balls > 0).double().mean(), covered.double().mean()
        density = balls.double().mean() / k
    return Fidelity(precision, recall, density, coverage)


def frechet_distance(synthetic: Tensor, real: Tensor) -> Tensor:
    """Squared Frechet distance between Gaussians fitted to the sets (Heusel et al. 2017), at least 0; 0 is best.

    ``||mu_s - mu_r||^2 + tr(C_s) + tr(C_r) - 2 tr (C_s C_r)^(1/2)`` with unbiased covariances. With centred rows scaled
    so that ``C = A^T A``, the last trace is the sum of the singular values of ``A_s A_r^T``: no root of a product that
    is rank-deficient whenever there are fewer images than dimensions.

    Biased: it falls as images are added even if their distribution does not change, steeply below ``E`` images. Compare
    values at equal ``n`` and ``N`` only, and print ``n`` beside them.

    Args:
        synthetic: ``[n, E]``; ``nan`` for ``n < 2``.
        real: ``[N, E]``; ``nan`` for ``N < 2``.

    Raises:
        ValueError: The shapes are not ``[n, E]`` and ``[N, E]``.

    Example:
        >>> round(frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [9.0]])).item(), 4)
        33.0
    """
    synthetic, real = _pair(synthetic, real)
    if min(len(synthetic), len(real)) < 2:
        return _undefined(synthetic)
    root_s, root_r = _covariance_root(synthetic), _covariance_root(real)
    cross = torch.linalg.svdvals(root_s @ root_r.T).sum()
    shift = (synthetic.mean(0) - real.mean(0)).square().sum()
    return (shift + root_s.square().sum() + root_r.square().sum() - 2 * cross).clamp(min=0)


def _embeddings(name: str, values: Tensor) -> Tensor:
    if values.ndim != 2:
        raise ValueError(f"{name}: expected embeddings [n, E], got {tuple(values.shape)}")
    return values.double()


def _pair(synthetic: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    synthetic, real = _embeddings("synthetic", synthetic), _embeddings("real", real)
    if synthetic.shape[1] != real.shape[1]:
        raise ValueError(f"synthetic, real: expected equal E, got {synthetic.shape[1]} and {real.shape[1]}")
    return synthetic, real


def _undefined(like: Tensor) -> Tensor:
    return torch.full((), torch.nan, dtype=torch.float64, device=like.device)


def _thinned(rows: Tensor, limit: int) -> Tensor:
    """At most ``limit`` of the rows, the same for equal numbers; by chance, since classes may follow in a cycle."""
    if len(rows) <= limit:
        return rows
    return rows[torch.randperm(len(rows), generator=generator("metrics", len(rows)))[:limit].sort().values]


def _blocks(rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """``rows`` in parts whose distances to all ``columns`` are held at a time; none where there are no rows."""
    if len(rows):
        yield from rows.split(max(1, min(_CHUNK, _BLOCK // max(1, len(columns)))))


def _median_squared(rows: Tensor) -> Tensor:
    """The (lower) median squared distance of two different rows of ``[n, E]`` float64, above 0; ``n`` at least 2.

    Of more pairs than :data:`_PAIRS` it is selected digit by digit: numbers that are not negative are in the order of
    their bits, so a pass over all pairs that counts by the leading ones tells what the median's are.
    """
    pairs = len(rows) * (len(rows) - 1) // 2
    if pairs <= _PAIRS:
        median = functional.pdist(rows).median()
    else:
        rank, known = (pairs - 1) // 2, 0
        for shift in range(64 - _DIGIT, -1, -_DIGIT):
            counts = torch.zeros(2**_DIGIT, dtype=torch.int64, device=rows.device)
            for bits in _distance_bits(rows):
                digits = bits >> shift
                counts += (digits[digits >> _DIGIT == known] % 2**_DIGIT).bincount(minlength=2**_DIGIT)
            below = counts.cumsum(0)
            digit = int(torch.searchsorted(below, rank, right=True))
            rank -= int(below[digit] - counts[digit])
            known = known << _DIGIT | digit
        median = torch.tensor(known, device=rows.device).view(torch.float64)
    return median.square().clamp(min=torch.finfo(rows.dtype).tiny)


def _distance_bits(rows: Tensor) -> Iterator[Tensor]:
    """Distances of all pairs of different rows, each once, as the integers of their bits."""
    start = 0
    for part in _blocks(rows, rows):
        distances = torch.cdist(part, rows[start:], compute_mode="donot_use_mm_for_euclid_dist")
        yield distances[torch.ones_like(distances, dtype=torch.bool).triu(1)].view(torch.int64)
        start += len(part)


def _unbiased_mmd2(synthetic: Tensor, real: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Squared MMD without the pairs of an image with itself, which would bias it upwards."""

    def within(rows: Tensor) -> Tensor:
        itself = torch.stack([kernel(part, part).trace() for part in _blocks(rows, rows)]).sum()
        return (total(rows, rows) - itself) / (len(rows) * (len(rows) - 1))

    def total(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([kernel(part, y).sum() for part in _blocks(x, y)]).sum()

    return within(synthetic) + within(real) - 2 * total(synthetic, real) / (len(synthetic) * len(real))


def _radii(rows: Tensor, k: int) -> Tensor:
    """Distance ``[m]`` of each row to its ``k``-th nearest other row."""
    # The nearest of all is the row itself, hence k + 1.
    radii = torch.cat([torch.cdist(part, rows).kthvalue(k + 1, dim=1).values for part in _blocks(rows, rows)])
    # A synthetic image that is a copy of a real one lies exactly on surfaces: rounding must not decide.
    return radii * (1 + 1e-9)


def _covariance_root(embeddings: Tensor) -> Tensor:
    """``A`` with ``A^T A`` the unbiased covariance and at most ``E`` rows."""
    root = (embeddings - embeddings.mean(0)) / (len(embeddings) - 1) ** 0.5
    return root if len(root) <= root.shape[1] else torch.linalg.qr(root, mode="r").R
