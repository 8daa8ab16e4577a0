"""Files that ``torch.save`` wrote, read as data alone and as they were written."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch


def load_archive(file: Path, *, mmap: bool = False) -> Any:
    """Tensors, numbers and texts of a file; nothing in it is run.

    Torch passes over the checksums that it wrote, so a damaged file would give other numbers without a word. Files of
    versions before 1.6 have none.

    Args:
        file: the file.
        mmap: whether tensors are read when they are used.

    Raises:
        ValueError: it is not as it was written.
        Exception: whatever torch raises for a file that is something else, or holds more than data.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} inside is not what was written")
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
