r"""DD-Ranking's scores: how much of an accuracy is the images', not the labels'.

Source: Li et al., *DD-Ranking: Rethinking the Evaluation of Dataset Distillation*, 2025, arXiv 2505.13300; the formulas
as its documentation and code state them (github.com/NUS-HPC-AI-Lab/DD-Ranking, ``doc/introduction.md`` and
``ddranking/metrics``).

**Accuracies are fractions in [0, 1] here.** The documentation calls the normalised scores values in [0, 1], which the
map ``(e^a - e^-1) / (e - e^-1)`` gives for ``a`` in [-1, 1] alone. The published code hands it differences of
*percentages*: ten points below count as ``a = -10`` instead of -0.1. Whatever loses a few points then scores the same
-0.157, a gain of five points scores 63, and a mean over runs is that of the luckiest. Numbers of that code and numbers
of this module never compare. Its ARS needs students trained without augmentation, which no protocol here trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from manifoldgd.errors import require
from manifoldgd.report.content import End
from manifoldgd.study.results import SetResult, TableResult

# The scores among the measures of a set, with the better end.
SCORES: Mapping[str, End] = {"hlr": "low", "ior": "high", "lrs": "high"}


def hard_label_recovery(full: float, distilled: float) -> float:
    """HLR: what training on the set with class labels misses of training on all real images with class labels.

    ``HLR = acc(real, hard) - acc(distilled, hard)``, in [-1, 1]; lower is better, 0 is full recovery.

    Args:
        full: accuracy in [0, 1] of a network trained on the whole real training split; see
            :func:`manifoldgd.pipeline.classifiers.full_data_accuracy`.
        distilled: accuracy in [0, 1] of the same network trained on the distilled set under hard labels.

    Raises:
        ValueError: an accuracy outside [0, 1].

    >>> hard_label_recovery(0.875, 0.75)
    0.125
    """
    return _within("full", full, 0) - _within("distilled", distilled, 0)


def improvement_over_random(distilled: float, random: float) -> float:
    """IOR: what the set gains over as many random real images, both under one protocol of any kind.

    ``IOR = acc(distilled, any) - acc(random, any)``, in [-1, 1]; higher is better, 0 is no gain. Arguments and errors
    as for HLR.

    >>> improvement_over_random(0.75, 0.5)
    0.25
    """
    return _within("distilled", distilled, 0) - _within("random", random, 0)


def label_robust_score(recovery: float, improvement: float, weight: float) -> float:
    """LRS: hard-label recovery and improvement over random in one number, in [0, 1]; higher is better.

    ``LRS = (e^a - e^-1) / (e - e^-1)`` with ``a = w * IOR - (1 - w) * HLR``. A set that equals random images and
    recovers the full accuracy scores ``(1 - e^-1) / (e - e^-1)``, about 0.269.

    Args:
        recovery: HLR, in [-1, 1].
        improvement: IOR, in [-1, 1].
        weight: ``w`` in [0, 1]; DD-Ranking's leaderboard takes 0.5.

    Raises:
        ValueError: an argument outside its range.

    >>> round(label_robust_score(0.2, 0.1, 0.5), 4)  # a = 0.05 - 0.1
    0.2482
    >>> label_robust_score(-1.0, 1.0, 0.5), label_robust_score(1.0, -1.0, 0.5)
    (1.0, 0.0)
    """
    weight = _within("weight", weight, 0)
    exponent = weight * _within("improvement", improvement, -1) - (1 - weight) * _within("recovery", recovery, -1)
    return (math.exp(exponent) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def with_scores(result: TableResult, *, random: str, full: Mapping[str, float], weight: float) -> TableResult:
    """The table with ``hlr``, ``ior`` and ``lrs`` among the measures of its sets, where they are defined.

    A set's accuracy is the mean over its students, last epoch. ``ior`` compares it with the random set of the same
    seed and column, whatever the labels. ``hlr`` needs hard labels, so in a soft-label table it is missing, and ``lrs``
    with it.

    Args:
        result: a table, finished or not.
        random: the method whose sets are random real images.
        full: by column, accuracy in [0, 1] of the column's student trained with class labels on all real images;
            columns may be missing.
        weight: of ``ior`` in ``lrs``, in [0, 1].

    Raises:
        UserError: the table has no such method or column.
    """
    require(random in result.methods, f"scores: no method {random!r} in {result.name}; name the random real images")
    labels = {column.key: column.labels for column in result.columns}
    unknown = [key for key in full if key not in labels]
    require(not unknown, f"scores: no columns {', '.join(unknown)} in {result.name}; correct their keys")
    baselines = {(one.column, one.seed): one.mean_top1 for one in result.sets if one.method == random}

    def scored(one: SetResult) -> SetResult:
        scores, accuracy = {}, one.mean_top1
        if one.column in full and labels[one.column] == "hard":
            scores["hlr"] = hard_label_recovery(full[one.column], accuracy)
        if (one.column, one.seed) in baselines:
            scores["ior"] = improvement_over_random(accuracy, baselines[one.column, one.seed])
        if len(scores) == 2:
            scores["lrs"] = label_robust_score(scores["hlr"], scores["ior"], weight)
        return replace(one, measures={**one.measures, **scores})

    return replace(result, sets=tuple(map(scored, result.sets)))


def without_scores(one: SetResult) -> SetResult:
    """The set with what was measured of it alone: scores follow from all rows, which may be measured again."""
    return replace(one, measures={name: value for name, value in one.measures.items() if name not in SCORES})


def _within(name: str, value: float, low: int) -> float:
    if not low <= value <= 1:
        raise ValueError(f"{name}: expected a fraction in [{low}, 1], got {value}; divide percentages by 100")
    return value
