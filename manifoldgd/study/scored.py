"""DD-Ranking's scores of a measured table: which accuracies of which cells they compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Literal

from manifoldgd.errors import require
from manifoldgd.study.results import SetResult, TableResult
from manifoldgd.study.scores import hard_label_recovery, improvement_over_random, label_robust_score

# The scores among the measures of a set, with the better end.
SCORES: Mapping[str, Literal["high", "low"]] = {"hlr": "low", "ior": "high", "lrs": "high", "ars": "high"}


def with_scores(result: TableResult, *, random: str, full: Mapping[str, float], weight: float) -> TableResult:
    """The table with ``hlr``, ``ior`` and ``lrs`` among the measures of its sets, where they are defined.

    A set's accuracy is the mean over its students, last epoch. ``ior`` compares it with the random set of the same
    seed and column, whatever the labels. ``hlr`` needs hard labels, so in a soft-label table it is missing, and ``lrs``
    with it. ``ars`` needs students trained without augmentation, which no protocol here trains.

    Args:
        result: a table, finished or not.
        random: the method whose sets are random real images.
        full: by column, accuracy in [0, 1] of the column's student trained with class labels on all real images, see
            :func:`manifoldgd.pipeline.classifiers.full_data_accuracy`; columns may be missing.
        weight: of ``ior`` in ``lrs``, in [0, 1].

    Raises:
        UserError: the table has no such method or column.
    """
    require(random in result.methods, f"scores: no method {random!r} in {result.name}; name the random real images")
    labels = {column.key: column.labels for column in result.columns}
    unknown = [key for key in full if key not in labels]
    require(not unknown, f"scores: no columns {', '.join(unknown)} in {result.name}; correct their keys")
    baselines = {(one.column, one.seed): fmean(one.last) for one in result.sets if one.method == random}
    return replace(
        result,
        sets=tuple(
            _scored(
                one,
                baselines.get((one.column, one.seed)),
                full.get(one.column) if labels[one.column] == "hard" else None,
                weight,
            )
            for one in result.sets
        ),
    )


def without_scores(result: TableResult) -> TableResult:
    """The table with what was measured of its sets alone."""
    return replace(
        result,
        sets=tuple(
            replace(one, measures={name: value for name, value in one.measures.items() if name not in SCORES})
            for one in result.sets
        ),
    )


def _scored(one: SetResult, random: float | None, full: float | None, weight: float) -> SetResult:
    accuracy, scores = fmean(one.last), {}
    if full is not None:
        scores["hlr"] = hard_label_recovery(full, accuracy)
    if random is not None:
        scores["ior"] = improvement_over_random(accuracy, random)
    if len(scores) == 2:
        scores["lrs"] = label_robust_score(scores["hlr"], scores["ior"], weight)
    return replace(one, measures={**one.measures, **scores})
