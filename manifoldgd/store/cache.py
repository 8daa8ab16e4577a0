"""What runs share: encoded latents and prototypes, found again by what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from manifoldgd.artifacts import LatentSet, PrototypeSet
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_path, atomic_write_json, one_at_a_time
from manifoldgd.store.keys import FORMAT, read_json


def cached_latents(
    cache: Path, key: str, labels: Tensor, class_names: tuple[str, ...], encode: Callable[[Path], None]
) -> tuple[LatentSet, bool]:
    """The latents of ``key`` from the cache, encoded now if they are not there.

    One process at a time does this; others wait for it.

    Args:
        cache: root of the cache.
        key: what the latents depend on, hashed.
        labels: ``[N]`` class of each image.
        class_names: the dataset's classes.
        encode: writes ``[N, C, H, W]`` float32 in NumPy's format to the path it is given.

    Returns:
        The set, memory-mapped, and whether it was there already.

    Raises:
        UserError: the cached files are damaged.
    """
    folder = cache / "latents" / key
    exists = folder.is_dir()  # asked first: another process names a folder only when it is whole
    cached = (folder / "meta.json").is_file()
    require(cached or not exists, f"{folder}: corrupt cache (no meta.json); remove the folder to encode again")
    if cached:
        return _read_latents(folder, key), True
    with one_at_a_time(folder, lambda: _say_waiting(folder)):
        if folder.is_dir():
            return _read_latents(folder, key), True
        for left in folder.parent.glob(f".{key}.*"):  # of a process that was killed; nobody else is at it
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        partial = folder.with_name(f".{key}.{secrets.token_hex(8)}")
        partial.mkdir(parents=True)
        try:
            encode(partial / "latents.npy")
            np.save(partial / "labels.npy", labels.numpy())
            meta = {"format": FORMAT, "class_names": class_names, "checksum": _checksum(partial)}
            atomic_write_json(partial / "meta.json", meta)
            _claim_name(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return _read_latents(folder, key), False


def _say_waiting(path: Path) -> None:
    print(f"{path}: being made by another process; waiting for it", flush=True)


def _claim_name(partial: Path, folder: Path) -> None:
    try:
        os.rename(partial, folder)
    except OSError:
        require((folder / "meta.json").is_file(), f"{folder}: cannot be written; remove it and run again")


def _read_latents(folder: Path, key: str) -> LatentSet:
    meta = read_json(folder / "meta.json")
    again = f"remove the folder {folder} to encode again"
    require(meta.get("format") == FORMAT, f"{folder}: cache of format {meta.get('format')}, expected {FORMAT}; {again}")
    try:
        require(_checksum(folder) == meta["checksum"], f"{folder}: corrupt cache file (checksum mismatch); {again}")
        # mode "c": torch wants a writable array, and nothing written to it may reach the file
        latents = torch.from_numpy(np.load(folder / "latents.npy", mmap_mode="c"))
        labels = torch.from_numpy(np.load(folder / "labels.npy"))
        return LatentSet(latents, labels, tuple(meta["class_names"]), key)
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder}: corrupt cache file ({error}); {again}") from error


def _checksum(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in ("latents.npy", "labels.npy"):
        with (folder / name).open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def cached_prototypes(cache: Path, key: str, find: Callable[[], PrototypeSet]) -> tuple[PrototypeSet, bool]:
    """The prototypes of ``key`` from the cache, found now if they are not there; and whether they were.

    Raises:
        UserError: the cached file is damaged.
    """
    file = cache / "prototypes" / f"{key}.safetensors"
    if file.is_file():
        return _read_prototypes(file, key), True
    with one_at_a_time(file, lambda: _say_waiting(file)):
        if file.is_file():
            return _read_prototypes(file, key), True
        found = find()
        tensors = {
            field.name: getattr(found, field.name).contiguous() for field in fields(found) if _is_tensor(found, field)
        }
        with atomic_path(file) as partial:
            save_file(tensors, partial, metadata={"class_names": json.dumps(found.class_names), "format": str(FORMAT)})
    return found, False


def _is_tensor(prototypes: PrototypeSet, field: Any) -> bool:
    return isinstance(getattr(prototypes, field.name), Tensor)


def _read_prototypes(file: Path, key: str) -> PrototypeSet:
    try:
        with safe_open(file, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  not a dict
            names = tuple(json.loads(stream.metadata()["class_names"]))
        return PrototypeSet(**tensors, class_names=names, key=key)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: corrupt cache file ({error}); remove it to cluster again") from error


def cached_tensor(file: Path, make: Callable[[], Tensor]) -> Tensor:
    """The one tensor of a safetensors file, made now if the file is not there.

    Raises:
        UserError: the file is damaged.
    """
    if not file.is_file():
        with one_at_a_time(file, lambda: _say_waiting(file)):
            if not file.is_file():
                with atomic_path(file) as partial:
                    save_file({"tensor": make().contiguous()}, partial)
    try:
        return load_file(file)["tensor"]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{file}: corrupt cache file ({error}); remove it to have it made again") from error
