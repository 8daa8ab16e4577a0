"""``table.yaml``: what is read, and the one line for each thing that can be wrong with it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from manifoldgd.errors import UserError
from manifoldgd.study.definition import (
    check_labels,
    find_table,
    known_tables,
    merged,
    override,
    read_definition,
    table_name,
)

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHIPPED = sorted(EXPERIMENTS.glob("*/table.yaml"))
GOOD = {
    "title": "T",
    "question": "Q?",
    "number_family": "dc",
    "seeds": [0, 1],
    "student_seeds": [0],
    "baseline": "plain",
    "methods": {"plain": {"guidance": "none"}, "mode": {"guidance": "mode", "guidance.scale": 0.2}, "as-is": None},
    "columns": [
        {"key": "one", "dataset": "digits", "ipc": 1, "student": "convnet3"},
        {"key": "ten", "dataset": "digits", "ipc": 10, "student": "convnet3", "overrides": {"sampler.steps": 5}},
    ],
    "overrides": {"logger": "none"},
    "published_as": {"mode": "MGD3"},
    "notes": ["n"],
}


def write(folder, **changes):
    held = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    (folder / "table.yaml").write_text(yaml.safe_dump(held, sort_keys=False))
    return folder / "table.yaml"


def test_a_table_as_it_is_read(tmp_path):
    table = read_definition(write(tmp_path))
    assert list(table.methods) == ["plain", "mode", "as-is"]
    assert table.methods["as-is"] == {}
    assert [column.key for column in table.columns] == ["one", "ten"]
    assert dict(table.columns[1].choices) == {"dataset": "digits", "ipc": 10, "student": "convnet3", "sampler.steps": 5}
    assert (table.seeds, table.student_seeds, table.split, table.notes) == ((0, 1), (0,), "test", ("n",))


def test_a_column_may_have_student_seeds_of_its_own(tmp_path):
    one, ten = GOOD["columns"]
    table = read_definition(write(tmp_path, student_seeds=[0, 1, 2], columns=[one, {**ten, "student_seeds": [4]}]))
    assert table.students == {"one": (0, 1, 2), "ten": (4,)}
    asked = table.chosen(student_seeds=[7])
    assert asked.students == {"one": (7,), "ten": (7,)}
    for wrong, line in (
        (3, "expected a list, .* got 3"),
        ([], "expected different whole numbers .* got \\[\\]"),
        ([1, 1], "expected different whole numbers .* got \\[1, 1\\]"),
    ):
        file = write(tmp_path, columns=[one, {**ten, "student_seeds": wrong}])
        with pytest.raises(UserError, match=f"columns: ten: student_seeds: {line}"):
            read_definition(file)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.parent.name)
def test_the_tables_of_the_repository(file):
    table = read_definition(file)
    assert (file.parent / "README.md").is_file()
    assert table.student_seeds
    if any(column.dataset in ("digits", "fashion_mnist") for column in table.columns):
        assert table.overrides["student.protocol.evaluations"] == 1  # the test split is read once


def test_there_are_tables():
    assert {"digits", "fashion_mnist", "fashion_mnist_students", "ablation"} <= {file.parent.name for file in SHIPPED}
    assert {"imagenette", "imagewoof", "imagenet100"} <= {file.parent.name for file in SHIPPED}


WRONG = [
    ({"title": ...}, ("title: expected a value, got none",)),
    ({"titel": "x"}, ("unknown key 'titel'", "did you mean 'title'")),
    ({"seeds": ...}, ("seeds: expected a value, got none",)),
    ({"seeds": []}, ("seeds: expected different whole numbers", "got []", "set seeds: [0, 1]")),
    ({"seeds": [0, 0]}, ("seeds:", "got [0, 0]")),
    ({"seeds": 3}, ("seeds: expected a list", "got 3")),
    ({"seeds": [0.5]}, ("seeds:", "got [0.5]")),
    ({"student_seeds": []}, ("student_seeds: expected different whole numbers",)),
    ({"student_seeds": [-1]}, ("student_seeds:", "got [-1]")),
    ({"baseline": "plane"}, ("baseline: no 'plane' in this table, which has plain, mode", "did you mean 'plain'")),
    ({"published_as": {"moed": "X"}}, ("published_as: no 'moed'", "did you mean 'mode'")),
    ({"split": "train"}, ("split: expected one of test, validation, got 'train'",)),
    ({"methods": {}}, ("methods: expected at least one",)),
    ({"methods": ["mode"]}, ("methods: expected a mapping",)),
    ({"methods": {"plain": "none"}}, ("methods.plain: expected a mapping", "got 'none'")),
    ({"methods": {"a b": {}}, "baseline": "a b"}, ("methods: expected a name of letters", "got 'a b'")),
    ({"methods": {"plain": {"ipc": 5}}, "published_as": {}}, ("methods: plain: ipc is set by the columns",)),
    ({"methods": {"plain": {"seed": 5}}, "published_as": {}}, ("methods: plain: seed is set by seeds",)),
    ({"overrides": {"output": "x"}}, ("overrides: output is set by",)),
    (
        {"methods": {"plain": {"machine.precision": "bf16-mixed"}}, "published_as": {}},
        ("methods: plain: machine.precision is the same for all cells", "move it"),
    ),
    (
        {"columns": [GOOD["columns"][0] | {"overrides": {"machine": "gpu"}}]},
        ("columns: one: overrides: machine is the same for all cells",),
    ),
    ({"columns": []}, ("columns: expected at least one",)),
    ({"columns": GOOD["columns"] + GOOD["columns"][:1]}, ("columns: one stands there twice",)),
    ({"columns": [{"key": "one", "dataset": "digits", "ipc": 1}]}, ("columns: one: student: expected a value",)),
    ({"columns": [GOOD["columns"][0] | {"ipc": 0}]}, ("columns: one: ipc: expected a whole number", "got 0")),
    ({"columns": [GOOD["columns"][0] | {"icp": 1}]}, ("columns: one: unknown key 'icp'", "did you mean 'ipc'")),
    ({"columns": [GOOD["columns"][0] | {"overrides": ["machine"]}]}, ("columns: one: overrides: expected a mapping",)),
    ({"columns": [GOOD["columns"][0] | {"key": "../x"}]}, ("key: expected a name of letters", "got '../x'")),
]


@pytest.mark.parametrize(("changes", "parts"), WRONG, ids=lambda each: str(each)[:40])
def test_what_is_wrong_is_said_in_one_line(tmp_path, changes, parts):
    with pytest.raises(UserError) as error:
        read_definition(write(tmp_path, **changes))
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(str(tmp_path / "table.yaml"))
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize("text", ["methods: {mode: {}, mode: {}}", "a: [", "- 1"])
def test_files_that_are_no_table(tmp_path, text):
    (tmp_path / "table.yaml").write_text(text)
    with pytest.raises(UserError, match=r"table\.yaml"):
        read_definition(tmp_path / "table.yaml")


def test_the_part_that_was_asked_for(tmp_path):
    table = read_definition(write(tmp_path))
    assert table.chosen() == table
    part = table.chosen(methods=["mode"], columns=["ten"], seeds=[4], student_seeds=[1, 2])
    assert (list(part.methods), [each.key for each in part.columns]) == (["mode"], ["ten"])
    assert (part.seeds, part.student_seeds) == ((4,), (1, 2))
    for wrong, message in (
        ({"methods": ["mood"]}, r"methods: no 'mood' in this table, which has plain, mode, as-is; did you mean 'mode'"),
        ({"columns": ["two"]}, r"columns: no 'two' in this table, which has one, ten"),
        ({"methods": []}, r"methods: expected at least one"),
        ({"seeds": []}, r"^seeds: expected different whole numbers"),
        ({"student_seeds": [1, 1]}, r"^student_seeds: .* got \[1, 1\]"),
    ):
        with pytest.raises(UserError, match=message):
            table.chosen(**wrong)


def test_hard_and_soft_labels_never_share_a_table():
    hard, long, soft = (SimpleNamespace(name=name, labels=labels) for name, labels in
                        (("hard_small", "hard"), ("long", "hard"), ("rded", "soft")))  # fmt: skip
    check_labels({"a": hard, "b": long})
    check_labels({"a": soft})
    with pytest.raises(UserError, match=r"columns: a has hard labels \(hard_small\), b soft ones \(rded\)"):
        check_labels({"a": hard, "b": soft})


TEXTS = ["mode", "bundled:digits", "facebook/DiT-XL-2-256", "a b", "it's", "null", "1e3", "/data/x,y", "~/x", ""]
VALUES = [None, True, False, 3, -1.5, 1e-4, [0, 1], ["a b", 2], {"n01": 0, "x": [1, "b c"]}, {1: 300}]


@pytest.mark.parametrize("value", [*TEXTS, *VALUES])
def test_values_survive_the_command_line(value):
    (parsed,) = OverridesParser.create().parse_overrides([override("some.key", value)])
    assert parsed.value() == value
    assert type(parsed.value()) is type(value)
    assert not parsed.is_sweep_override()


def test_later_overrides_win_and_come_later():
    found = merged({"guidance": "mode", "x": 1}, {"guidance": "none"})
    assert list(found.items()) == [("x", 1), ("guidance", "none")]


def test_tables_are_found_by_name_folder_and_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert table_name(find_table("digits")) == "digits"  # beside the package
    (tmp_path / "experiments" / "mine").mkdir(parents=True)
    write(tmp_path / "experiments" / "mine")
    assert find_table("mine") == Path("experiments/mine/table.yaml")
    assert find_table("experiments/mine") == Path("experiments/mine/table.yaml")
    assert {"mine", "digits"} <= set(known_tables())
    other = tmp_path / "other.yaml"
    other.write_text("")
    assert table_name(find_table(str(other))) == "other"
    with pytest.raises(UserError, match=r"no table 'digts'; there are .*fashion_mnist.*; did you mean 'digits'\?"):
        find_table("digts")
    with pytest.raises(UserError, match=r"has no table\.yaml"):
        find_table(str(tmp_path))
