"""Progress off a terminal: lines now and then, also while a step takes long."""

import re
import time

from manifoldgd import progress
from manifoldgd.progress import duration, progress_bar


def test_a_line_now_and_then_with_what_is_done_and_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.1)
    with progress_bar("work", 8, enabled=True, unit="steps") as advance:
        time.sleep(0.15)
        for _ in range(4):
            advance()
        time.sleep(0.35)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "work: 0/8 steps after 0 s"
    assert re.fullmatch(r"work: 4/8 steps after \d s, about \d s left", lines[1])
    assert re.fullmatch(r"work: done in \d\.\d s", lines[-1])


def test_what_an_earlier_process_did_counts_as_done_but_not_for_the_pace(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.1)
    with progress_bar("work", 100, enabled=True, done=98, transient=True) as advance:
        advance()
        time.sleep(0.15)
    (line,) = capsys.readouterr().out.splitlines()[:1]
    assert line.startswith("work: 99/100 after 0 s, about 0 s left")


def test_short_work_says_one_line_and_none_where_nothing_shall_stay(capsys):
    for transient in (False, True):
        with progress_bar("work", 2, enabled=True, transient=transient) as advance:
            advance()
    assert re.fullmatch(r"work: done in \d\.\d s\n", capsys.readouterr().out)
    with progress_bar("work", 2, enabled=False) as advance:
        advance()
    assert capsys.readouterr().out == ""


def test_durations_have_two_units_at_most():
    assert [duration(each) for each in (0.4, 59, 61, 3661)] == ["0 s", "59 s", "1 min 01 s", "1 h 01 min"]
