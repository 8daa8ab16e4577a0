"""What the operating system says of the machine; without torch, so that planning stays quick."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int | None:
    """Bytes of this machine's memory; ``None`` where the system does not say, as only POSIX has to."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory() -> int:
    """Most bytes of memory that this process has held at once; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])
    try:
        import resource
    except ImportError:  # not POSIX
        return 0
    # Not on Linux, where a process begins with the largest memory of the one that started it.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
