"""Tensors in a safetensors file that knows its own checksum.

The checksum covers names, types, shapes, numbers and metadata, and lies in the metadata. It is verified when a process
reads a file for the first time, and again only when the file has changed. Files of earlier versions hold none: the
first process that reads one takes it as it is, says so, and writes it anew with the checksum of what it read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_path, file_state, is_settled
from manifoldgd.store.keys import CHECKSUM

State = tuple[int, int, int, int]

_verified: dict[Path, State | tuple[State, ...]] = {}  # by this process


def write_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors and their checksum, whole or not at all.

    Raises:
        OSError: the folder is not writable, or the disk is full.
    """
    tensors = {name: each.contiguous() for name, each in tensors.items()}
    metadata = {**(metadata or {})}
    metadata[CHECKSUM] = _checksum(tensors, metadata)
    try:
        with atomic_path(file) as partial:
            save_file(tensors, partial, metadata=metadata)
    except SafetensorError as error:  # which is how the library reports a full disk
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else 0
        raise OSError(number, os.strerror(number) if number else str(error), str(file)) from error


def read_tensors(file: Path, *, again: str, ours: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What :func:`write_tensors` wrote: tensors and metadata.

    Args:
        file: the file.
        again: what happens once it is removed, for the message: ``"cluster again"``.
        ours: whether a file without checksum may be given one; not where it is part of the installation.

    Raises:
        UserError: the file is missing or damaged.
    """
    remedy = f"remove it to {again}"
    try:
        state = file_state(file)
        with safe_open(file, framework="pt") as stream:
            metadata = dict(stream.metadata() or {})
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file}: damaged file ({str(error).splitlines()[0]}); {remedy}") from error
    held = metadata.pop(CHECKSUM, None)
    if is_verified(file, state):
        return tensors, metadata
    if held is None:
        values = [name for name, value in metadata.items() if len(value) == 32]
        rest = ({name: each for name, each in metadata.items() if name != one} for one in values)
        lost = any(metadata[one] == _checksum(tensors, others) for one, others in zip(values, rest, strict=True))
        require(not lost, f"{file}: damaged file (its checksum has lost its name); {remedy}")
        if ours:
            print(f"{file}: written by an earlier version, without a checksum; taken as it is and given one")
            with suppress(OSError):
                write_tensors(file, tensors, metadata)
        return tensors, metadata
    require(held == _checksum(tensors, metadata), f"{file}: damaged file (checksum mismatch); {remedy}")
    remember_verified(file, state)
    return tensors, metadata


def is_verified(path: Path, state: State | tuple[State, ...]) -> bool:
    """Whether this process has verified the file, or the files of a folder, in this state."""
    return _verified.get(path.absolute()) == state


def remember_verified(path: Path, state: State | tuple[State, ...]) -> None:
    """Note that :func:`is_verified` holds, unless a change right now could go unnoticed."""
    states = state if isinstance(state[0], tuple) else (state,)
    if all(map(is_settled, states)):
        _verified[path.absolute()] = state


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
