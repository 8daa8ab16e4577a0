"""DD-Ranking's scores: values by hand, their ranges and order, and what percentages would do to them."""

import math

import numpy as np
import pytest
from tables import judgements

from manifoldgd.errors import UserError
from manifoldgd.study.results import Column, SetResult, TableResult
from manifoldgd.study.scores import (
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    with_scores,
    without_scores,
)


def as_published(exponent):
    """The map as DD-Ranking's code applies it, whatever the unit of its argument."""
    return (np.exp(exponent) - np.exp(-1)) / (np.exp(1) - np.exp(-1))


def test_values_by_hand():
    recovery, improvement = hard_label_recovery(0.9, 0.75), improvement_over_random(0.8, 0.74)
    assert recovery == pytest.approx(0.15)
    assert improvement == pytest.approx(0.06)
    # 0.5 * 0.06 - 0.5 * 0.15 = -0.045; e^-0.045 = 0.955997; (0.955997 - 0.367879) / 2.350402
    assert label_robust_score(recovery, improvement, 0.5) == pytest.approx(0.250220, abs=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_scores_agree_with_the_published_map_on_fractions(weight):
    for recovery, improvement in np.random.default_rng(0).uniform(-1, 1, (20, 2)):
        exponent = weight * improvement - (1 - weight) * recovery
        assert label_robust_score(recovery, improvement, weight) == pytest.approx(as_published(exponent))


def test_scores_fill_the_unit_interval_and_keep_the_order():
    assert label_robust_score(-1, 1, 0.5) == 1
    assert label_robust_score(1, -1, 0.5) == 0
    scores = [label_robust_score(recovery, 0.05, 0.5) for recovery in (0.3, 0.2, 0.1, 0.0)]
    assert scores == sorted(scores)
    assert min(np.diff(scores)) > 0.01
    assert label_robust_score(0.3, 0.1, 1.0) == label_robust_score(0.9, 0.1, 1.0)
    assert label_robust_score(0.3, 0.1, 0.0) == label_robust_score(0.3, 0.9, 0.0)


def test_percentages_in_the_exponential_saturate():
    """Sets that miss 20, 30 and 60 points and gain 2: told apart as fractions, one and the same as percentages."""
    sets = [(0.2, 0.02), (0.3, 0.02), (0.6, 0.02)]
    fractions = [label_robust_score(recovery, improvement, 0.5) for recovery, improvement in sets]
    percents = [as_published(0.5 * 100 * improvement - 0.5 * 100 * recovery) for recovery, improvement in sets]
    assert min(-np.diff(fractions)) > 0.01
    floor = -math.exp(-1) / (math.exp(1) - math.exp(-1))
    assert percents == pytest.approx([floor] * 3, abs=1e-4)
    assert floor == pytest.approx(-0.1565, abs=1e-4)  # and so below the range that the score is said to have
    assert as_published(0.5 * 100 * 0.1) > 60  # ten points gained at full recovery


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hard_label_recovery(91.2, 0.7), r"full: expected a fraction in \[0, 1\], got 91.2; divide perc"),
        (lambda: hard_label_recovery(0.9, 70), "distilled: expected a fraction"),
        (lambda: improvement_over_random(-0.1, 0.7), "distilled: expected a fraction"),
        (lambda: improvement_over_random(0.1, float("nan")), "random: expected a fraction"),
        (lambda: label_robust_score(20.0, 0.1, 0.5), r"recovery: expected a fraction in \[-1, 1\]"),
        (lambda: label_robust_score(0.2, 2.0, 0.5), "improvement: expected a fraction"),
        (lambda: label_robust_score(0.2, 0.1, 1.5), r"weight: expected a fraction in \[0, 1\], got 1.5"),
    ],
)
def test_anything_but_fractions_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# In tables


def measured(method, seed, last, column="ten"):
    return SetResult(method=method, column=column, seed=seed, key="", students=judgements(last), seconds={},
                     measures={"diversity": 2.0})  # fmt: skip


def table(*sets, labels="hard"):
    column = Column(key="ten", dataset="digits", ipc=10, student="ConvNet-3", label_protocol="small", labels=labels)
    return TableResult(name="t", title="", question="", columns=(column,), methods=("random", "mode"),
                       class_names=("0",), seeds=(0, 1), student_seeds=(0, 1), baseline="random", split="test",
                       number_family="none", sets=sets)  # fmt: skip


def test_sets_are_compared_with_the_random_set_of_their_seed():
    sets = [measured("random", 0, (0.4, 0.6)), measured("random", 1, (0.6, 0.6)),
            measured("mode", 0, (0.7, 0.8)), measured("mode", 1, (0.5, 0.6))]  # fmt: skip
    scored = with_scores(table(*sets), random="random", full={"ten": 0.95}, weight=0.5)
    found = [(one.measures["hlr"], one.measures["ior"]) for one in scored.sets]
    assert found == [pytest.approx(each) for each in [(0.45, 0), (0.35, 0), (0.2, 0.25), (0.4, -0.05)]]
    assert scored.sets[2].measures["lrs"] == pytest.approx(label_robust_score(0.2, 0.25, 0.5))
    assert scored.sets[2].measures["diversity"] == 2.0
    assert scored.sets[2].students == judgements((0.7, 0.8))
    assert list(map(without_scores, scored.sets)) == sets


def test_scores_that_are_not_defined_are_missing():
    alone = with_scores(table(measured("mode", 0, (0.7, 0.8))), random="random", full={"ten": 0.9}, weight=0.5)
    assert set(alone.sets[0].measures) == {"diversity", "hlr"}
    sets = [measured("random", 0, (0.6, 0.6)), measured("mode", 0, (0.7, 0.8))]
    without = with_scores(table(*sets), random="random", full={}, weight=0.5)
    assert set(without.sets[1].measures) == {"diversity", "ior"}
    soft = with_scores(table(*sets, labels="soft"), random="random", full={"ten": 0.9}, weight=0.5)
    assert set(soft.sets[1].measures) == {"diversity", "ior"}


def test_unknown_methods_and_columns_are_named():
    with pytest.raises(UserError, match="scores: no method 'herding' in t"):
        with_scores(table(), random="herding", full={}, weight=0.5)
    with pytest.raises(UserError, match="scores: no columns fifty in t"):
        with_scores(table(), random="random", full={"fifty": 0.9}, weight=0.5)
