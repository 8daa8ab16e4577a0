"""What of earlier work a table takes over: finished cells, recorded sets, their seconds; and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_cells import blank, cell, metrics_of
from table_runner_parts import METHODS, board_of
from tables import judgements

from manifoldgd import __version__
from manifoldgd.errors import UserError
from manifoldgd.progress import duration
from manifoldgd.provenance import code_version, release
from manifoldgd.store.results import claim_result
from manifoldgd.study.board import START_SECONDS, Board, check_folder, finished_set, seconds_for
from manifoldgd.study.record import check_nothing_lost, check_same_table, recorded_sets, write_record
from manifoldgd.study.results import SetResult, TableResult
from manifoldgd.study.scores import with_scores


def result(method="a", column="c", seconds=10.0, last=(0.5,), best=(0.5,), per_class=((0.5,),), **changes):
    facts = {"method": method, "column": column, "seed": 0, "key": cell(method).key, "seconds": {"distill": seconds}}
    students = judgements(last, best, per_class)
    return SetResult(**{**facts, "students": students, "code_version": __version__, **changes})


def test_time_left_is_that_of_the_same_column():
    cells = [cell("x", column="slow"), cell("y", column="slow"), cell("x", column="new")]
    known = [result(column="slow", seconds=100), result(column="fast", seconds=0)]
    slow, other = 100 + START_SECONDS, 50 + START_SECONDS
    assert seconds_for(cells, known, 1) == 2 * slow + other
    assert seconds_for(cells, known, 2) == (2 * slow + other) / 2
    assert seconds_for(cells[:1], known, 8) == slow
    assert seconds_for(cells, [], 1) is None
    assert seconds_for([], known, 1) == 0
    assert [duration(each) for each in (7, 125, 7500)] == ["7 s", "2 min 05 s", "2 h 05 min"]


def test_keys_say_what_was_measured_and_not_where():
    here = {"_target_": "digits", "folder": "/here", "train_per_class": None}
    assert cell().key == cell(dataset=here).key  # places and nulls do not count
    assert cell().key != cell(dataset={**here, "train_per_class": 5}).key
    assert cell(seed=0).key != cell(seed=1).key


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    one = cell()
    check_folder(tmp_path, one)
    claim_result(one.folder(tmp_path), "set", one.set_config)
    claim_result(one.folder(tmp_path), "evaluation", {**one.judge_config, "student_seeds": [0]})
    check_folder(tmp_path, one)
    with pytest.raises(UserError, match=r"steps is None there, 5 here"):
        check_folder(tmp_path, cell(steps=5))
    claim_result(cell("b").folder(tmp_path), "evaluation", {"student": {"width": 9}})
    with pytest.raises(UserError, match=r"student\.width is 9 there, 8 here"):
        check_folder(tmp_path, cell("b"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"name": "other"}, "name is 'other' there, 'toy' here"),
        ({"split": "validation"}, "split is 'validation' there, 'test' here"),
        ({"label_protocol": "soft"}, "columns.c.label_protocol is 'soft' there, 'hard_small' here"),
        ({"student": "ResNet-18"}, "columns.c.student is 'ResNet-18' there"),
        ({"version": "0.0.9"}, f"version is '0.0.9' there, '{__version__}' here"),
    ],
)
def test_results_of_another_table_protocol_or_version_are_refused(changes, line):
    here = blank(METHODS)
    version = changes.pop("version", __version__)
    column = {name: changes.pop(name) for name in ("label_protocol", "student") if name in changes}
    columns = tuple(type(each)(**{**vars(each), **column}) for each in here.columns)
    there = blank(METHODS, columns=columns, sets=(result(code_version=version),), **changes)
    check_same_table(Path("results.json"), here, here, __version__)
    with pytest.raises(UserError) as error:
        check_same_table(Path("results.json"), there, here, __version__)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_record_counts_where_its_configuration_is_the_same(tmp_path):
    sets = (
        result("a", last=(0.1, 0.2), best=(0.3, 0.4), per_class=((0.1,), (0.2,)), grid="g/a.png"),
        result("b", key="another"),
    )
    record = blank(METHODS, sets=sets)
    cells = [cell("a"), cell("b")]
    (kept,) = recorded_sets(record, cells, {"c": (1,)})
    assert (kept.method, kept.students) == ("a", judgements((0.2,), (0.4,), ((0.2,),), student_seeds=(1,)))
    assert kept.grid is None  # a picture in an older record lay beside it
    assert recorded_sets(record, cells, {"c": (3,)}) == []
    board = Board(tmp_path / "out", blank(METHODS, student_seeds=(1,)), cells, [kept])
    assert [each.method for each in board.left] == ["b"]


def test_a_recorded_set_with_fewer_students_is_shown_until_it_is_measured_again(tmp_path):
    record = blank(
        METHODS,
        sets=(result("a"), result("b", last=(0.1, 0.2), best=(0.1, 0.2), per_class=((), ()))),
    )
    cells, wanted = [cell("a"), cell("b")], {"c": (0, 1)}
    kept = recorded_sets(record, cells, wanted)
    assert [(one.method, one.student_seeds) for one in kept] == [("a", (0,)), ("b", (0, 1))]
    board = Board(tmp_path, blank(METHODS, student_seeds=(0, 1)), cells, kept)
    assert [each.method for each in board.left] == ["a"]
    assert [one.method for one in board.result().sets] == ["a", "b"]
    assert board.ended(cells[0], "killed") is None  # what was there stays
    assert [one.student_seeds for one in board.result().sets] == [(0,), (0, 1)]
    made = cells[0].folder(tmp_path)
    made.mkdir(parents=True)
    (made / "metrics.json").write_text(json.dumps(metrics_of(seeds=(0, 1))))
    (made / "report.html").touch()
    assert board.ended(cells[0], None).student_seeds == (0, 1)
    assert not board.left


def test_a_record_is_never_shortened_unasked():
    record = blank(METHODS, sets=(result("a"), result("b", last=(0.5, 0.5), best=(0.5, 0.5), per_class=((), ()))))
    file = Path("results.json")
    check_nothing_lost(file, record, [("a", "c", 0), ("b", "c", 0)], {"c": (0, 1)}, extending=False)
    for places, students in (([("a", "c", 0)], (0, 1)), ([("a", "c", 0), ("b", "c", 0)], (0,))):
        for extending, advice in ((False, "add extend=true"), (True, "measured with other settings or fewer students")):
            said = rf"results\.json holds 1 sets, or students of them, .* \(c/b\); .*{advice}"
            with pytest.raises(UserError, match=said):
                check_nothing_lost(file, record, places, {"c": students}, extending=extending)


def test_a_record_holds_numbers_and_texts_only(tmp_path):
    output, home = tmp_path / "out", tmp_path / "home"
    for seed in (0, 1):
        made = cell("a", seed).folder(output)
        made.mkdir(parents=True)
        (made / "metrics.json").write_text(json.dumps(metrics_of()))
        (made / "report.html").touch()
        (made / "grid.png").write_bytes(b"picture %d" % seed)
    board = board_of(output, seeds=(0, 1), methods=("a",))
    derived = with_scores(board.result(), random="a", full={"c": 0.9}, weight=0.5)
    write_record(home, derived, scores=True)
    assert "LRS" in (home / "table.md").read_text()
    held = TableResult.load(home / "results.json")
    assert [one.grid for one in held.sets] == [None, None]
    assert {file.name for file in home.iterdir()} == {
        "results.json",
        "results.csv",
        "table.csv",
        "table.md",
        "table.tex",
    }
    assert [one.students for one in held.sets] == [one.students for one in board.result().sets]
    assert [set(one.measures) for one in held.sets] == [{"frechet_distance"}] * 2  # scores follow from the table
    before = (home / "results.json").read_text()
    write_record(home, replace(held, sets=tuple(recorded_sets(held, board.cells, {"c": (0,)}))))  # onto itself
    assert (home / "results.json").read_text() == before


def test_a_run_that_is_not_finished_is_no_result(tmp_path):
    assert finished_set(tmp_path, cell(), (0,)) is None
    made = cell().folder(tmp_path)
    made.mkdir(parents=True)
    (made / "metrics.json").write_text(json.dumps(metrics_of()))
    assert finished_set(tmp_path, cell(), (0,)) is None  # killed before its page, the last thing a run writes
    (made / "report.html").touch()
    assert finished_set(tmp_path, cell(), (0,)) is not None


def test_foreign_results_are_named(tmp_path):
    made = cell().folder(tmp_path)
    made.mkdir(parents=True)
    for text in ("{}", "[]", '{"student_seeds": [0]}'):
        (made / "metrics.json").write_text(text)
        (made / "report.html").touch()
        with pytest.raises(UserError, match=r"metrics\.json: (is no result of ours|holds no JSON object)"):
            finished_set(tmp_path, cell(), (0,))
    for text in ("[]", '{"format": 1, "columns": ["a"], "sets": [], "failed": []}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(UserError, match=r"results\.json: (is no table of ours|holds no JSON object)"):
            TableResult.load(tmp_path / "results.json")


def test_seconds_are_those_of_the_students_taken(tmp_path):
    made = cell().folder(tmp_path)
    made.mkdir(parents=True)
    (made / "metrics.json").write_text(json.dumps(metrics_of(seeds=(0, 1, 2))))
    (made / "report.html").touch()
    one = finished_set(tmp_path, cell(), (2,))
    assert one.seconds == {"distill": 1.0, "students": 2.0, "metrics": 0.5}
    whole = finished_set(tmp_path, cell(), (0, 1, 2))
    assert whole.seconds["students"] == 6.0
    (kept,) = recorded_sets(blank(METHODS, sets=(whole,)), [cell()], {"c": (0,)})
    assert kept.seconds == one.seconds


def test_measures_asked_for_later_are_made(tmp_path):
    made = cell().folder(tmp_path)
    made.mkdir(parents=True)
    asked = replace(cell(), measures=True)
    for measures, there in (({}, False), ({"frechet_distance": 3.0}, True)):
        (made / "metrics.json").write_text(json.dumps({**metrics_of(), "set_metrics": measures}))
        (made / "report.html").touch()
        found = finished_set(tmp_path, cell(), (0,))
        assert (finished_set(tmp_path, asked, (0,)) is not None) == there
        record = blank(METHODS, sets=(found,))
        assert len(recorded_sets(record, [asked], {"c": (0,)})) == there
        assert len(recorded_sets(record, [cell()], {"c": (0,)})) == 1


def test_commits_of_one_release_compare():
    here = blank(METHODS)
    there = blank(METHODS, sets=(result(code_version=f"{__version__}+1234567.dirty"),))
    check_same_table(Path("results.json"), there, here, __version__)
    assert release(code_version()) == __version__
