"""Progress off a terminal: lines now and then, also while a step takes long."""

import re
import time

import pytest

from manifoldgd import progress
from manifoldgd.progress import Pace, duration, progress_bar


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


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self):
        return self.now


def test_what_is_left_follows_the_pace_of_the_last_minutes():
    """A hundred quick steps say little about a machine that is busy now."""
    clock = Clock()
    pace = Pace(1000, clock=clock)
    assert pace.left is None
    for seconds, steps in ((0.1, 300), (5.0, 60)):
        for _ in range(steps):
            clock.now += seconds
            pace.advance()
        assert pace.left == pytest.approx(seconds * (1000 - pace.done), rel=0.01)
    assert pace.spent == pytest.approx(330)


def test_a_step_longer_than_the_window_tells_its_own_pace():
    clock = Clock()
    pace = Pace(10, done=2, clock=clock)
    for _ in range(3):
        clock.now += 1000
        pace.advance()
    assert pace.left == 5000
    clock.now += 500  # half of the next is over
    assert pace.left == 4500
    clock.now += 1500  # it has taken twice as long as the others, and goes on
    assert pace.left > 4000


def test_parts_of_steps_by_the_thousand_leave_few_marks():
    clock = Clock()
    pace = Pace(100, clock=clock)
    for _ in range(10_000):
        clock.now += 0.01
        pace.advance(0.001)
    assert pace.left == pytest.approx(900, rel=0.02)
    assert len(pace._marks) < 110


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
