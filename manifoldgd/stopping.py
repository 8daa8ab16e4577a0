"""SIGINT and SIGTERM do the same thing: stop within seconds, keep what can be continued, say so, exit 130 and 143.

A first request becomes the exception :class:`Stopped` in the main thread, wherever that is; work that would rather end
on a whole step holds it back for a moment (:func:`held_back`), and what must not be left half done until it is done
(:func:`finishing`). All files are written whole or not at all, so being ended at
any moment costs what was under way and nothing else. Therefore a second request ends the process at once, and so does
:data:`PATIENCE` when the main thread does not get to it, as in a long call into a library.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 4.5  # seconds from a request to the end of the process, whatever it is doing
HELD_AT_MOST = 2.0  # seconds for which a request is held back
SAVING_AT_MOST = 60.0  # seconds for a state that is written at once; half of it would be of no use
ONE_REQUEST = 0.5  # seconds: `timeout` and schedulers signal a process and its group, and mean one request


class Stopped(BaseException):
    """The user or the system asked for an end. No ``Exception``, so that nothing on the way mistakes it for a failure.

    Attributes:
        number: the signal.
        kept: what is known to be saved, in words; "" for what is finished.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(number, kept)
        self.number, self.kept = signal.Signals(number), kept

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that a signal ended."""
        return 128 + self.number

    def __str__(self) -> str:
        kept = self.kept or "what is finished is kept"
        return f"stopped by {self.number.name}; {kept}, and the same command continues from there"


@dataclass
class _Request:
    """What was asked for in this process."""

    number: int | None = None
    since: float = 0.0
    held: bool = False
    finishing: bool = False
    until: float = 0.0  # when the process ends whatever it is doing
    done: threading.Event = field(default_factory=threading.Event)


_request = _Request()


@contextmanager
def listening() -> Iterator[None]:
    """Take SIGINT and SIGTERM as requests to stop; outside the main thread and inside another such block do nothing."""
    global _request
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _take:
        yield
        return
    _request = _Request()
    # A shell starts background jobs with SIGINT ignored, and they stay so.
    before = {each: signal.getsignal(each) for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN}
    before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
    read, write = os.pipe()
    os.set_blocking(write, False)
    waker = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(read, _request), daemon=True).start()
    hook, sys.unraisablehook = sys.unraisablehook, _raise_again(sys.unraisablehook)
    try:
        for each in before:
            signal.signal(each, _raise if each == signal.SIGALRM else _take)
        yield
    finally:
        _request.done.set()
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(waker)
        sys.unraisablehook = hook
        os.close(write)  # ends the thread, which closes the other end
        _request = _Request()  # what this block was asked is no request to the next


@contextmanager
def held_back() -> Iterator[None]:
    """Hold a request back until :func:`asked` is called or the block ends, :data:`HELD_AT_MOST` at most.

    Then it becomes the exception even so, in the midst of a step.
    """
    _request.held = True
    try:
        yield
    finally:
        _request.held = _request.finishing = False
    if (number := asked()) is not None:
        raise Stopped(number)


def finishing() -> None:
    """Inside :func:`held_back`: until :func:`asked` is called no request becomes an exception, however late it is."""
    _request.finishing = True


def asked() -> int | None:
    """The signal of a request that was held back; the caller saves its state and raises :class:`Stopped`.

    From here the caller has :data:`SAVING_AT_MOST`.
    """
    _request.finishing = False
    if _request.number is None:
        return None
    signal.setitimer(signal.ITIMER_REAL, 0)
    _request.until = time.monotonic() + SAVING_AT_MOST
    return _request.number


def check_lost(error: Exception) -> None:
    """Raise :class:`Stopped` from a failure that came after a request: a library has wrapped the stop in an error."""
    if _request.number is not None:
        raise Stopped(_request.number) from error


def _forget() -> None:
    """In the child of a fork: its signals are its own."""
    if signal.getsignal(signal.SIGTERM) is _take:
        signal.set_wakeup_fd(-1)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)


def _take(number: int, frame: Any) -> None:
    """Handle SIGINT or SIGTERM."""
    if _request.number is not None:
        if time.monotonic() - _request.since > ONE_REQUEST:
            os._exit(128 + number)
        return
    _request.number, _request.since = number, time.monotonic()
    _request.until = _request.until or _request.since + PATIENCE
    if _request.held:
        signal.setitimer(signal.ITIMER_REAL, HELD_AT_MOST)
    else:
        raise Stopped(number)


def _raise(number: int, frame: Any) -> None:
    """Handle the alarm: what held a request back has not come to it."""
    if _request.number is not None and not _request.finishing:
        raise Stopped(_request.number)


def _raise_again(hook: Any) -> Any:
    """A hook for exceptions that Python has to drop: one raised while an object is destroyed would be lost."""

    def dropped(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Stopped):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            hook(unraisable)

    return dropped


def _end_in_time(pipe: int, request: _Request) -> None:
    """End the process where its main thread does not: woken by the first signal, before Python's handlers run."""
    numbers = {int(each) for each in SIGNALS}
    number = 0
    while number not in numbers:
        received = os.read(pipe, 1)
        if not received:
            os.close(pipe)
            return
        number = received[0]
    request.until = request.until or time.monotonic() + PATIENCE
    while (left := request.until - time.monotonic()) > 0:
        if request.done.wait(left):
            os.close(pipe)
            return
    with suppress(OSError, ValueError):
        os.write(2, f"manifoldgd: {Stopped(number)}\n".encode())
    os._exit(128 + number)
