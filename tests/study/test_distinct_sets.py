"""Seeds that lead to the same images are one set: no interval from copies, and differences still pair seeds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_tables import set_result, table

from manifoldgd.artifacts import DistilledSet
from manifoldgd.estimates import Estimate
from manifoldgd.report.text import markdown
from manifoldgd.study.page import accuracy_table, explanations, study_page
from manifoldgd.study.results import TableResult
from manifoldgd.study.statistics import Summary, computing_seconds, distinct_seeds, frame_of

RECORD = Path(__file__).parents[2] / "experiments" / "fashion_mnist" / "results.json"


def copies(method, last=(0.8, 0.82), seeds=(0, 1, 2), **changes):
    return [set_result(method, seed, last, **{"fingerprint": method, **changes}) for seed in seeds]


def drawn(method, start=0.7, seeds=(0, 1, 2)):
    return [
        set_result(method, seed, (start + 0.02 * seed, start + 0.01 + 0.02 * seed), fingerprint=f"{method}{seed}")
        for seed in seeds
    ]


def main_table(summary):
    return accuracy_table(summary, summary.result.columns, Path())


def cell_of(sets, method="mode", **changes):
    return Summary(table(sets, **changes)).cells.loc[(method, "ipc10-convnet3")]


def test_a_fingerprint_is_that_of_images_and_labels():
    images = torch.randint(0, 256, (4, 1, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels, ranks = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])

    def made(images=images, labels=labels, folder=None):
        return DistilledSet(images, labels, ranks, ("a", "b"), folder=folder).fingerprint

    changed = images.clone()
    changed[3, 0, 2, 2] ^= 1
    others = [made(changed), made(labels=torch.tensor([0, 0, 0, 1])), made(images.reshape(4, 1, 9, 1))]
    assert made() == made(images.clone(), folder=Path("elsewhere"))
    assert len({made(), *others}) == 4


def test_copies_have_no_interval_and_keep_the_spread_within():
    cell = cell_of([*drawn("unguided"), *copies("mode")])
    assert cell["last_top1"] == Estimate(pytest.approx(0.81), None, 1)
    assert cell["last_top1_between_sets"] is None
    assert cell["last_top1_within_set"] == pytest.approx(0.02 / 2**0.5)
    assert (cell["shape"], cell["students"], cell["sets"]) == ("1 × 2", 2, 3)
    whole = cell_of([*drawn("unguided"), *copies("mode")], "unguided")
    assert (whole["shape"], whole["last_top1"].count) == ("3 × 2", 3)


def test_some_copies_among_others_count_once():
    sets = [*copies("mode", (0.9,), seeds=(0, 2)), *copies("mode", (0.7,), seeds=(1,), fingerprint="other")]
    cell = cell_of(sets)
    assert cell["last_top1"].mean == pytest.approx(0.8)
    assert cell["last_top1"].count == 2
    assert "(2 different sets, 2 of 4 students)" in main_table(Summary(table(sets))).texts()[1][1]


def test_the_page_says_one_set_and_why():
    summary = Summary(table([*drawn("unguided"), *copies("mode")]))
    assert main_table(summary).texts()[1][1].endswith("(one set)")
    said = "Seeds that gave the same images count as one set (mode); differences pair all seeds."
    assert said in explanations(summary)
    assert said in markdown(study_page(summary, Path()))
    assert not any("same images" in line for line in explanations(Summary(table(drawn("mode")))))
    shape = [each.key for each in main_table(summary).columns].index("ipc10-convnet3 shape")
    assert [row[shape] for row in main_table(summary).rows] == ["3 × 2", "1 × 2"]


def test_differences_pair_all_seeds():
    """Against sets that differ, a method of one set has an interval; against another single set it has none."""
    base = drawn("unguided")
    cell = cell_of([*base, *copies("mode")])
    assert cell["difference"].count == 3
    assert cell["difference"].half > 0
    alone = cell_of([*copies("unguided", (0.7, 0.71)), *copies("mode")])
    assert alone["difference"] == Estimate(pytest.approx(0.105), None, 1)
    assert (alone["difference_pairs"], alone["verdict"]) == (1, None)
    assert Summary(table([*copies("unguided"), *copies("mode")])).comparisons == 0


def test_only_seeds_that_both_have_decide_whether_sets_differ():
    cell = cell_of([*copies("unguided", seeds=(0, 1)), *drawn("unguided", seeds=(2,)), *copies("mode", seeds=(0, 1))])
    assert cell["difference"].half is None


def distinct(*sets):
    return distinct_seeds(frame_of(table(sets)))


def test_without_fingerprints_equal_keys_are_equal_sets():
    old = [set_result("mode", seed, key=key) for seed, key in enumerate("aab")]
    assert distinct(*old) == [0, 2]
    new = replace(old[1], fingerprint="f")
    assert distinct(old[0], new) == [0]
    assert distinct(new, replace(old[2], fingerprint="f")) == [1]
    assert distinct(new, replace(new, seed=2, fingerprint="g")) == [1, 2]


def test_of_equal_sets_the_one_with_the_most_students_counts():
    sets = [set_result("mode", 0, (0.5,), key="k"), set_result("mode", 1, (0.5, 0.6, 0.7), key="k")]
    assert distinct(*sets) == [1]


def test_computing_time_counts_a_run_once():
    sets = [*copies("mode", key="k"), *drawn("unguided")]
    assert computing_seconds(Summary(table(sets)).sets).to_dict() == {"distill": 40.0, "students": 80.0}


def test_records_from_before_fingerprints_say_what_they_said():
    held = TableResult.load(RECORD)
    before = replace(held, sets=tuple(replace(one, fingerprint="") for one in held.sets))  # keys tell sets apart then
    cells = Summary(before).cells["last_top1"]
    assert cells["random", "ipc1-convnet3"].count == 5
    assert cells["herding", "ipc1-convnet3"].count == 1
