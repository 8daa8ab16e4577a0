"""Equal sets are made once: copied where columns share them, taken in for every seed where nothing is drawn."""

import errno
import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import manifoldgd
from fake_cells import COLUMN, GOOD, KILLED, blank, cell, fake_job
from fake_tables import column, set_result
from fake_tables import table as fake_table
from rich.console import Console
from toy_table import OUTPUT, STUDENTS, change, complaint, table

from manifoldgd.cli.launcher import FOLDER_VARIABLE
from manifoldgd.errors import UserError
from manifoldgd.store.results import claim_result
from manifoldgd.store.sets import copy_set, has_set
from manifoldgd.study import run as study_run
from manifoldgd.study.board import Board
from manifoldgd.study.cells import in_turn, share_set, take_sets
from manifoldgd.study.record import recorded_sets
from manifoldgd.study.run import ONE_THREAD, Pool, next_cells, run_left
from manifoldgd.study.statistics import Summary, computing_seconds

MAKE = """
import pathlib, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
made = pathlib.Path(sys.argv[5]) / "set"
first = not (made / "manifest.json").is_file()
if first:
    made.mkdir(parents=True)
    (made.parent / "result.json").write_text(sys.argv[4])  # as a run claims its folder before it makes the set
    with open(folder / "made.txt", "a") as stream: stream.write(name + "\\n")
    time.sleep(0.5)  # long enough for another cell to start, if it would
    (made / "0.png").write_text(name)
    (made / "manifest.json").write_text("{}")
"""
# The cell that makes the set ends after the one that copies it.
LAST = """
end = time.monotonic() + 60
while first and not (folder / "sets" / "d" / "a-seed0" / "metrics.json").is_file():
    assert time.monotonic() < end
    time.sleep(0.05)
"""
METHODS = ("a", "b")
COLUMNS = (COLUMN, type(COLUMN)(**{**vars(COLUMN), "key": "d"}))


def board_of(output, *, seeds=(0,), columns=COLUMNS):
    cells = in_turn([cell("a", seed, each.key) for each in columns for seed in seeds], seeds)
    return Board(output, blank(("a",), seeds=seeds, columns=columns), cells)


def run(board, script, *, at_once=2, out=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_run, "job_of", fake_job(default=script))
        return run_left(board, Pool(board.output, at_once, ONE_THREAD), Console(file=out or io.StringIO()))


def made(output):
    return sorted((output / "made.txt").read_text().split())


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_columns_share_their_sets(tmp_path, at_once):
    assert run(board_of(tmp_path, seeds=(0, 1)), MAKE + GOOD, at_once=at_once)
    assert made(tmp_path) == ["c/a-seed0", "c/a-seed1"]
    assert (tmp_path / "sets" / "d" / "a-seed1" / "set" / "0.png").read_text() == "c/a-seed1"
    assert not board_of(tmp_path, seeds=(0, 1)).left


def test_a_cell_starts_when_the_set_it_needs_is_there(tmp_path):
    assert run(board_of(tmp_path), MAKE + LAST + GOOD)
    assert made(tmp_path) == ["c/a-seed0"]


def test_a_column_asked_for_later_takes_the_sets_that_are_there(tmp_path):
    run(board_of(tmp_path, columns=COLUMNS[:1]), MAKE + GOOD)
    assert run(board_of(tmp_path, columns=COLUMNS[1:]), MAKE + GOOD)
    assert made(tmp_path) == ["c/a-seed0"]


def test_a_set_that_was_not_made_is_made_by_the_next(tmp_path):
    board = board_of(tmp_path)
    assert run(board, "import sys\nif sys.argv[2][0] == 'c': " + KILLED + "\n" + MAKE + GOOD)
    assert [one.column for one in board.result().sets] == ["d"]
    assert made(tmp_path) == ["d/a-seed0"]
    assert run(board_of(tmp_path), MAKE + GOOD)
    assert made(tmp_path) == ["d/a-seed0"]  # the first column has it from the second


