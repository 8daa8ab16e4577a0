"""One kind of progress for all long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 30.0  # seconds between two lines off a terminal
RECENT = 180.0  # seconds whose pace tells how long the rest takes: a machine's load comes and goes
MARK_EVERY = 1.0  # seconds between two marks of the pace, at least
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


class Pace:
    """How long the rest takes, by the pace of the last :data:`RECENT` seconds, or of one step where that is longer.

    Args:
        total: steps in all.
        done: steps that were done before.
        clock: seconds from any moment on.
    """

    def __init__(self, total: float, done: float = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.total, self.done, self._clock = total, done, clock
        self.started = self._latest = clock()  # the latest: when a step ended
        self._marks = deque([(self.started, done)])

    def advance(self, steps: float = 1.0) -> None:
        """Some steps have ended."""
        self.done, self._latest = self.done + steps, self._clock()
        if self._latest - self._marks[-1][0] >= MARK_EVERY:
            self._marks.append((self._latest, self.done))
        while len(self._marks) > 1 and self._latest - self._marks[1][0] >= RECENT:
            self._marks.popleft()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self._clock() - self.started

    @property
    def left(self) -> float | None:
        """Seconds to the end; ``None`` before the first step has ended.

        >>> seconds = iter([0, 10, 20, 25])  # 2 of 5 steps have taken 10 each, and the third is half done
        >>> pace = Pace(5, clock=lambda: next(seconds))
        >>> pace.advance(), pace.advance(), pace.left
        (None, None, 25.0)
        """
        now, (began, before) = self._clock(), self._marks[0]
        steps = self.done - before
        if steps <= 0:
            return None
        # The step under way has not ended: at least as long as it takes already is what one takes now.
        step = max((self._latest - began) / steps, (now - began) / (steps + 1))
        return max(0.0, step * (self.total - self.done) - (now - self._latest))


@contextmanager
def _lines(title: str, total: int, done: float, unit: str, silent_end: bool) -> Iterator[Advance]:
    pace, ended = Pace(total, done), threading.Event()

    def speak() -> None:
        while not ended.wait(LINE_EVERY):
            left = pace.left
            ahead = "" if left is None else f", about {duration(left)} left"
            counted = f"{int(pace.done + 1e-6)}/{total} {unit}".rstrip()  # whole ones: parts of an epoch are no news
            print(f"{title}: {counted} after {duration(pace.spent)}{ahead}", flush=True)

    # A thread, so that a step of minutes does not look like a hang.
    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield pace.advance
    finally:
        ended.set()
        speaker.join()
    if not silent_end:
        print(f"{title}: done in {pace.spent:.1f} s", flush=True)


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
