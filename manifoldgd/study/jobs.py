"""One process: started, waited for, stopped with its parent, and what it said when it failed.

Imported by the workers of launchers, so nothing here is slow to import.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from manifoldgd.files import atomic_write_json

LIST = "cells.json"  # what a launcher is to run, in the study's folder
ENDED = ".ended"  # suffix of the note beside a log that says how a launched job ended
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or what one may use of it
QUOTED = tuple(map(os.strerror, FULL))  # what every library quotes from the system
DISK_FULL = "the disk is full"
GRACE_SECONDS = 3  # between asking processes to end and ending them; less than a command that is stopped has itself
TAIL_BYTES = 20_000  # of a log: enough for a long traceback
PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run and where its output goes."""

    name: str
    command: tuple[str, ...]
    log: Path
    folder: Path | None = None  # to run in; None: where this process runs


def importing() -> dict[str, str]:
    """Variables by which Python processes that we start import nothing from the folder they are started in.

    That folder holds whatever the user works on, a table from elsewhere with files beside it included. ``PYTHONPATH``
    counts as before. Where this program itself was imported from there, its folder is named.
    """
    home = str(Path(__file__).parents[2])
    known = os.environ.get("PYTHONPATH", "")
    started_here = home == os.getcwd() and home not in known.split(os.pathsep)
    path = {"PYTHONPATH": os.pathsep.join(filter(None, [home, known]))} if started_here else {}
    return {"PYTHONSAFEPATH": "1", **path}


def start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a job in a session of its own, so that Ctrl-C reaches us alone and we decide what ends when.

    On Linux the job ends with this process even if that is killed; elsewhere it would finish what it is doing, which is
    harmless: whole files only, and equal bits from whoever writes them.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("wb") as log:
        return subprocess.Popen(
            job.command,
            cwd=job.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **importing(), **environment},
            start_new_session=True,
            preexec_fn=_end_with_parent(),
        )


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """End processes and what they started: asked first, then told."""
    waiting = [process for process in processes if process.poll() is None]
    for process in waiting:
        _signal(process, signal.SIGTERM)
    end = time.monotonic() + GRACE_SECONDS
    for process in waiting:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
            continue
        _signal(process, signal.SIGKILL)
        process.wait()


def run(job: Job, environment: Mapping[str, str]) -> str | None:
    """Run a job to its end; returns why it failed, or ``None``."""
    process = start(job, environment)
    try:
        return why_failed(process.wait(), job.log)
    finally:
        stop([process])


def run_listed(folder: Path, index: int) -> None:
    """Run one of the jobs in ``folder/cells.json`` and leave a note when it has ended."""
    held = json.loads((folder / LIST).read_text(encoding="utf-8"))
    one, began = held["jobs"][index], time.monotonic()
    job = Job(name=one["name"], command=tuple(one["command"]), log=Path(one["log"]), folder=Path(held["folder"]))
    reason = run(job, held["environment"])
    atomic_write_json(job.log.with_suffix(ENDED), {"reason": reason, "seconds": time.monotonic() - began})


def why_failed(code: int, log: Path) -> str | None:
    """One line from an exit code and a log; ``None`` for success."""
    if code == 0:
        return None
    tail = _tail(log)
    for quoted in QUOTED:
        if quoted in tail:
            return f"{DISK_FULL} ({quoted}); free some space"
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    said = [line for line in lines if "error" in line.lower()] or lines
    return said[-1].removeprefix("manifoldgd: error: ") if said else f"exit code {code} without a word"


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _end_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: nothing may be loaded between fork and exec
    # Not SIGTERM: nobody is left to wait for what that would save.
    return lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