def test_other_sets_are_not_waited_for_nor_taken(tmp_path):
    claim_result(cell("b").folder(tmp_path), "set", cell("b").set_config)
    (cell("b").folder(tmp_path) / "set").mkdir()
    (cell("b").folder(tmp_path) / "set" / "manifest.json").touch()
    one = cell("a")
    share_set(one, tmp_path)
    assert not one.folder(tmp_path).exists()
    cells = [cell("a", column="c"), cell("b", column="e"), cell("a", column="d"), cell("f", column="d")]
    waiting, board = list(cells), SimpleNamespace(output=tmp_path, cells=cells)
    first = next_cells(waiting, [], len(cells), board)
    assert [each.name for each in first] == ["c/a-seed0", "e/b-seed0", "d/f-seed0"]
    assert [each.name for each in waiting] == ["d/a-seed0"]  # until its set is there, or was not made
    assert has_set(cells[1].folder(tmp_path))
    assert next_cells(waiting, first, 0, board) == next_cells(waiting, first, 1, board) == []
    assert next_cells(waiting, [], 1, board) == [cells[2]]


def test_sets_are_taken_from_other_tables(tmp_path):
    there, empty, here = tmp_path / "there", tmp_path / "empty", tmp_path / "here"
    run(board_of(there, seeds=(0, 1), columns=COLUMNS[:1]), MAKE + GOOD)
    begun, cells = cell("a", column="d"), [cell("a", 1, "e"), cell("b", 1, "e")]
    (begun.folder(here) / "set").mkdir(parents=True)
    assert take_sets([begun, *cells], here, [empty, there]) == 1
    assert (cells[0].folder(here) / "set" / "0.png").read_text() == "c/a-seed1"
    assert not cells[1].folder(here).exists()
    assert not has_set(begun.folder(here))
    assert take_sets([begun, *cells], here, [there]) == 0  # what is there stays


def test_a_table_takes_the_sets_of_another_and_trains_its_own_students(fakes, toy_table, tmp_path, capsys):
    fakes(default=MAKE + GOOD)
    assert table("seeds=0", "columns=one") == 0
    shutil.move(OUTPUT, tmp_path / "other")
    capsys.readouterr()
    assert table("seeds=0,1", "columns=one", f"sets_from={tmp_path / 'other'}") == 0
    assert "sets taken from other tables: 3 of 6\n" in capsys.readouterr().out
    assert made(OUTPUT) == [f"one/{method}-seed1" for method in ("mode", "random", "unguided")]


def test_a_folder_without_sets_is_refused(toy_table, tmp_path, capsys):
    assert "no folder sets/" in complaint(capsys, table(f"sets_from=[{tmp_path}]"))


def test_a_set_under_way_is_continued_and_not_replaced(tmp_path):
    run(board_of(tmp_path, columns=COLUMNS[:1]), MAKE + GOOD)
    begun = cell("a", column="d")
    (begun.folder(tmp_path) / "set").mkdir(parents=True)
    share_set(begun, tmp_path)
    assert not has_set(begun.folder(tmp_path))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "set" / "cat").mkdir(parents=True)
    (folder / "set" / "cat" / "0.png").write_bytes(b"pixels")
    (folder / "set" / "manifest.json").write_text("{}")
    return folder


def test_a_copy_is_whole_and_claimed(tmp_path, source):
    target = tmp_path / "target"
    (target / ".set.partial" / "cat").mkdir(parents=True)  # of a process killed while it copied
    (target / ".set.partial" / "cat" / "9.png").touch()
    copy_set(source, target, {"seed": 1})
    files = sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file())
    assert files == ["result.json", "set/cat/0.png", "set/manifest.json"]
    with pytest.raises(UserError, match="seed is 1 there, 2 here"):
        copy_set(source, target, {"seed": 2})


