"""Published numbers keep their family, their labels and their source."""

from pathlib import Path

import pytest
from fake_tables import column
from omegaconf import OmegaConf

from manifoldgd.errors import UserError
from manifoldgd.study.published import find_published, not_run, published_results, read_published

HEADER = "dataset,number_family,labels,student,ipc,method,kind,top1_percent,std,source\n"
ROWS = (
    "woof,minimax,hard,ResNet-18,10,DiT,training-free,34.7,0.4,A\n"
    "woof,igd,hard,ResNet-18,10,DiT,training-free,38.6,,B\n"
    "woof,igd,hard,ResNet-18,10,IGD,training-free,40.5,0.1,B\n"
    "woof,minimax,hard,ResNet-18,10,Full,full data,89.3,1.2,A\n"
    "woof,minimax,hard,ResNet-18,10,Minimax,training-based,37.6,0.2,A\n"
    "woof,minimax,soft,ResNet-18,10,DiT,training-free,50.0,0.2,C\n"
)


def place(**changes):
    return column(**{"dataset": "woof", "student": "ResNet-18"} | changes)


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "published.csv"
    file.write_text(HEADER + ROWS)
    return read_published(file)


def found(rows, method, family, **changes):
    return [
        (row.number_family, row.top1)
        for row in find_published(rows, place(**changes), method=method, number_family=family)
    ]


def test_the_tables_own_family_comes_alone(rows):
    assert found(rows, "DiT", "minimax") == [("minimax", pytest.approx(0.347))]
    assert found(rows, "DiT", "igd") == [("igd", pytest.approx(0.386))]


def test_other_families_come_only_where_the_own_has_none(rows):
    assert [family for family, _ in found(rows, "IGD", "minimax")] == ["igd"]
    assert [family for family, _ in found(rows, "DiT", "dc")] == ["minimax", "igd"]


@pytest.mark.parametrize("change", [{"dataset": "nette"}, {"student": "ConvNet-6"}, {"ipc": 50}])
def test_another_place_has_no_number(rows, change):
    assert found(rows, "DiT", "minimax", **change) == []


def test_labels_are_never_crossed(rows):
    assert found(rows, "DiT", "minimax", labels="soft") == [("minimax", pytest.approx(0.5))]
    assert found(rows, "IGD", "igd", labels="soft") == []


def test_what_was_not_run_is_of_the_own_family_and_best_first(rows):
    names = [row.method for row in not_run(rows, place(), number_family="minimax", run=["DiT"])]
    assert names == ["Full", "Minimax"]


def test_deviation_may_be_missing_but_nothing_else(rows, tmp_path):
    assert [row.std for row in rows[:2]] == [pytest.approx(0.004), None]
    file = tmp_path / "bad.csv"
    for row, message in (
        ("woof,minimax,hard,ResNet-18,10,DiT,training-free,34.7,0.4,\n", "line 2: source missing"),
        ("woof,minimax,hard,ResNet-18,10,DiT,training-free,many,0.4,A\n", "line 2: could not convert"),
        ("woof,minimax,hard,ResNet-18,ten,DiT,training-free,1,0.4,A\n", "line 2: invalid literal"),
    ):
        file.write_text(HEADER + row)
        with pytest.raises(UserError, match=message):
            read_published(file)


def test_the_packaged_file_is_whole():
    rows = published_results()
    assert len(rows) == 474
    keys = [(r.dataset, r.number_family, r.labels, r.student, r.ipc, r.method) for r in rows]
    assert len(set(keys)) == len(keys)
    assert all(0 < row.top1 < 1 and (row.std is None or 0 < row.std < 0.1) for row in rows)
    dsa = find_published(rows, column(), method="DSA", number_family="dc")
    assert [(row.top1, row.std, row.kind) for row in dsa] == [
        (pytest.approx(0.846), pytest.approx(0.003), "training-based")
    ]


@pytest.mark.parametrize(
    ("name", "student"), [("imagenette", "ResNetAP-10"), ("imagewoof", "ResNet-18"), ("imagenet100", "ResNetAP-10")]
)
def test_numbers_of_imagenets_own_split_are_found_and_those_of_fastais_are_not(name, student):
    """Datasets are asked for by the name that their configuration gives to results."""
    conf = Path(__file__).parents[2] / "conf" / "dataset"

    def shown(file):
        where = column(dataset=OmegaConf.load(file).name, student=student)
        own = find_published(published_results(), where, method="Random", number_family="minimax")
        return own, not_run(published_results(), where, number_family="minimax", run=[])

    own, others = shown(conf / f"{name}.yaml")
    assert [row.number_family for row in own] == ["minimax"]
    assert others
    for file in conf.glob(f"{name}_*.yaml"):
        assert shown(file) == ((), ())
