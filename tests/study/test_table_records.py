"""``manifoldgd table record=true``: records are written, grown, and never shortened unasked."""

from pathlib import Path

import pytest
from fake_cells import WRONG
from toy_table import HOME, TOY, change, ran, table

from manifoldgd.cli import study
from manifoldgd.study import rendering
from manifoldgd.study.rendering import write_table
from manifoldgd.study.results import TableResult

pytestmark = pytest.mark.usefixtures("toy_table")


def test_a_record_is_written_and_grown(capsys, fakes):
    fakes(seeds=(0, 1))
    assert table("methods=mode,random", "seeds=0", "record=true") == 0
    assert "recorded: experiments/toy/results.json" in capsys.readouterr().out
    assert len(TableResult.load(HOME / "results.json").sets) == 4
    assert (HOME / "table.md").is_file()
    ran()
    elsewhere = Path("outputs/elsewhere")  # another machine: the record is all there is
    assert table(f"output={elsewhere}", "seeds=1", "extend=true", "record=true") == 0
    assert sorted(ran(elsewhere)) == sorted(f"{c}/{m}-seed1" for c in ("one", "two") for m in TOY["methods"])
    held = TableResult.load(HOME / "results.json")
    assert (len(held.sets), held.seeds, held.methods) == (10, (0, 1), ("random", "unguided", "mode"))
    assert table("output=outputs/third", "extend=true") == 0
    assert sorted(ran(Path("outputs/third"))) == ["one/unguided-seed0", "two/unguided-seed0"]


def test_a_record_counts_only_where_the_configuration_is_the_same(fakes):
    assert table("columns=one", "seeds=0", "record=true") == 0
    ran()
    change(methods=TOY["methods"] | {"mode": {"guidance": "mode", "guidance.scale": 0.7}})
    assert table("columns=one", "seeds=0", "extend=true", "output=outputs/new") == 0
    assert ran(Path("outputs/new")) == ["one/mode-seed0"]
    held = TableResult.load(Path("outputs/new/results.json"))
    assert (len(held.sets), held.parameters) == (3, {"mode": 0.7})


def test_a_record_is_not_shortened(capsys, fakes):
    assert table("columns=one", "record=true") == 0
    capsys.readouterr()
    assert table("columns=one", "seeds=0", "record=true") == 2
    assert "record: experiments/toy/results.json holds 3 sets" in capsys.readouterr().err
    fakes({"mode": WRONG})
    assert table("columns=two", "record=true", "extend=true") == 1  # what failed is not recorded
    assert {one.column for one in TableResult.load(HOME / "results.json").sets} == {"one"}


def test_a_record_may_hold_rows_with_fewer_students(fakes):
    assert table("columns=one", "seeds=0", "record=true") == 0
    ran()
    change(student_seeds=[0, 1])
    fakes(seeds=(0, 1))
    asked = ("columns=one", "seeds=0", "methods=mode", "extend=true", "record=true", "output=outputs/second")
    assert table(*asked) == 0
    assert sorted(ran(Path("outputs/second"))) == ["one/mode-seed0"]
    held = TableResult.load(HOME / "results.json")
    assert {each.method: each.student_seeds for each in held.sets} == {"random": (0,), "unguided": (0,), "mode": (0, 1)}
    text = (HOME / "table.md").read_text()
    assert "**Unfinished: fewer students than asked for in 2 of 3 sets.**" in text
    assert text.count("(1 of 2 students)") >= 2


def test_what_was_recorded_meanwhile_is_kept(monkeypatch, fakes):
    assert table("columns=one", "seeds=0", "record=true") == 0
    run_left = study.run_left
    common = ("columns=two", "seeds=0", "record=true", "extend=true")

    def meanwhile(board, runner):
        monkeypatch.setattr(study, "run_left", run_left)
        assert table("methods=mode", "output=outputs/other", *common) == 0
        return run_left(board, runner)

    monkeypatch.setattr(study, "run_left", meanwhile)
    assert table("methods=random", "output=outputs/third", *common) == 0
    held = TableResult.load(HOME / "results.json")
    assert {each.method for each in held.sets if each.column == "two"} == {"random", "mode"}


def test_a_record_holds_columns_with_students_of_their_own(fakes):
    one, two = TOY["columns"]
    fakes(seeds=(0, 1))
    change(student_seeds=[0, 1], columns=[one, {**two, "student_seeds": [0]}])
    assert table("columns=one", "seeds=0", "record=true") == 0
    assert table("columns=two", "seeds=0", "record=true", "extend=true", "output=outputs/second") == 0
    held = TableResult.load(HOME / "results.json")
    assert held.students == {"one": (0, 1), "two": (0,)}
    assert {(each.column, each.student_seeds) for each in held.sets} == {("one", (0, 1)), ("two", (0,))}
    assert "Student seeds: 0, 1 (one); 0 (two)." in (HOME / "table.md").read_text()
    ran(Path("outputs/second"))
    asked = ("columns=two", "seeds=0", "student_seeds=0,1", "extend=true", "output=outputs/third")
    assert table(*asked) == 0  # asked for, other students than the column's own
    assert len(ran(Path("outputs/third"))) == 3


def test_the_page_of_a_record_is_made_of_its_numbers(capsys, fakes, monkeypatch):
    monkeypatch.setattr(rendering, "write_table", write_table)
    assert table("pages=true") == 2
    assert "pages: nothing is recorded" in capsys.readouterr().err
    assert table("columns=one", "seeds=0", "record=true") == 0
    ran()
    measured = Path("outputs/tables/toy/table.md").read_text()
    assert table("--pages") == 0
    assert ran() == []
    folder = Path("outputs/tables/toy-recorded")
    assert (folder / "table.md").read_text() == (HOME / "table.md").read_text() == measured
    assert (folder / "report.html").is_file()
    assert list((folder / "figures").glob("*.png"))
    assert table("--pages", "output=outputs/tables/toy") == 2
    assert "holds a table that was measured there" in capsys.readouterr().err
