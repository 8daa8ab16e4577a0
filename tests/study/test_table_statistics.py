"""Intervals cover what they promise, sets are the unit, and verdicts need an interval beside zero."""

import math

import numpy as np
import pytest
from scipy import stats

from manifoldgd.estimates import Estimate, estimate
from manifoldgd.study.statistics import cell_statistics, paired_difference

SETS = [[0.70, 0.72, 0.71], [0.74, 0.76, 0.72], [0.69, 0.73, 0.74]]


def random_accuracies(source, seeds, student_seeds, between, within, mean=0.75):
    """``{(seed, student seed): accuracy}`` with the luck of each set shared by its students."""
    luck = source.normal(0, between, len(seeds))
    return {
        (seed, student): mean + luck[position] + source.normal(0, within)
        for position, seed in enumerate(seeds)
        for student in student_seeds
    }


def test_cell_against_numpy_and_scipy():
    cell, table = cell_statistics(SETS), np.array(SETS)
    means = table.mean(axis=1)
    assert cell["last_top1"].mean == pytest.approx(table.mean())
    assert cell["last_top1_between_sets"] == pytest.approx(means.std(ddof=1))
    assert cell["last_top1_within_set"] == pytest.approx(math.sqrt(table.var(axis=1, ddof=1).mean()))
    low, high = stats.t.interval(0.95, len(means) - 1, loc=means.mean(), scale=stats.sem(means))
    assert (cell["last_top1"].low, cell["last_top1"].high) == pytest.approx((low, high))
    assert (cell["last_top1"].count, cell["students"]) == (3, 9)


def test_one_way_analysis_of_variance_agrees():
    """F = m between^2 / within^2: both deviations against SciPy's own decomposition."""
    cell = cell_statistics(SETS)
    between, within = cell["last_top1_between_sets"], cell["last_top1_within_set"]
    assert 3 * between**2 / within**2 == pytest.approx(stats.f_oneway(*SETS).statistic)


def test_one_set_has_no_interval_and_no_deviation_between_sets():
    cell = cell_statistics([[0.7, 0.8]])
    assert cell["last_top1"] == Estimate(0.75, None, 1)
    assert (cell["last_top1_between_sets"], cell["last_top1"].low, cell["last_top1"].verdict) == (None, None, None)
    assert cell["last_top1_within_set"] == pytest.approx(0.1 / math.sqrt(2))
    assert cell_statistics([[0.7]])["last_top1_within_set"] is None
    assert cell_statistics([])["last_top1"] is None


def test_unequal_numbers_of_students_weigh_sets_alike_and_pool_deviations_by_freedom():
    cell = cell_statistics([[0.70], [0.72, 0.76], [0.80, 0.82, 0.84, 0.86]])
    assert cell["last_top1"].mean == pytest.approx((0.70 + 0.74 + 0.83) / 3)
    squares = 2 * 0.02**2 + 2 * (0.03**2 + 0.01**2)
    assert cell["last_top1_within_set"] == pytest.approx(math.sqrt(squares / 4))
    assert cell["students"] == 7


@pytest.mark.parametrize("sets", [[[]], [[0.7], []]])
def test_sets_without_students_are_refused(sets):
    with pytest.raises(ValueError, match="expected at least one"):
        cell_statistics(sets)


def test_statistics_move_with_the_data():
    """Shift by a constant, scale by a factor, any order of sets and students."""
    cell = cell_statistics(SETS)
    moved = cell_statistics([[3 * a + 0.1 for a in reversed(students)] for students in reversed(SETS)])
    assert moved["last_top1"].mean == pytest.approx(3 * cell["last_top1"].mean + 0.1)
    for name in ("last_top1_between_sets", "last_top1_within_set"):
        assert moved[name] == pytest.approx(3 * cell[name])
    assert moved["last_top1"].half == pytest.approx(3 * cell["last_top1"].half)


def test_paired_difference_is_the_paired_t_test_over_seeds():
    source = np.random.default_rng(0)
    seeds, students = range(6), range(3)
    baseline = random_accuracies(source, seeds, students, 0.02, 0.005)
    method = {key: value + 0.01 + source.normal(0, 0.004) for key, value in baseline.items()}
    found = paired_difference(method, baseline)
    means = [np.array([[held[s, i] for i in students] for s in seeds]).mean(axis=1) for held in (method, baseline)]
    twin = stats.ttest_rel(*means)
    interval = twin.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx((means[0] - means[1]).mean())
    assert found.verdict == "better"
    assert twin.pvalue < 0.05


