"""``manifoldgd table``: bad input, tables that cannot work and folders of others are one line before any work."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command import manifoldgd
from toy_table import HOME, OUTPUT, TOY, change, complaint, table

from manifoldgd.study.results import TableResult
from manifoldgd.study.run import alone_in

pytestmark = pytest.mark.usefixtures("toy_table")


WRONG_INPUT = [
    (["table=toys"], ("no table 'toys'", "toy", "did you mean 'toy'")),
    (["table=toy", "methods=mood"], ("methods: no 'mood'", "random, unguided, mode", "did you mean 'mode'")),
    (["table=toy", "columns=[one,three]"], ("columns: no 'three'", "one, two")),
    (["table=toy", "seeds=[]"], ("seeds: expected different whole numbers", "got []")),
    (["table=toy", "student_seeds=[1,1]"], ("student_seeds: expected different whole numbers", "got [1, 1]")),
    (["table=toy", "seeds=many"], ("seeds: expected", "'many'")),
    (["table=toy", "jobs=0"], ("jobs: expected a whole number in [1, 1024] or null, got 0",)),
    (["table=toy", "jobs=two"], ("jobs: expected a whole number in [1, 1024] or null, got 'two'",)),
    (["table=toy", "jbos=2"], ("unknown key 'jbos'", "did you mean 'jobs'")),
    (["table=toy", "--fast"], ("unknown option --fast", "--help")),
    (["table=toy", "+seed=1"], ("+seed=1: expected key=value",)),
    (["table=toy", "ipc=3"], ("ipc is set by the columns",)),
    (["table=toy", "guidance.scale=1,2"], ("guidance.scale=1,2: a table takes one value for every cell",)),
    (
        ["table=toy", "sampler.stesp=2"],
        ("cell one/random: unknown key 'sampler.stesp'", "did you mean 'sampler.steps'"),
    ),
    (["table=toy", "columns=two", "sampler.steps=0"], ("cell two/random: sampler.steps", "got 0")),
    (["table=toy", "sampler=dpm"], ("cell one/random: sampler: no choice named 'dpm'", "ddim, ddpm")),
    (["table=toy", "launcher=rocket"], ("launcher: no Hydra launcher 'rocket'", "basic", "manifoldgd[launchers]")),
    (["table=toy", "hydra.launcher.x=1"], ("hydra.launcher.x=1: acts with launcher=NAME only",)),
    (
        ["table=toy", "record=true", "guidance.scale=1"],
        ("record: guidance.scale on the command line makes this another",),
    ),
    (
        ["table=toy", "record=true", "machine.threads=1", "machine.student_precision=bf16-mixed"],
        ("record: machine.student_precision on the command line makes this another",),
    ),
    (["table=toy", "record=true", "machine=gpu"], ("record: machine on the command line makes this another",)),
]


@pytest.mark.parametrize(("arguments", "parts"), WRONG_INPUT, ids=lambda each: " ".join(map(str, each))[:50])
def test_bad_input_is_one_line(capsys, arguments, parts):
    text = complaint(capsys, manifoldgd("table", *arguments))
    assert [part for part in parts if part not in text] == []


WRONG_TABLES = [
    (
        {"methods": TOY["methods"] | {"big": {"guidance.neighbourhood": 5000}}},
        ("cell one/big: guidance.neighbourhood",),
    ),
    (
        {"methods": TOY["methods"] | {"wide": {"student.width": 9}}},
        ("methods: wide in column one is judged otherwise",),
    ),
    ({"split": "validation"}, ("cell one/random: split: the table says validation",)),
    ({"seeds": []}, ("experiments/toy/table.yaml: seeds: expected different",)),
]


@pytest.mark.parametrize(("changes", "parts"), WRONG_TABLES, ids=lambda each: str(each)[:50])
def test_tables_whose_cells_cannot_work(capsys, changes, parts):
    change(**changes)
    text = complaint(capsys, table())
    assert [part for part in parts if part not in text] == []


def test_help_and_the_list_of_tables(capsys):
    assert manifoldgd("table", "--help") == 0
    out = capsys.readouterr().out
    assert all(
        key in out for key in ("jobs=", "seeds=", "methods=", "columns=", "dry_run=", "record=", "extend=", "scores=")
    )
    assert manifoldgd("table") == 0
    out = capsys.readouterr().out
    assert "toy                      Toy" in out
    assert "fashion_mnist" in out


def test_two_tables_cannot_share_a_folder(capsys, fakes):
    with alone_in(OUTPUT):
        assert "is being worked on by process" in complaint(capsys, table())
    assert table("columns=one", "seeds=0") == 0
    capsys.readouterr()
    (Path("experiments") / "other").mkdir()
    (Path("experiments") / "other" / "table.yaml").write_text((HOME / "table.yaml").read_text())
    assert manifoldgd("table", "table=other", f"output={OUTPUT}", "columns=one") == 2
    assert "name is 'toy' there, 'other' here" in capsys.readouterr().err
    assert table("columns=one", "student.width=9") == 2
    assert "columns.one.student is 'ConvNet-3 (width 8)' there, 'ConvNet-3 (width 9)' here" in capsys.readouterr().err
    held = TableResult.load(OUTPUT / "results.json")
    replace(held, sets=(replace(held.sets[0], code_version="0.0.1"), *held.sets[1:])).save(OUTPUT / "results.json")
    assert table("columns=one") == 2
    assert "version is '0.0.1' there" in capsys.readouterr().err
    (OUTPUT / "results.json").write_text('{"format": 99}')
    assert table("columns=one") == 2
    assert "holds a table of format 99" in capsys.readouterr().err


def test_sets_of_other_numbers_are_not_mixed_in(capsys, fakes, tmp_path, tiny_prior, shared_cache):
    assert table("columns=one", "seeds=0", "methods=random") == 0
    made = OUTPUT / "sets" / "one" / "random-seed0"
    claim = {"format": 1, "set": {"ipc": 9}}
    (made / "result.json").write_text(json.dumps(claim))
    capsys.readouterr()
    assert table("columns=one") == 2
    assert "ipc is 9 there, 1 here" in capsys.readouterr().err


def test_scores_without_what_they_compare_with_are_refused(capsys):
    assert "scores: no row of random real images" in complaint(capsys, table("scores=true", "methods=mode"))
    protocol = "student.protocol.name=hard_other"
    assert "scores: column one has the protocol hard_other" in complaint(capsys, table("scores=true", protocol))
