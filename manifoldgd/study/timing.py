"""How long it took to compute sets, each stage counted as often as it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from manifoldgd.study.results import SetResult

MAKING = "distill"  # the stage that cells with equal sets share


def computing_seconds(sets: Iterable[SetResult]) -> Counter[str]:
    """Seconds by stage over all ``sets``.

    A run that stands for several seeds counts once, and so does the making of a set that several columns share: their
    results have the same images and the same seconds.
    """
    stages: Counter[str] = Counter()
    runs = {(one.method, one.column, one.key): one for one in sets}
    made: set[tuple[str, float]] = set()
    for one in runs.values():
        held = {stage: seconds for stage, seconds in one.seconds.items() if seconds is not None}
        if one.fingerprint and MAKING in held:
            making = one.fingerprint, held[MAKING]
            held = {stage: seconds for stage, seconds in held.items() if stage != MAKING or making not in made}
            made.add(making)
        stages.update(held)
    return stages
