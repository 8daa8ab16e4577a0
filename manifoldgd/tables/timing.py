"""How long it took to compute sets, each stage counted as often as it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from manifoldgd.tables.results import SetResult


def computing_seconds(sets: Iterable[SetResult]) -> Counter[str]:
    """Seconds by stage over all ``sets``; a run that stands for several seeds counts once."""
    stages: Counter[str] = Counter()
    runs = {(one.method, one.column, one.key): one for one in sets}
    for one in runs.values():
        stages.update({stage: seconds for stage, seconds in one.seconds.items() if seconds is not None})
    return stages
