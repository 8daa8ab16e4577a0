"""One kind of progress for all long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 30.0  # seconds between two lines off a terminal
Advance = Callable[..., None]


def on_terminal() -> bool:
    """Whether bars are drawn; a pipe, a file and a scheduler's log get lines."""
    return Console(stderr=True).is_terminal


@contextmanager
def progress_bar(
    title: str, total: int, *, enabled: bool, done: float = 0, unit: str = "", transient: bool = False
) -> Iterator[Advance]:
    """Yield a function that advances by its argument, one step where none is given.

    Off a terminal there is a line every :data:`LINE_EVERY` seconds, also while no step ends.

    Args:
        title: what is under way.
        total: steps in all.
        enabled: ``False`` shows nothing, and so does a total of 0.
        done: steps that an earlier process did.
        unit: what the steps are, if not plain.
        transient: leave nothing behind at the end, neither a bar nor a line.
    """
    if not enabled or total == 0:
        yield lambda steps=1.0: None
        return
    if not on_terminal():
        with _lines(title, total, done, unit, transient) as advance:
            yield advance
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(unit)] if unit else []
    times = (TimeRemainingColumn(),) if transient else (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), transient=transient) as progress:
        task = progress.add_task(title, total=total, completed=done)  # type: ignore[arg-type]  # rich takes fractions too
        yield lambda steps=1.0: progress.advance(task, steps)


@contextmanager
def _lines(title: str, total: int, done: float, unit: str, silent_end: bool) -> Iterator[Advance]:
    started, first, ended = time.perf_counter(), done, threading.Event()

    def advance(steps: float = 1.0) -> None:
        nonlocal done
        done += steps

    def speak() -> None:
        while not ended.wait(LINE_EVERY):
            seconds = time.perf_counter() - started
            left = seconds * (total - done) / (done - first) if done > first else None
            ahead = "" if left is None else f", about {duration(left)} left"
            counted = f"{int(done + 1e-6)}/{total} {unit}".rstrip()  # whole ones: parts of an epoch are no news
            print(f"{title}: {counted} after {duration(seconds)}{ahead}", flush=True)

    # A thread, so that a step of minutes does not look like a hang.
    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield advance
    finally:
        ended.set()
        speaker.join()
    if not silent_end:
        print(f"{title}: done in {time.perf_counter() - started:.1f} s", flush=True)


def data_size(count: float) -> str:
    """Bytes as people write them.

    >>> data_size(1_536_000), data_size(2.5e9), data_size(12)
    ('1.5 MB', '2.5 GB', '12 bytes')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Two units at most, for instance ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
