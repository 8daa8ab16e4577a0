"""Hydra reads its arguments from ``sys.argv``; this hands it others for a while."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def arguments_given(arguments: Sequence[str]) -> Iterator[None]:
    """``sys.argv`` holds ``arguments`` inside the block."""
    given, sys.argv = sys.argv, ["manifoldgd", *arguments]
    try:
        yield
    finally:
        sys.argv = given
