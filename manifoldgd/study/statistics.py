"""What a few measurements say, and how sure they are.

A cell is ``G`` distilled sets (distillation seeds ``g``), each judged by ``m_g`` students (student seeds ``i``) with
accuracies ``a_gi``. The *sets are the independent unit*: students of one set saw the same images, so they share that
set's luck, and an interval that counted them one by one would be too narrow by up to ``sqrt(m_g)``.
Every interval is that of :func:`manifoldgd.estimates.estimate` over one number a set.

Accuracies are fractions in [0, 1]; the functions work in any unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance

from manifoldgd.estimates import Estimate, estimate

Accuracies = Mapping[tuple[int, int], float]  # (distillation seed, student seed) -> accuracy


@dataclass(frozen=True)
class Cell:
    """One cell: its mean with interval, and how far sets and students scatter."""

    interval: Estimate  # of the mean over sets
    between: float | None  # standard deviation of the set means; None for one set
    within: float | None  # pooled standard deviation of the students of one set; None where no set has two
    students: int  # over all sets


def cell_statistics(sets: Sequence[Sequence[float]]) -> Cell:
    """Mean, interval and the two standard deviations of a cell.

    * mean: the mean of the set means ``a_g = mean_i a_gi``. Every set weighs the same, however many students it has;
      with equal numbers it is the mean of all students.
    * between sets: ``sqrt(sum_g (a_g - mean)^2 / (G - 1))``, the deviation of the set means as they are, so with the
      share ``within^2 / m`` that a finite number of students leaves in them.
    * within a set: ``sqrt(sum_gi (a_gi - a_g)^2 / sum_g (m_g - 1))``, pooled: sets with more students count more.

    Args:
        sets: for each distilled set the accuracies of its students; at least one set, no set empty.

    Raises:
        ValueError: no set, or a set without students.

    >>> cell = cell_statistics([[0.70, 0.72], [0.74, 0.76]])
    >>> round(cell.interval.mean, 4), round(cell.between, 4), round(cell.within, 4), cell.students
    (0.73, 0.0283, 0.0141, 4)
    """
    if not sets or not all(sets):
        raise ValueError("sets: expected at least one, each with at least one student")
    means = [fmean(students) for students in sets]
    repeated = [students for students in sets if len(students) > 1]
    freedom = sum(len(students) - 1 for students in repeated)
    squares = sum((len(students) - 1) * variance(students) for students in repeated)
    return Cell(
        interval=estimate(means),
        between=stdev(means) if len(means) > 1 else None,
        within=math.sqrt(squares / freedom) if freedom else None,
        students=sum(map(len, sets)),
    )


def paired_difference(method: Accuracies, baseline: Accuracies) -> Estimate | None:
    """How much better ``method`` is than ``baseline`` on the same seeds; ``None`` where they share none.

    Only (distillation seed, student seed) pairs that both have count. Each distillation seed gives one value, the mean
    difference over its common student seeds; the interval is Student's t over these values (the paired t-test, which
    cancels what a seed does to both: the clustering, the noise, the students' initialisation). One common seed gives a
    mean, no interval and so no verdict.

    >>> method = {(0, 0): 0.75, (1, 0): 0.78, (2, 0): 0.90}
    >>> difference = paired_difference(method, {(0, 0): 0.73, (1, 0): 0.75, (1, 1): 0.1})
    >>> round(difference.mean, 4), difference.count, difference.verdict
    (0.025, 2, None)
    >>> paired_difference(method, {(9, 0): 0.7}) is None
    True
    """
    by_seed: dict[int, list[float]] = {}
    for seed, student_seed in sorted(method.keys() & baseline.keys()):
        by_seed.setdefault(seed, []).append(method[seed, student_seed] - baseline[seed, student_seed])
    return estimate([fmean(values) for values in by_seed.values()]) if by_seed else None