def test_a_disk_that_fills_up_leaves_no_half_copy(tmp_path, source, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            copy_set(source, tmp_path / "target", {})
    assert [entry.name for entry in (tmp_path / "target").iterdir()] == ["result.json"]
    copy_set(source, tmp_path / "target", {})
    assert has_set(tmp_path / "target")


def test_the_making_of_a_shared_set_counts_once():
    def seconds(sets):
        found = fake_table(sets, columns=tuple(column(key=name) for name in ("one", "two")))
        return computing_seconds(Summary(found).sets).to_dict()

    sets = [set_result("mode", 0, column=name, key=name, fingerprint="f") for name in ("one", "two")]
    assert seconds(sets) == {"distill": 10.0, "students": 40.0}
    again = [sets[0], set_result("mode", 0, column="two", fingerprint="f", seconds={"distill": 11.0})]
    assert seconds(again)["distill"] == 21.0  # made a second time, to the same bits
    old = [set_result("mode", 0, column=name, key=name) for name in ("one", "two")]
    assert seconds(old)["distill"] == 20.0


def test_a_launcher_has_shared_sets_made_first(fakes, toy_table):
    change(columns=STUDENTS)
    fakes(default=MAKE + GOOD)
    assert table("seeds=0", "launcher=basic") == 0
    assert made(OUTPUT) == [f"width8/{method}-seed0" for method in ("mode", "random", "unguided")]
    assert has_set(OUTPUT / "sets" / "width9" / "mode-seed0")


def test_a_grid_makes_equal_sets_once(fakes, toy_table, monkeypatch, tiny_prior):
    monkeypatch.setenv(FOLDER_VARIABLE, "")  # restored afterwards
    fakes(default=MAKE + GOOD)
    words = ("dataset=digits", f"prior.path={tiny_prior}", "guidance=none", "logger=none", "machine=cpu", "ipc=1")
    assert manifoldgd("run", "-m", *words, "student.width=8,9", "student_seeds=[0]", "hydra.sweep.dir=swept") == 0
    assert made(Path("swept")) == ["student.width=8/none-seed0"]
    assert len(list(Path("outputs/digits").glob("none-ipc1-*/set/0.png"))) == 2


def still(seeds):
    """Cells of a set that no seed changes, and of one that each seed changes."""
    return in_turn([*(cell("a", seed, draws=False) for seed in seeds), *(cell("b", seed) for seed in seeds)], seeds)


def of_a(board):
    return [one for one in board.result().sets if one.method == "a"]


def test_a_set_that_draws_nothing_is_made_once_for_all_seeds(tmp_path):
    seeds, out = (0, 1, 2), io.StringIO()
    board = Board(tmp_path, blank(METHODS, seeds=seeds), still(seeds))
    assert run(board, GOOD, at_once=1, out=out)
    assert (tmp_path / "order.txt").read_text().split() == ["c/a", "c/b-seed0", "c/b-seed1", "c/b-seed2"]
    assert out.getvalue().splitlines()[-1].startswith("[4/4] ")
    sets = of_a(board)
    assert [one.seed for one in sets] == [0, 1, 2]
    assert len({(one.key, one.mean_top1) for one in sets}) == 1
    more = Board(tmp_path, blank(METHODS, seeds=(3, 4)), still((3, 4)))  # other seeds: the same set
    assert [each.name for each in more.left] == ["c/b-seed3", "c/b-seed4"]
    assert [one.seed for one in of_a(more)] == [3, 4]
    record = board.result()
    kept = recorded_sets(record, still((0, 5)), {"c": (0,)})
    grown = Board(tmp_path / "new", blank(METHODS, seeds=(0, 5)), still((0, 5)), kept)
    assert [each.name for each in grown.left] == ["c/b-seed5"]
    assert [one.seed for one in of_a(grown)] == [0, 5]


def test_a_set_that_draws_nothing_fails_for_all_seeds(tmp_path):
    board = Board(tmp_path, blank(METHODS, seeds=(0, 1)), still((0, 1)))
    assert run(board, "import sys\nif sys.argv[2] == 'c/a': sys.exit(1)\n" + GOOD)
    assert [(one.method, one.seed) for one in board.result().failed] == [("a", 0), ("a", 1)]
    assert [each.name for each in board.failed_cells] == ["c/a"]
    assert run(board, GOOD)
    assert not board.failed
