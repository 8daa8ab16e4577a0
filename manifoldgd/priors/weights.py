"""Whether weight files are what their makers wrote, and what a prior is called by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from manifoldgd.artifacts import Key
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_write_json, content_hash

CHECKSUMS = "checksums.json"  # beside weights that this package ships or trained: relative path -> hash of the file
_NOT_LISTED = (CHECKSUMS, "README.md", "samples.png")  # what decides nothing

_FORMER_BYTES = 1 << 20  # of both ends of each file, all that the first version hashed


def write_checksums(folder: Path) -> None:
    """List the files under ``folder`` with their hashes, for :func:`check_files`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and _is_listed(file, folder))
    atomic_write_json(folder / CHECKSUMS, {str(file.relative_to(folder)): content_hash(file) for file in files})


def _is_listed(file: Path, folder: Path) -> bool:
    place = file.relative_to(folder)
    # Checkpoints of the training go when it is done.
    return place.name not in _NOT_LISTED and place.parts[0] != "training" and not place.name.startswith(".")


def check_files(folder: Path, key: str, parts: Mapping[str, Path], *, remedy: str) -> None:
    """Raise :class:`UserError` unless files are what they were when they were written.

    Beside bundled and trained weights lies :data:`CHECKSUMS`. In the cache of the Hugging Face hub a file is a link to
    a blob that is called by its hash: SHA-256 for large files, that of Git for small ones. Other files have nothing to
    be compared with.

    Args:
        folder: of the weights.
        key: of the configuration, for the message.
        parts: what will be read: folders, or files.
        remedy: what to do about a damaged file, for the message.
    """
    for name, known in _listed(folder, key, remedy).items():
        file = folder / name
        require(file.is_file(), f"{file} is missing; {remedy}", key=key)
        require(content_hash(file) == known, f"{file} is damaged (checksum mismatch); {remedy}", key=key)
    for part in parts.values():
        for file in sorted(part.iterdir()) if part.is_dir() else [part]:
            if file.is_symlink() and (blob := file.resolve()).parent.name == "blobs":
                require(
                    _hub_hash(blob) == blob.name,
                    f"{file} is damaged (checksum mismatch); remove {blob} and {file} to have it downloaded again",
                    key=key,
                )


def _listed(folder: Path, key: str, remedy: str) -> dict[str, Any]:
    file = folder / CHECKSUMS
    if not file.is_file():
        return {}
    try:
        held = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); {remedy}", key=key) from error
    places = [PurePosixPath(name) for name in held] if isinstance(held, dict) else []
    inside = places and not any(place.is_absolute() or ".." in place.parts for place in places)
    require(bool(inside), f"{file} is damaged (no list of files); {remedy}", key=key)
    return held


def _hub_hash(blob: Path) -> str:
    """The hash by which the hub's cache calls a file, or the name itself where it is no hash that is known."""
    if len(blob.name) == 64:
        return content_hash(blob, "sha256")
    if len(blob.name) == 40:
        data = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return blob.name


def weights_key(transformer: Path, autoencoder: Path, scheduler: Path, *others: Path) -> Key:
    """What caches and results know a prior by: a hash of all files that decide what it computes.

    Those are the weights and configurations of both networks, whole, and the scheduler's configuration, which holds the
    noise levels; of a prior that is told words, ``others`` are its text encoders. The first version hashed both ends of
    the files of the networks; that hash is the former one.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part, folder in (("transformer", transformer), ("vae", autoencoder), *((each.name, each) for each in others)):
        _update(digest, part, folder)
    digest.update(f"scheduler:{content_hash(scheduler)}\n".encode())
    return Key(digest.hexdigest(), [_former_key(transformer, autoencoder)])


def autoencoder_key(folder: Path) -> str:
    """What latents are known by: a hash of the weights and configurations of the autoencoder."""
    digest = hashlib.blake2b(digest_size=16)
    _update(digest, "vae", folder)
    return digest.hexdigest()


def _update(digest: hashlib.blake2b, part: str, folder: Path) -> None:
    for file in _loaded(folder):
        digest.update(f"{part}/{file.name}:{content_hash(file)}\n".encode())


def _loaded(folder: Path) -> list[Path]:
    """The files that diffusers reads: where there are safetensors, no pickles."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return [*weights, *sorted(folder.glob("*.json"))]


def _former_key(*folders: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for folder in folders:
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("config.json")]):
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}:".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(_FORMER_BYTES))
                stream.seek(max(0, size - _FORMER_BYTES))
                digest.update(stream.read(_FORMER_BYTES))
    return digest.hexdigest()
