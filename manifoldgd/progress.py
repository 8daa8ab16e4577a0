"""One kind of progress bar for all long work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress_bar(title: str, total: int, *, enabled: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that advances the bar by one; on a pipe or file one line at the end stands for the bar.

    Args:
        title: what is under way.
        total: steps in all.
        enabled: ``False`` draws nothing, and so does a total of 0.
    """
    if not enabled or total == 0:
        yield lambda: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        started = time.perf_counter()
        yield lambda: None
        print(f"{title}: done in {time.perf_counter() - started:.1f} s", flush=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
