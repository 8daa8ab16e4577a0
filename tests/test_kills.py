"""Commands ended at random moments come to the artifacts of an undisturbed run when they are given again."""

import os
import signal

import kills
import pytest

TRIALS = 6


@pytest.mark.slow
@pytest.mark.parametrize("command", kills.COMMANDS)
def test_a_command_ended_at_any_moment_continues_to_the_same_artifacts(command, tmp_path):
    """Killed, terminated and interrupted, in turn."""
    kills.load()
    before = os.getcwd()
    try:
        wrong, met, _ = kills.trials(command, TRIALS, tmp_path)
    finally:
        os.chdir(before)
    assert not wrong
    assert met >= TRIALS // 2  # the moments fell on the work


def test_a_set_that_is_terminated_continues_to_the_same_artifacts(tmp_path):
    """The quick one of them: a signal in the middle of sampling."""
    kills.load()
    before, kills.COMMANDS["short"] = os.getcwd(), (*kills.COMMANDS["distill"], "machine.batch_size=64", "ipc=1")
    try:
        kills.prepare(tmp_path / "whole")
        assert kills.end(kills.start(kills.COMMANDS["short"], tmp_path / "log")) == 0
        reference = kills.compared(tmp_path / "whole")
        kills.prepare(tmp_path / "one")
        problem, *_ = kills.trial(kills.COMMANDS["short"], signal.SIGTERM, 0.5, reference, tmp_path / "log1")
    finally:
        del kills.COMMANDS["short"]
        os.chdir(before)
    assert problem is None
