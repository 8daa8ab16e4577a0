"""Where a number comes from: the state of the code and the processor, as results and cards say it."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

from manifoldgd import __version__


@cache
def code_version() -> str:
    """The package's version, and in a clone the commit behind a plus, with ``.dirty`` where files differ from it."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return __version__
    command = ("git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=7", "--dirty=.dirty")
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+{found}" if found else __version__


def release(version: str) -> str:
    """A code version without the commit: results of one release compare, whatever its commits.

    >>> release("0.1.0+26a93c1.dirty")
    '0.1.0'
    """
    return version.partition("+")[0]


def hardware(device: torch.device) -> str:
    """The machine in words, for cards and tables: the GPU or processor that was used, cores, torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{name}, {os.cpu_count()} CPU cores, torch {torch.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
