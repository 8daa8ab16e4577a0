"""A number with what is known of it: the one meaning of ``±`` in this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, stdev
from typing import Literal

LEVEL = 0.95  # of every interval

Unit = Literal["sets", "students"]  # what was repeated independently
Verdict = Literal["better", "worse"]


@dataclass(frozen=True)
class Estimate:
    """A mean over ``count`` independent values with half the width of its 95 % interval."""

    mean: float
    half: float | None  # None where one value gives no interval
    count: int  # at least 1
    of: Unit = "sets"

    @property
    def low(self) -> float | None:
        """Lower end."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end."""
        return None if self.half is None else self.mean + self.half

    @property
    def verdict(self) -> Verdict | None:
        """On which side of zero the whole interval lies; ``None`` where it holds zero or there is none.

        >>> Estimate(0.02, 0.01, 5).verdict, Estimate(-0.02, 0.01, 5).verdict
        ('better', 'worse')
        >>> Estimate(0.02, 0.02, 5).verdict is None, Estimate(0.02, None, 1).verdict is None
        (True, True)
        """
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return None
        return "better" if self.mean > 0 else "worse"

    def times(self, factor: float) -> Estimate:
        """In another unit, for instance percent."""
        return replace(self, mean=factor * self.mean, half=None if self.half is None else factor * self.half)


def estimate(values: Sequence[float], of: Unit = "sets") -> Estimate:
    """Mean and 95 % interval of independent values.

    ``mean ± t(0.975, n - 1) s / sqrt(n)`` with the sample standard deviation ``s`` (divisor ``n - 1``); Student, *The
    probable error of a mean*, Biometrika 1908. One value has a mean and no interval. Exact where the values are normal;
    for ``n`` of a few, as here, that is an assumption. Where a value is not finite there is no interval.

    Args:
        values: at least one, each from an independent repetition.
        of: what was repeated. Students of one set say how sure its accuracy is, and nothing about other sets.

    Raises:
        ValueError: no value.

    >>> found = estimate([0.70, 0.72, 0.74])
    >>> round(found.mean, 4), round(found.half, 4), found.count
    (0.72, 0.0497, 3)
    >>> estimate([0.7], of="students")
    Estimate(mean=0.7, half=None, count=1, of='students')
    """
    if not values:
        raise ValueError("values: expected at least one")
    count = len(values)
    if count < 2 or not all(map(math.isfinite, values)):
        return Estimate(sum(values) / count, None, count, of)
    return Estimate(fmean(values), _quantile(count - 1) * stdev(values) / math.sqrt(count), count, of)


@cache
def _quantile(freedom: int) -> float:
    from scipy.stats import t as student_t  # here, because it takes a moment

    return float(student_t.ppf((1 + LEVEL) / 2, freedom))
