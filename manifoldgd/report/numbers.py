"""How a measured number is printed: no more digits than are supported, none hidden when it is missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import TypeGuard, overload

from manifoldgd.estimates import Estimate
from manifoldgd.progress import duration

MISSING = "–"
ACCURACY = ".1f"  # of every percentage, and every difference of two: a test split of 10,000 images supports no more

Number = float | Estimate | None


def finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to print and to rank; ``None``, NaN and infinities are not."""
    return value is not None and math.isfinite(value)


def mean_of(number: Number) -> float | None:
    """The number itself, or that of an estimate."""
    return number.mean if isinstance(number, Estimate) else number


def half_of(number: Number) -> float | None:
    """Half the interval, where there is one."""
    return number.half if isinstance(number, Estimate) else None


def number_format(numbers: Iterable[Number]) -> str:
    """One format for a whole column of measures, so that its digits line up.

    Two significant digits of the median positive half interval; without intervals, three of the largest magnitude. At
    most six decimals; columns below 0.0001 or from a million on become scientific.
    """
    numbers = list(numbers)
    means = [mean for mean in map(mean_of, numbers) if finite(mean)]
    halves = [half for half in map(half_of, numbers) if finite(half) and half > 0]
    if not halves and all(float(mean).is_integer() and abs(mean) < 1e6 for mean in means):
        return ".0f"
    largest = max(map(abs, means), default=0.0)
    reference, digits = (statistics.median_low(halves), 2) if halves else (largest, 3)
    if reference == 0:
        return ".0f"
    if largest >= 1e6 or 0 < largest < 1e-4:
        return ".2e"
    return f".{min(6, max(0, digits - 1 - math.floor(math.log10(reference))))}f"


def number_text(number: Number, spec: str) -> str:
    """``mean ± half`` or the mean alone; a dash where there is none, and never a negative zero."""
    mean, half = mean_of(number), half_of(number)
    if mean is None or math.isnan(mean):
        return MISSING
    if math.isinf(mean):
        return "∞" if mean > 0 else "−∞"
    text = format(mean, spec)
    text = text.lstrip("-") if float(text) == 0 else text
    return f"{text} ± {half:{spec.removeprefix('+')}}" if finite(half) else text


def plus_minus(numbers: Iterable[Number]) -> str:
    """What ``±`` says of these numbers, for beside them; empty where none is printed.

    >>> plus_minus([Estimate(0.7, 0.1, 3), Estimate(0.7, None, 1), 0.2])
    "± half the 95 % interval of the mean over sets (Student's t)"
    """
    units = sorted({number.of for number in numbers if isinstance(number, Estimate) and finite(number.half)})
    return f"± half the 95 % interval of the mean over {' or '.join(units)} (Student's t)" if units else ""


@overload
def percent(number: Estimate | None) -> Estimate | None: ...
@overload
def percent(number: Number) -> Number: ...
def percent(number: Number) -> Number:
    """A fraction as a percentage."""
    if isinstance(number, Estimate):
        return number.times(100)
    return None if number is None else 100 * number


def seconds_text(seconds: float | None) -> str:
    """A duration as a person says it: ``0.4 s``, ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if not finite(seconds):
        return MISSING
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)
