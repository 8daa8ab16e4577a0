"""The folder of an export: whole or not there, with all that is known of the set beside its data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from manifoldgd.artifacts import DistilledSet
from manifoldgd.errors import UserError, require
from manifoldgd.estimates import estimate
from manifoldgd.export.card import Facts, card
from manifoldgd.export.croissant import write_metadata
from manifoldgd.export.formats import FORMATS
from manifoldgd.files import atomic_write_text, one_at_a_time
from manifoldgd.provenance import code_version
from manifoldgd.store.keys import read_json, write_json
from manifoldgd.store.set_sources import PROVENANCE


class Judgement(TypedDict):
    """How students of one kind did that were trained on a set."""

    dataset: str
    student: str
    protocol: str
    epochs: int
    students: int
    accuracy: float  # in [0, 1], after the last epoch, mean over the students
    half: float | None  # half the 95 % interval of that mean; None for one student
    test_images: int
    test_images_in_train: int | None  # None: not counted by the version that judged


def export_set(
    made: DistilledSet,
    folder: Path,
    *,
    form: str,
    license: str | None = None,
    home: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a set for others, whole or not at all.

    Args:
        made: the set.
        folder: must not be there, or be empty.
        form: one of :data:`FORMATS`.
        license: that the set is given under, as the Hub writes it (``cc-by-4.0``); ``None``: what follows from data
            and prior where it is known, else ``unknown``.
        home: ``owner/name`` that it will have on the Hub; ``None`` for none.
        overwrite: whether an earlier export in ``folder`` is replaced. Nothing else ever is.

    Returns:
        The files, the data first.

    Raises:
        UserError: the folder holds something, or a library is missing.
        OSError: it cannot be written; what was there before stays.
    """
    require(form in FORMATS, f"expected one of {', '.join(FORMATS)}, got {form!r}; choose one", key="format")
    with one_at_a_time(folder, lambda: None):
        _check_free(folder, overwrite)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        try:
            data = FORMATS[form](made, partial)
            facts = Facts.of(made, judgements_of(made), form, license, home)
            provenance = {name: value for name, value in made.manifest.items() if name not in ("images", "remarks")}
            held = {"dataset": facts.dataset, "fingerprint": made.fingerprint, "judged": facts.judged}
            exported = {"form": form, "code_version": code_version()}
            names = {"class_names": list(made.class_names)}
            write_json(partial / PROVENANCE, {**provenance, **names, **held, "export": exported})
            atomic_write_text(partial / "README.md", card(facts))
            write_metadata(partial / "croissant.json", facts, data)
            _replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return [folder / file.relative_to(partial) for file in data] + [
        folder / name for name in ("README.md", "croissant.json", PROVENANCE)
    ]


def _check_free(folder: Path, overwrite: bool) -> None:
    there = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    require(not folder.exists() or folder.is_dir(), f"{folder} is a file; choose another one", key="output")
    if not there:
        return
    exported = PROVENANCE in there
    require(
        exported,
        f"{folder} is not empty and holds no export; choose another one",
        key="output",
    )
    require(overwrite, f"{folder} holds an export already; choose another one, or set overwrite=true", key="output")


def _replace(partial: Path, folder: Path) -> None:
    """Give a finished folder its name; one that had it before goes when that is done."""
    for file in partial.rglob("*"):
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
    former = folder.with_name(f".{folder.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        os.rename(folder, former)
    os.rename(partial, folder)
    shutil.rmtree(former, ignore_errors=True)


def judgements_of(made: DistilledSet) -> list[Judgement]:
    """What students did on exactly these images, by the records beside the set; none for one that was never judged."""
    if made.folder is None:
        return list(made.manifest.get("judged", []))
    inside = made.folder.name == "set"
    home = made.folder.parent
    records = [home / "metrics.json"] if inside else []
    records += sorted(
        home.glob("evaluation-*/metrics.json" if inside else f"{made.folder.name}-evaluation-*/metrics.json")
    )
    found = []
    for file in records:
        try:
            held = read_json(file) if file.is_file() else {}
        except UserError:
            continue  # a damaged record says nothing
        if held.get("fingerprint") == made.fingerprint and held.get("accuracy"):
            found.append(_judgement(held))
    return found


def _judgement(held: dict[str, Any]) -> Judgement:
    values: Sequence[float] = held["accuracy"]["last"]["values"]
    mean = estimate(values, of="students")
    return {
        "dataset": held["dataset"],
        "student": held["student"],
        "protocol": held["label_protocol"],
        "epochs": held["epochs"],
        "students": len(values),
        "accuracy": mean.mean,
        "half": mean.half,
        "test_images": held["test_images"],
        "test_images_in_train": held.get("test_images_in_train"),
    }
