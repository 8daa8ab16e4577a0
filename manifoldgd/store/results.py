"""A result folder knows which configuration it holds the result of."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_write_json
from manifoldgd.store.keys import FORMAT, essence, read_json

NOTE = "result.json"  # of what a folder holds the result


def claim_result(folder: Path, part: str, config: dict[str, Any], *, free: Collection[str] = ()) -> None:
    """Note that ``folder`` holds the result of ``config``; refuse a folder that holds another's.

    Args:
        folder: the result folder; made if missing.
        part: ``"set"`` or ``"evaluation"``: a folder may hold a set first and be judged later.
        config: the part of the configuration that the result depends on.
        free: keys of ``config`` that may differ from what is held, because the folder takes several values of them.

    Raises:
        UserError: the folder holds a result of another configuration, or foreign files.
    """
    held = check_claim(folder, part, config, free=free)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / NOTE, {**held, part: config})


def check_claim(folder: Path, part: str, config: dict[str, Any], *, free: Collection[str] = ()) -> dict[str, Any]:
    """Raise what :func:`claim_result` would raise; returns the note of the folder and writes nothing."""
    note = folder / NOTE
    config = json.loads(json.dumps(config))  # lists for tuples, as in the note
    # A process killed while it wrote the note leaves a hidden file, which is nobody's.
    visible = [entry for entry in folder.iterdir() if entry.name[0] != "."] if folder.is_dir() else []
    if visible and not note.is_file():
        raise UserError(f"output: {folder} is not empty and holds no result of ours; choose another output")
    held = read_json(note) if note.is_file() else {"format": FORMAT}
    require(
        held.get("format") == FORMAT,
        f"output: {folder} holds a result of format {held.get('format')}, expected {FORMAT}; choose another output",
    )
    differing = differences(_without(held[part], free), _without(config, free)) if part in held else []
    if differing:
        raise UserError(
            f"output: {folder} holds another config's result (different: {', '.join(differing)}); "
            "choose another output or remove the folder"
        )
    return held


def check_inputs(folder: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise :class:`UserError` where a set was made of other data, or by another prior, under the same names.

    What an older version did not note is not compared.
    """
    differing = differences(held, {name: value for name, value in wanted.items() if name in held})
    require(
        not differing,
        f"output: {folder} holds a set of other inputs of the same names (different: {', '.join(differing)}); choose "
        "another output or remove the folder",
    )


def same_config(held: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether a part of a note describes what is wanted."""
    return held is not None and not differences(_without(held, ()), _without(json.loads(json.dumps(wanted)), ()))


def _without(config: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    # Not without the data's folder, which is all that tells two image folders apart.
    return essence({key: value for key, value in config.items() if key not in keys}, apart_from=("download",))


def differences(held: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, with both values."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*held, *wanted})
            for line in differences(held.get(key), wanted.get(key), f"{prefix}{key}.")
        ]
    return [] if held == wanted else [f"{prefix.rstrip('.')} is {held!r} there, {wanted!r} here"]
