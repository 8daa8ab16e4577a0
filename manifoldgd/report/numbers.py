"""How a measured number is printed: no more digits than its spread supports, none hidden when it is missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

MISSING = "–"


@dataclass(frozen=True)
class Spread:
    """A mean with its standard deviation; ``std`` is ``None`` where a single value gives none.

    Tables and plots of intervals hold half the interval's width in ``std`` instead, and say so in their caption.
    """

    mean: float | None
    std: float | None = None
    mark: str = ""  # printed behind the number, for instance the sign of a footnote


def finite(value: float | None) -> bool:
    """Whether there is a number to print and to rank; ``None``, NaN and infinities are not."""
    return value is not None and math.isfinite(value)


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation (divisor ``n - 1``); no deviation below two values, no mean below one."""
    if not values:
        return Spread(None)
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def number_format(spreads: Iterable[Spread]) -> str:
    """One format for a whole column, so that its digits line up.

    Two significant digits of the median positive deviation; without deviations, three of the largest magnitude.
    At most six decimals; columns below 0.0001 or from a million on become scientific.
    """
    spreads = list(spreads)
    means = [s.mean for s in spreads if finite(s.mean)]
    deviations = [s.std for s in spreads if finite(s.std) and s.std > 0]
    if not deviations and all(float(mean).is_integer() and abs(mean) < 1e6 for mean in means):
        return ".0f"
    largest = max(map(abs, means), default=0.0)
    reference, digits = (statistics.median_low(deviations), 2) if deviations else (largest, 3)
    if reference == 0:
        return ".0f"
    if largest >= 1e6 or 0 < largest < 1e-4:
        return ".2e"
    return f".{min(6, max(0, digits - 1 - math.floor(math.log10(reference))))}f"


def number_text(value: float | None, spec: str) -> str:
    """``value`` in the format ``spec``; a dash where there is none, and never a negative zero."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = format(value, spec)
    return text.lstrip("-") if float(text) == 0 else text


def spread_text(spread: Spread, spec: str) -> str:
    """``mean ± std``, or the mean alone where there is no deviation; the mark behind it."""
    text = number_text(spread.mean, spec)
    if finite(spread.mean) and finite(spread.std):
        text += f" ± {number_text(spread.std, spec.removeprefix('+'))}"
    return f"{text} {spread.mark}" if spread.mark else text


def percent(spread: Spread) -> Spread:
    """Fractions to percentages."""
    return replace(spread, mean=_times_100(spread.mean), std=_times_100(spread.std))


def seconds_text(seconds: float | None) -> str:
    """A duration as a person says it: ``0.4 s``, ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if not finite(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _times_100(value: float | None) -> float | None:
    return None if value is None else 100 * value
