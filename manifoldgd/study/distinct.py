"""Which of a cell's sets are one set: seeds that lead to the same images add nothing to what is known."""

from __future__ import annotations

from collections.abc import Iterable

from manifoldgd.study.results import SetResult


def same_set(one: SetResult, other: SetResult) -> bool:
    """Whether two results are of equal images; by their keys where a record is older than fingerprints."""
    if one.fingerprint and other.fingerprint:
        return one.fingerprint == other.fingerprint
    return one.key == other.key


def distinct_sets(sets: Iterable[SetResult]) -> tuple[SetResult, ...]:
    """One result for each different set, in the order given: of equal ones that with the most students."""
    found: list[SetResult] = []
    for one in sets:
        known = next((place for place, other in enumerate(found) if same_set(one, other)), None)
        if known is None:
            found.append(one)
        elif len(one.student_seeds) > len(found[known].student_seeds):
            found[known] = one
    return tuple(found)
