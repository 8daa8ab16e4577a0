"""Classes are matched to the prior's labels exactly or not at all."""

import pytest
from tiny import IMAGENET_LIKE

from manifoldgd.distill.classes import prior_labels
from manifoldgd.distill.items import WorkItem, work_items
from manifoldgd.errors import UserError
from manifoldgd.randomness import RowKey


def match(names, given=None, classes=IMAGENET_LIKE):
    return prior_labels(names, given, "dit", classes)


def test_full_names_synonyms_case_and_underscores():
    assert match(["tench, Tinca tinca", "TENCH"][:1]) == [0]
    names = ["gas_pump", "Goldfish", "white shark", "chainsaw", "english_springer_spaniel", "dustcart"]
    assert match(names) == [11, 1, 2, 7, 5, 10]


def test_the_dataset_s_order_decides():
    assert match(["church", "tench"]) == [8, 0]
    assert match(["tench", "church"]) == [0, 8]


def test_names_with_commas_inside_other_names_do_not_match_by_part():
    with pytest.raises(UserError, match="'shark'"):
        match(["shark"])
    with pytest.raises(UserError, match="'tench, tinca'"):
        match(["tench, tinca"])


def test_an_ambiguous_name_is_refused_and_can_be_mapped():
    with pytest.raises(UserError, match=r"prior_labels: 1 of 2 classes .*'crane'.* set it to a mapping"):
        match(["tench", "crane"])
    assert match(["tench", "crane"], {"tench": 0, "crane": 4}) == [0, 4]


def test_many_unmatched_names_stay_on_one_short_line():
    with pytest.raises(UserError) as caught:
        match([f"n{i:08}" for i in range(500)])
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)
    assert "500 of 500" in str(caught.value)


def test_given_labels_win_over_names_and_may_name_unused_classes():
    assert match(["tench", "church"], {"church": 3, "tench": 9, "unused": 99}) == [9, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": 0}, "no label for 'b'"),
        ({"a": 0, "b": 12}, r"'b' is mapped to 12, prior dit has labels 0 \.\.\. 11"),
        ({"a": -1, "b": 1}, "'a' is mapped to -1"),
        ({"a": 5, "b": 5}, r"several classes are mapped to label \[5\]"),
    ],
)
def test_wrong_mappings(given, message):
    with pytest.raises(UserError, match=r"prior_labels: .*" + message):
        match(["a", "b"], given)


def test_synonyms_of_one_label_are_shared():
    with pytest.raises(UserError, match=r"label \[8\]"):
        match(["church", "church building"])


def test_work_items():
    assert work_items(["x", "y"], [7, 3], 2) == [
        WorkItem(0, "x", 0, 7),
        WorkItem(0, "x", 1, 7),
        WorkItem(1, "y", 0, 3),
        WorkItem(1, "y", 1, 3),
    ]
    assert work_items(["x"], [7], 2)[1].row_key == RowKey("x", 1, 0)
