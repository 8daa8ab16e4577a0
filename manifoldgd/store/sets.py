"""A distilled set as a folder that any tool can read: ``<class name>/<rank>.png`` and a manifest.

While a set is being made, each finished image is in place with one row in ``progress.jsonl``; a row is written after
its image, so what has a row is whole. The manifest, made of the rows in order, says that the set is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_path, atomic_write_json, atomic_write_text
from manifoldgd.provenance import code_version
from manifoldgd.store.keys import FORMAT, read_json
from manifoldgd.store.results import claim_result

Row = dict[str, Any]


def image_file(class_name: str, rank: int) -> str:
    """Path of an image inside the set's folder."""
    return f"{class_name}/{rank:05d}.png"


def to_picture(image: Tensor) -> Image.Image:
    """``[C, H, W]`` uint8 with one or three channels -> a Pillow image."""
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))


class SetWriter:
    """Writes a set image by image and takes up where an earlier process stopped.

    Args:
        folder: the set's folder; made if missing.
        class_names: the dataset's classes, by label.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder, self.class_names = folder, tuple(class_names)
        self.progress = folder / "progress.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        _end_line(self.progress)
        self.rows: dict[tuple[int, int], Row] = {}
        self.seconds = 0.0  # that the images so far took, of all processes
        for row in _whole_rows(self.progress):
            self.seconds += row.get("seconds", 0.0)
            if "file" in row and (folder / row["file"]).is_file():
                self.rows[row["label"], row["rank"]] = row

    @property
    def complete(self) -> bool:
        """Whether the manifest has been written."""
        return (self.folder / "manifest.json").is_file()

    def save(self, image: Tensor, label: int, rank: int, **facts: Any) -> None:
        """Write one image ``[C, H, W]`` uint8 and its row; ``facts`` go into the manifest."""
        row = {"file": image_file(self.class_names[label], rank), "label": label, "rank": rank, **facts}
        with atomic_path(self.folder / row["file"]) as partial:
            to_picture(image).save(partial, format="PNG")
        self._note(row)
        self.rows[label, rank] = row

    def spend(self, seconds: float) -> None:
        """Note what the images saved since the last note took, so that a later process knows."""
        self._note({"seconds": round(seconds, 3)})
        self.seconds += seconds

    def _note(self, row: Row) -> None:
        with self.progress.open("a") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self, *, ipc: int, facts: dict[str, Any], card: str) -> None:
        """Write card, metadata and, last, the manifest.

        Args:
            ipc: images a class.
            facts: resolved configuration, seed, hashes of inputs, labels of the prior.
            card: the set's README in Markdown.

        Raises:
            RuntimeError: an image is missing.
        """
        missing = [key for label in range(len(self.class_names)) for key in _keys(label, ipc) if key not in self.rows]
        if missing:
            raise RuntimeError(f"set {self.folder}: {len(missing)} images are missing, the first is {missing[0]}")
        rows = [self.rows[key] for label in range(len(self.class_names)) for key in _keys(label, ipc)]
        metadata = [
            {"file_name": row["file"], "class_name": self.class_names[row["label"]], "class_index": row["label"]}
            for row in rows
        ]
        atomic_write_text(self.folder / "metadata.jsonl", "".join(json.dumps(line) + "\n" for line in metadata))
        atomic_write_text(self.folder / "README.md", card)
        head = {"format": FORMAT, "code_version": code_version(), "ipc": ipc, "class_names": self.class_names}
        atomic_write_json(self.folder / "manifest.json", {**head, **facts, "images": rows})
        self.progress.unlink(missing_ok=True)


def _keys(label: int, ipc: int) -> list[tuple[int, int]]:
    return [(label, rank) for rank in range(ipc)]


def _whole_rows(progress: Path) -> list[Row]:
    """The rows of an earlier process; a last line cut short by a kill does not count."""
    rows = []
    for line in progress.read_text().splitlines() if progress.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def has_set(folder: Path) -> bool:
    """Whether a result folder holds a complete set."""
    return (folder / "set" / "manifest.json").is_file()


def _end_line(file: Path) -> None:
    """End the last line of a file: one that a kill cut short would swallow the next."""
    if file.is_file() and not file.read_bytes().endswith(b"\n"):
        with file.open("ab") as stream:
            stream.write(b"\n")


def copy_set(source: Path, target: Path, config: dict[str, Any]) -> None:
    """Give a result folder the complete set of another one, whole or not at all.

    Args:
        source: a result folder that :func:`has_set`.
        target: a result folder without a set; made if missing. One process at a time may write there.
        config: what the set depends on.

    Raises:
        UserError: ``target`` holds the result of another configuration.
        OSError: the folder is not writable, or the disk is full; nothing stays of the copy.
    """
    claim_result(target, "set", config)
    partial = target / ".set.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        shutil.copytree(source / "set", partial, copy_function=_copy_to_disk)
        os.rename(partial, target / "set")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_to_disk(source: str, target: str) -> None:
    """Copy a file; its content reaches the disk before the set gets its name."""
    shutil.copyfile(source, target)
    with Path(target).open("rb+") as file:
        os.fsync(file.fileno())


def load_set(folder: Path) -> DistilledSet:
    """Read a set from its folder or from the result folder around it.

    Raises:
        UserError: there is no complete set, its format is another, or an image is missing or broken.
    """
    # The folder itself first: a class may be called "set".
    folder = folder if (folder / "manifest.json").is_file() or not (folder / "set").is_dir() else folder / "set"
    require(
        (folder / "manifest.json").is_file(),
        f"set: {folder} holds no complete distilled set (no manifest.json); make one with `manifoldgd distill`",
    )
    manifest = read_json(folder / "manifest.json")
    require(
        manifest.get("format") == FORMAT,
        f"set: {folder} has format {manifest.get('format')}, expected {FORMAT}; make it again with this version",
    )
    try:
        rows = manifest["images"]
        return DistilledSet(
            images=torch.stack([_read_image(folder / row["file"]) for row in rows]),
            labels=torch.tensor([row["label"] for row in rows]),
            ranks=torch.tensor([row["rank"] for row in rows]),
            class_names=tuple(manifest["class_names"]),
            folder=folder,
            manifest=manifest,
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"set: {folder / 'manifest.json'} does not fit its images ({reason}); remove "
            f"{folder} to have the set made again"
        ) from error


def _read_image(file: Path) -> Tensor:
    try:
        with Image.open(file) as picture:
            pixels = np.array(picture)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UserError(
            f"set: {file} cannot be read ({error}); remove {file.parents[1]} to have the set made again"
        ) from error
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1).contiguous()