def test_pairing_sees_what_unpaired_intervals_cannot():
    """Seeds that move both methods together cancel."""
    baseline = {(seed, 0): 0.70 + 0.05 * seed for seed in range(4)}
    method = {key: value + 0.01 + 0.001 * (key[0] % 2) for key, value in baseline.items()}
    assert estimate(list(method.values())).half > 0.05
    assert paired_difference(method, baseline).verdict == "better"
    assert paired_difference(baseline, method).verdict == "worse"


def test_difference_turns_its_sign_with_its_arguments():
    source = np.random.default_rng(1)
    one, other = (random_accuracies(source, range(4), range(2), 0.01, 0.01) for _ in range(2))
    there, back = paired_difference(one, other), paired_difference(other, one)
    assert there.mean == pytest.approx(-back.mean)
    assert there.half == pytest.approx(back.half)


def test_only_common_seeds_count():
    baseline = {(0, 0): 0.70, (0, 1): 0.71, (1, 0): 0.72, (5, 0): 0.99}
    method = {(0, 0): 0.75, (0, 1): 0.72, (0, 7): 0.10, (1, 0): 0.73, (6, 0): 0.01}
    found = paired_difference(method, baseline)
    assert found.count == 2
    assert found.mean == pytest.approx(((0.05 + 0.01) / 2 + 0.01) / 2)
    assert paired_difference({(0, 3): 0.9}, baseline) is None


def test_no_verdict_from_fewer_than_two_seeds_however_large_the_difference():
    many_students = paired_difference({(0, i): 0.9 for i in range(9)}, {(0, i): 0.1 for i in range(9)})
    assert (many_students.count, many_students.half, many_students.verdict) == (1, None, None)


def test_equal_methods_are_never_separated():
    held = random_accuracies(np.random.default_rng(2), range(5), range(3), 0.01, 0.01)
    same = paired_difference(held, held)
    assert (same.mean, same.half, same.verdict) == (0.0, 0.0, None)


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [(0.1, 0.09, "better"), (-0.1, 0.09, "worse"), (0.1, 0.1, None), (-0.1, 0.1, None), (0.1, 0.2, None)],
)
def test_verdict_needs_the_whole_interval_on_one_side(mean, half, verdict):
    assert Estimate(mean, half, 3).verdict == verdict


@pytest.mark.parametrize(("sets", "students"), [(2, 1), (3, 3), (5, 3)])
def test_intervals_cover_the_truth_in_95_of_100_tables(sets, students):
    source, tables, truth = np.random.default_rng(3), 2000, 0.75
    covered = apart = 0
    for _ in range(tables):
        held = random_accuracies(source, range(sets), range(students), 0.01, 0.008, truth)
        interval = cell_statistics([[held[s, i] for i in range(students)] for s in range(sets)])["last_top1"]
        covered += interval.low <= truth <= interval.high
        twin = {key: value + source.normal(0, 0.01) for key, value in held.items()}
        apart += paired_difference(twin, held).verdict is not None
    # Three standard deviations of a proportion of 2000 at 0.95 are 0.0146.
    assert covered / tables == pytest.approx(0.95, abs=0.0146)
    assert apart / tables == pytest.approx(0.05, abs=0.0146)


def test_counting_students_as_independent_would_not_cover():
    """Why the sets are the unit: the interval over all students misses the truth far too often."""
    source, tables, missed = np.random.default_rng(4), 500, 0
    for _ in range(tables):
        held = random_accuracies(source, range(5), range(3), 0.01, 0.004)
        naive = estimate(list(held.values()))
        missed += not naive.low <= 0.75 <= naive.high
    assert missed / tables > 0.12


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_leaves_no_interval(lost):
    found = estimate([0.7, lost, 0.8])
    assert not math.isfinite(found.mean)
    assert (found.half, found.verdict, found.count) == (None, None, 3)
    assert not math.isfinite(estimate([lost, -lost]).mean)
