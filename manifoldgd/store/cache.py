"""What runs share: encoded latents, prototypes and features, found again by what they depend on.

Everything has a checksum, verified when a process reads it for the first time. What is damaged is named with the one
path whose removal makes the next run succeed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifoldgd.artifacts import Key, LatentSet, PrototypeSet
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_path, file_state, one_at_a_time
from manifoldgd.store.keys import FORMAT, read_json, write_json
from manifoldgd.store.rows import RowWriter
from manifoldgd.store.tensors import is_verified, read_tensors, remember_verified, write_tensors


def cache_entry(folder: Path, key: Key, suffix: str = "") -> Path:
    """Where in the cache an entry lies, or has to go.

    One that lies under a former name of its key is given today's: it belongs to whoever finds it first, and content
    that the old name could not tell apart gets entries of its own. In a cache that cannot be written it is used as it
    lies.
    """
    place = folder / f"{key}{suffix}"
    for name in key.former:
        former = folder / f"{name}{suffix}"
        if not place.exists() and former.exists():
            try:
                os.rename(former, place)
            except OSError:
                return place if place.exists() else former
    return place


def cached_latents(
    cache: Path,
    key: Key,
    labels: Tensor,
    class_names: tuple[str, ...],
    encode: Callable[[RowWriter], None],
    *,
    shape: tuple[int, int, int],
    batch_size: int,
    dtype: type[np.floating[Any]],
) -> tuple[LatentSet, bool]:
    """The latents of ``key`` from the cache, encoded now if they are not there.

    One process at a time does this; others wait for it. What a process that was stopped had encoded is kept, checked,
    and continued by the next.

    Args:
        cache: root of the cache.
        key: what the latents depend on, hashed.
        labels: ``[N]`` class of each image.
        class_names: the dataset's classes.
        encode: appends the latents from row :attr:`RowWriter.rows` on, in order.
        shape: ``(C, H, W)`` of a latent.
        batch_size: images that are encoded together.
        dtype: in which latents are kept.

    Returns:
        The set, memory-mapped, and whether it was there already.

    Raises:
        UserError: the cached files are damaged.
        OSError: the disk has no room.
    """
    folder = cache_entry(cache / "latents", key)
    if folder.is_dir():
        return _read_latents(folder, key, labels, class_names), True
    with one_at_a_time(folder, lambda: _say_waiting(folder)):
        if folder.is_dir():
            return _read_latents(folder, key, labels, class_names), True
        partial = folder.with_name(f".{key}.partial")
        for left in folder.parent.glob(f".{key}.*"):  # earlier versions could not continue what they leave
            if left.is_dir() and left != partial:
                shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(exist_ok=True)
        try:
            with RowWriter(partial / "latents.npy", (len(labels), *shape), batch_size, dtype) as writer:
                if writer.rows:
                    print(f"latents: {writer.rows:,} of {len(labels):,} images were encoded before; continuing")
                encode(writer)
        except BaseException:
            if not _has_rows(partial):
                shutil.rmtree(partial, ignore_errors=True)
            raise
        with atomic_path(partial / "labels.npy") as file:
            np.save(file, labels.numpy())
        checksum = _checksum(partial)
        write_json(partial / "meta.json", {"format": FORMAT, "class_names": class_names, "checksum": checksum})
        os.rename(partial, folder)
        (folder / "latents.filled").unlink(missing_ok=True)
    return _read_latents(folder, key, labels, class_names), False


def _has_rows(partial: Path) -> bool:
    lines = partial / "latents.filled"
    return lines.is_file() and len(lines.read_text().splitlines()) > 1


def _say_waiting(path: Path) -> None:
    print(f"{path}: being made by another process; waiting for it", flush=True)


def _read_latents(folder: Path, key: Key, labels: Tensor, class_names: tuple[str, ...]) -> LatentSet:
    again = f"remove the folder {folder} to encode again"
    meta = read_json(folder / "meta.json", remedy=again)
    require(meta.get("format") == FORMAT, f"{folder}: cache of format {meta.get('format')}, expected {FORMAT}; {again}")
    try:
        state = tuple(file_state(folder / name) for name in ("latents.npy", "labels.npy"))
        if not is_verified(folder, state):
            require(_checksum(folder) == meta["checksum"], f"{folder}: damaged cache (checksum mismatch); {again}")
            remember_verified(folder, state)
        # mode "c": torch wants a writable array, and nothing written to it may reach the file
        latents = torch.from_numpy(np.load(folder / "latents.npy", mmap_mode="c"))
        found = LatentSet(latents, torch.from_numpy(np.load(folder / "labels.npy")), tuple(meta["class_names"]), key)
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder}: damaged cache ({error}); {again}") from error
    same = found.class_names == class_names and torch.equal(found.labels, labels)
    require(same, f"{folder}: damaged cache (its classes are not those of the dataset); {again}")
    return found


def _checksum(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in ("latents.npy", "labels.npy"):
        with (folder / name).open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def cached_prototypes(cache: Path, key: Key, find: Callable[[], PrototypeSet]) -> tuple[PrototypeSet, bool]:
    """The prototypes of ``key`` from the cache, found now if they are not there; and whether they were.

    Raises:
        UserError: the cached file is damaged.
    """
    file = cache_entry(cache / "prototypes", key, ".safetensors")
    if file.is_file():
        return _read_prototypes(file, key), True
    with one_at_a_time(file, lambda: _say_waiting(file)):
        if file.is_file():
            return _read_prototypes(file, key), True
        found = find()
        tensors = {field.name: getattr(found, field.name) for field in fields(found) if _is_tensor(found, field)}
        write_tensors(file, tensors, {"class_names": json.dumps(found.class_names), "format": str(FORMAT)})
    return found, False


def _is_tensor(prototypes: PrototypeSet, field: Any) -> bool:
    return isinstance(getattr(prototypes, field.name), Tensor)


def _read_prototypes(file: Path, key: Key) -> PrototypeSet:
    tensors, metadata = read_tensors(file, again="cluster again")
    try:
        return PrototypeSet(**tensors, class_names=tuple(json.loads(metadata["class_names"])), key=key)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: damaged file ({error}); remove it to cluster again") from error


def cached_tensor(folder: Path, key: Key, make: Callable[[], Tensor]) -> Tensor:
    """The one tensor of ``key`` in a folder of the cache, made now if it is not there.

    Raises:
        UserError: the file is damaged.
    """
    file = cache_entry(folder, key, ".safetensors")
    if not file.is_file():
        with one_at_a_time(file, lambda: _say_waiting(file)):
            if not file.is_file():
                write_tensors(file, {"tensor": make()})
    tensors, _ = read_tensors(file, again="have it made again")
    require("tensor" in tensors, f"{file}: damaged file (no tensor in it); remove it to have it made again")
    return tensors["tensor"]
