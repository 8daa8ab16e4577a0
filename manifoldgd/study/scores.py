r"""DD-Ranking's scores: how much of an accuracy is the images', not the labels' or the augmentation's.

Source: Li et al., *DD-Ranking: Rethinking the Evaluation of Dataset Distillation*, 2025, arXiv 2505.13300; the formulas
as its documentation and code state them (github.com/NUS-HPC-AI-Lab/DD-Ranking, ``doc/introduction.md`` and
``ddranking/metrics``).

**Accuracies are fractions in [0, 1] here.** The documentation calls the normalised scores values in [0, 1], which the
map ``(e^a - e^-1) / (e - e^-1)`` gives for ``a`` in [-1, 1] alone. The published code hands it differences of
*percentages*: ten points below count as ``a = -10`` instead of -0.1. Whatever loses a few points then scores the same
-0.157, a gain of five points scores 63, and a mean over runs is that of the luckiest. Numbers of that code and numbers
of this module never compare.

Every function takes accuracies of one dataset, network and number of images. Means over seeds are the caller's.
"""

from __future__ import annotations

import math

E_LOW, E_HIGH = math.exp(-1), math.exp(1)


def hard_label_recovery(full: float, distilled: float) -> float:
    """HLR: what training on the set with class labels misses of training on all real images with class labels.

    ``HLR = acc(real, hard) - acc(distilled, hard)``, in [-1, 1]; lower is better, 0 is full recovery.

    Args:
        full: Accuracy of a network trained on the whole real training split, in [0, 1]; see
            :func:`manifoldgd.pipeline.classifiers.full_data_accuracy`.
        distilled: Accuracy of the same network trained on the distilled set under hard labels, in [0, 1].

    Raises:
        ValueError: An accuracy outside [0, 1].

    >>> hard_label_recovery(0.875, 0.75)
    0.125
    """
    return _fraction("full", full) - _fraction("distilled", distilled)


def improvement_over_random(distilled: float, random: float) -> float:
    """IOR: what the set gains over as many random real images, both under one protocol of any kind.

    ``IOR = acc(distilled, any) - acc(random, any)``, in [-1, 1]; higher is better, 0 is no gain.

    Args:
        distilled: Accuracy of a network trained on the distilled set, in [0, 1].
        random: Accuracy of the same network trained on random real images, as many a class, under the same label
            protocol, in [0, 1].

    Raises:
        ValueError: An accuracy outside [0, 1].

    >>> improvement_over_random(0.75, 0.5)
    0.25
    """
    return _fraction("distilled", distilled) - _fraction("random", random)


def label_robust_score(recovery: float, improvement: float, weight: float) -> float:
    """LRS: hard-label recovery and improvement over random in one number, in [0, 1]; higher is better.

    ``LRS = (e^a - e^-1) / (e - e^-1)`` with ``a = w * IOR - (1 - w) * HLR``. A set that equals random images and
    recovers the full accuracy scores ``(1 - e^-1) / (e - e^-1)``, about 0.269.

    Args:
        recovery: HLR, in [-1, 1].
        improvement: IOR, in [-1, 1].
        weight: ``w`` in [0, 1]; DD-Ranking's leaderboard takes 0.5.

    Raises:
        ValueError: An argument outside its range.

    >>> round(label_robust_score(0.2, 0.1, 0.5), 4)  # a = 0.05 - 0.1
    0.2482
    >>> label_robust_score(-1.0, 1.0, 0.5), label_robust_score(1.0, -1.0, 0.5)
    (1.0, 0.0)
    """
    _difference("recovery", recovery)
    return _normalised(weight, improvement, -recovery)


def augmentation_robust_score(augmented: float, plain: float, weight: float) -> float:
    """ARS: improvement over random with and without augmentation in one number, in [0, 1]; higher is better.

    ``ARS = (e^b - e^-1) / (e - e^-1)`` with ``b = g * IOR(augmented) + (1 - g) * IOR(plain)``: a set that helps only
    under its own augmentation loses.

    Args:
        augmented: IOR of students trained with augmentation, in [-1, 1].
        plain: IOR of students trained without, in [-1, 1].
        weight: ``g`` in [0, 1]; DD-Ranking's code takes 0.5.

    Raises:
        ValueError: An argument outside its range.

    >>> round(augmentation_robust_score(0.2, 0.1, 0.5), 4)  # b = 0.15
    0.3378
    >>> round(augmentation_robust_score(0.0, 0.0, 0.5), 4)
    0.2689
    """
    _difference("plain", plain)
    return _normalised(weight, augmented, plain)


def _normalised(weight: float, first: float, second: float) -> float:
    """The weighted mean of two differences, carried from [-1, 1] to [0, 1] by an exponential."""
    _difference("difference", first)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: expected a share in [0, 1], got {weight}")
    exponent = weight * first + (1 - weight) * second
    return (math.exp(exponent) - E_LOW) / (E_HIGH - E_LOW)


def _fraction(name: str, accuracy: float) -> float:
    if not 0 <= accuracy <= 1:
        raise ValueError(f"{name}: expected an accuracy in [0, 1], got {accuracy}; divide percentages by 100")
    return accuracy


def _difference(name: str, value: float) -> None:
    if not -1 <= value <= 1:
        raise ValueError(f"{name}: expected a difference of fractions in [-1, 1], got {value}; divide points by 100")
