# ruff: noqa: PT012  what a signal interrupts is rarely one statement
"""SIGINT and SIGTERM: one exception, held back for whole steps, and an end in time whatever the process is doing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manifoldgd import stopping
from manifoldgd.stopping import Stopped, asked, held_back, listening

ROOT = Path(__file__).parents[1]
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def in_the_foreground():
    """A background job of a shell ignores SIGINT, and so would the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@BOTH
def test_a_signal_becomes_one_exception_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"stopped by {number.name}; what is finished is kept") as stop, listening():
        signal.raise_signal(number)
        time.sleep(1)
    assert stop.value.exit_code == 128 + number
    assert not isinstance(stop.value, Exception)
    assert signal.getsignal(number) is before


def test_a_request_waits_for_the_end_of_a_step():
    steps = []
    with pytest.raises(Stopped, match="3 steps are saved"), listening(), held_back():
        for step in range(9):
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
            steps.append(step)
            if number := asked():
                raise Stopped(number, f"{len(steps)} steps are saved")
    assert steps == [0, 1, 2]


def test_a_step_that_takes_too_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(stopping, "HELD_AT_MOST", 0.1)
    began = time.monotonic()
    with pytest.raises(Stopped), listening(), held_back():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(3)
    assert time.monotonic() - began < 2


def test_a_request_at_the_last_step_is_not_lost():
    with pytest.raises(Stopped), listening():
        with held_back():
            signal.raise_signal(signal.SIGTERM)
        pytest.fail("the work after it began")


def test_a_request_while_an_object_is_destroyed_is_not_lost():
    """Python drops exceptions of destructors."""

    class Handle:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped), listening():
        Handle()
        time.sleep(3)
        pytest.fail("the request was lost")


def test_one_request_sent_twice_is_one_request():
    """As `timeout` does it: to the process, and to its group."""
    with pytest.raises(Stopped), listening():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned = True
    assert cleaned


def ended(code, *numbers, pause=0.0):
    """Exit code, stderr and seconds of a process that runs ``code`` and gets signals once it says so."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom manifoldgd.stopping import *\nimport time\n"
    process = subprocess.Popen(
        [sys.executable, "-c", start + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    for number in numbers:
        time.sleep(pause)
        process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    return process.returncode, err, time.monotonic() - began


BUSY = """
from manifoldgd import stopping
stopping.PATIENCE = 0.5
import hashlib
with listening():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def test_a_long_call_into_a_library_is_ended_in_time():
    code, err, seconds = ended(BUSY, signal.SIGTERM)
    assert (code, err.count("\n")) == (143, 1)
    assert err.startswith("manifoldgd: stopped by SIGTERM; what is finished is kept")
    assert seconds < 20


CLEANING = """
with listening():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)
"""


def test_a_second_request_ends_at_once():
    code, err, seconds = ended(CLEANING, signal.SIGTERM, signal.SIGINT, pause=1.0)
    assert (code, err) == (130, "")
    assert seconds < 10


def test_what_ignores_ctrl_c_goes_on_ignoring_it():
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + (
        "with listening():\n    print('ready', flush=True)\n    time.sleep(1.5)\nsys.exit(7)"
    )
    assert ended(code, signal.SIGINT)[0] == 7


def test_children_of_a_fork_are_on_their_own():
    """A signal to a child must not look like one to its parent."""
    ready, tell = os.pipe()
    with listening():
        child = os.fork()
        if not child:
            os.write(tell, b"!")
            time.sleep(60)
            os._exit(0)
        assert os.read(ready, 1) == b"!"
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        time.sleep(0.1)
        assert stopping._request.number is None


ENDING = """
import atexit, sys
import manifoldgd.cli.main
main = sys.modules["manifoldgd.cli.main"]
atexit.register(print, "taken apart")
main.run = lambda arguments: {code}
main.main()
"""


@pytest.mark.parametrize(("code", "apart"), [(143, 0), (1, 1)])
def test_a_stopped_command_does_not_wait_for_the_interpreter_to_take_itself_apart(code, apart):
    done = subprocess.run([sys.executable, "-c", ENDING.format(code=code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("taken apart"), done.stderr) == (code, apart, "")
