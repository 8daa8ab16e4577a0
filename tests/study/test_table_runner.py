"""Running what is left: nothing is run twice, nothing finished is lost, and every failure is one line."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_cells import COLUMN, GOOD, IDLE, KILLED, NO_DISK, SILENT, SLEEPING, STUBBORN, WRONG, blank, cell, fake_job
from rich.console import Console
from table_runner_parts import METHODS, board_of, run
from tables import judgements

from manifoldgd import __version__
from manifoldgd.errors import UserError
from manifoldgd.study import jobs
from manifoldgd.study import run as study_run
from manifoldgd.study.board import Board
from manifoldgd.study.results import TableResult
from manifoldgd.study.run import Watch, alone_in


def order(output):
    return (output / "order.txt").read_text().split()


def test_everything_is_run_seed_by_seed_and_gathered(tmp_path):
    board = board_of(tmp_path, seeds=(3, 1))
    assert run(board, fake_job(), at_once=1)
    assert order(tmp_path) == ["c/a-seed3", "c/b-seed3", "c/a-seed1", "c/b-seed1"]
    held = TableResult.load(tmp_path / "results.json")
    assert held == board.result()
    assert [(one.method, one.seed) for one in held.sets] == [("a", 1), ("a", 3), ("b", 1), ("b", 3)]
    one = held.sets[0]
    assert one.students == judgements([0.5], [0.6], [[0.5, 0.5]])
    assert one.guidance == {"ratio": pytest.approx(0.2), "kept": 0.5}
    assert (one.code_version, one.hardware, one.grid, one.run) == (__version__, "a test", None, None)
    assert one.measures == {"frechet_distance": 3.0}
    assert one.key == cell("a", 1).key


def test_what_is_finished_is_not_run_again(tmp_path):
    assert run(board_of(tmp_path, methods=("a",)), fake_job())
    board = board_of(tmp_path)
    assert [each.name for each in board.left] == ["c/b-seed0"]
    run(board, fake_job())
    assert sorted(order(tmp_path)) == ["c/a-seed0", "c/b-seed0"]
    run(board_of(tmp_path), fake_job({"a": WRONG, "b": WRONG}))  # nothing is left to go wrong
    assert not board_of(tmp_path).left


def test_more_students_are_run_for_and_fewer_are_not(tmp_path):
    run(board_of(tmp_path), fake_job(seeds=(0, 1)))
    fewer = board_of(tmp_path, student_seeds=(1,))
    assert [one.mean_top1 for one in fewer.result().sets] == [0.51, 0.51]
    more = board_of(tmp_path, student_seeds=(0, 1, 2))
    assert len(more.left) == 2
    run(more, fake_job(seeds=(0, 1, 2)))
    assert more.result().sets[0].student_seeds == (0, 1, 2)


def test_a_column_is_finished_with_its_own_students(tmp_path):
    run(board_of(tmp_path), fake_job(seeds=(0,)))
    table = replace(blank(METHODS, student_seeds=(0, 1)), columns=(replace(COLUMN, student_seeds=(0,)),))
    board = Board(tmp_path, table, board_of(tmp_path).cells)
    assert not board.left
    board.save()
    held = TableResult.load(tmp_path / "results.json")
    assert held == board.result()
    assert held.students == {COLUMN.key: (0,)}
    assert held.student_seeds_text == "0"
    other = replace(held, columns=(*held.columns, replace(COLUMN, key="other", student_seeds=None)))
    assert other.student_seeds_text == f"0 ({COLUMN.key}); 0, 1 (other)"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (KILLED, "killed by SIGKILL (out of memory?)"),
        (WRONG, "ipc: too many"),
        (SILENT, "exit code 3 without a word"),
        (IDLE, "the run left no result"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_cell_that_fails_is_listed_and_the_others_go_on(tmp_path, script, reason):
    board = board_of(tmp_path, seeds=(0, 1))
    assert run(board, fake_job({"a": script}))
    held = TableResult.load(tmp_path / "results.json")
    assert [(one.method, one.seed) for one in held.sets] == [("b", 0), ("b", 1)]
    assert [(one.method, one.seed) for one in held.failed] == [("a", 0), ("a", 1)]
    assert all(reason in one.reason and "\n" not in one.reason for one in held.failed)
    again = board_of(tmp_path, seeds=(0, 1))
    run(again, fake_job(default=GOOD))  # a failure is not for ever
    assert (len(again.left), again.failed) == (0, {})


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "cannot be read"), ('{"student_seeds": [0]}', "is no result of ours")]
)
def test_a_broken_result_is_named_and_stays_until_it_is_removed(tmp_path, text, reason):
    board = board_of(tmp_path)
    run(board, fake_job({"a": GOOD + f"(made / 'metrics.json').write_text({text!r})"}))
    ((_, failed),) = board.failed.items()
    assert reason in failed.reason
    with pytest.raises(UserError, match=rf"sets/c/a-seed0/metrics\.json: {reason} .*remove "):
        board_of(tmp_path)


@pytest.mark.parametrize(("name", "says"), [("ENOSPC", "No space left on device"), ("EDQUOT", "Disk quota exceeded")])
def test_a_full_disk_stops_the_table_and_loses_nothing(tmp_path, name, says):
    board = board_of(tmp_path, seeds=(0, 1), methods=("a", "b", "c"))
    assert not run(board, fake_job({"b": NO_DISK.replace("ENOSPC", name)}), at_once=1)
    held = TableResult.load(tmp_path / "results.json")
    assert [(one.method, one.seed) for one in held.sets] == [("a", 0)]
    (failed,) = held.failed
    assert failed.reason == f"the disk is full ({says}); free some space"
    assert order(tmp_path) == ["c/a-seed0"]  # no other cell was begun
    assert run(board_of(tmp_path, seeds=(0, 1), methods=("a", "b", "c")), fake_job())
    assert len(TableResult.load(tmp_path / "results.json").sets) == 6


def test_a_disk_that_fills_up_under_us_stops_the_jobs(tmp_path, monkeypatch):
    board = board_of(tmp_path)
    started = spy_on_jobs(monkeypatch)

    def full(self, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TableResult, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(board, fake_job({"a": SLEEPING}))
    assert [process.poll() is not None for process in started] == [True, True]


def spy_on_jobs(monkeypatch):
    started, real = [], study_run.start

    def start(*arguments):
        started.append(real(*arguments))
        return started[-1]

    monkeypatch.setattr(study_run, "start", start)
    return started


def test_a_job_that_will_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.2)
    one = cell()
    process = jobs.start(fake_job(default=STUBBORN)(one, tmp_path), {})
    until(lambda: one.log(tmp_path).read_text().strip())
    jobs.stop([process])
    assert process.returncode == -signal.SIGKILL


def test_ctrl_c_stops_the_jobs_and_keeps_what_is_finished(tmp_path, monkeypatch):
    board = board_of(tmp_path)
    started = spy_on_jobs(monkeypatch)
    monkeypatch.setattr(Watch, "tick", lambda watch, running: stop_at(len(watch.board.sets) == 1))

    def stop_at(reached):
        if reached:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(board, fake_job({"b": SLEEPING}))
    assert [process.returncode for process in started] == [0, -signal.SIGTERM]
    assert [one.method for one in TableResult.load(tmp_path / "results.json").sets] == ["a"]


ALONE = """
import sys
sys.path[:0] = sys.argv[2:]
from dataclasses import replace
from pathlib import Path
from fake_cells import STUBBORN, fake_job
from table_runner_parts import board_of, run
run(board_of(Path(sys.argv[1])), fake_job({"b": STUBBORN}))
"""


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a job outlives its killed parent")
def test_a_killed_table_takes_its_jobs_along_and_continues(tmp_path):
    here = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]
    table = subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path), *here])
    log = cell("b").log(tmp_path)
    until(lambda: (tmp_path / "results.json").is_file() and log.is_file() and log.read_text().strip())
    job = int(log.read_text())
    table.kill()
    table.wait()
    until(lambda: not alive(job))
    board = board_of(tmp_path)
    assert [each.method for each in board.left] == ["b"]
    run(board, fake_job())
    assert order(tmp_path) == ["c/a-seed0", "c/b-seed0"]


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_one_process_at_a_time_works_on_a_folder(tmp_path):
    second = alone_in(tmp_path)
    with alone_in(tmp_path), pytest.raises(UserError, match=rf"is being worked on by process {os.getpid()} on "):
        second.__enter__()
    with alone_in(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from dataclasses import replace
from pathlib import Path
from manifoldgd.study.run import alone_in
with alone_in(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on "), alone_in(tmp_path):
            pass
        holder.kill()
    with alone_in(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()


def test_off_a_terminal_a_line_a_cell(tmp_path):
    out = io.StringIO()
    run(board_of(tmp_path), fake_job({"b": WRONG}), at_once=1, console=Console(file=out))
    first, second = out.getvalue().splitlines()
    assert first.startswith("[1/2] c/a-seed0: 50.0 % (")
    assert " left" in first
    assert second.startswith("[1/2] c/b-seed0: failed: ipc: too many (")
    assert " left" not in second


def test_on_a_terminal_a_bar(tmp_path):
    out = io.StringIO()
    board = board_of(tmp_path, seeds=(0, 1))
    console = Console(file=out, force_terminal=True, width=150, color_system=None)
    run(board, fake_job({"b": WRONG}), at_once=2, console=console)
    assert "c/b-seed0: failed: ipc: too many" in out.getvalue()
    assert "2/4" in out.getvalue()
    assert "c/a-seed0, c/b-seed0" in out.getvalue()
