"""Wall time of work on any device, fast and slow sides of a ratio measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

Work = Callable[[], object]


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device) -> float:
    """Wall time of one call, with everything that it started."""
    finish(device)
    started = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - started


def median_seconds(work: Work, device: torch.device, repetitions: int) -> float:
    """Median of some calls after one that does not count."""
    work()
    return statistics.median(seconds(work, device) for _ in range(repetitions))


def alternating(first: Work, second: Work, device: torch.device, repetitions: int) -> tuple[float, float]:
    """Median seconds of two kinds of work in turns, so that a machine that slows down slows both sides."""
    first(), second()
    pairs = [(seconds(first, device), seconds(second, device)) for _ in range(repetitions)]
    return statistics.median(one for one, _ in pairs), statistics.median(two for _, two in pairs)
