"""A result folder knows which configuration it holds the result of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_write_json
from manifoldgd.store.keys import FORMAT, read_json


def claim_result(folder: Path, part: str, config: dict[str, Any]) -> None:
    """Note that ``folder`` holds the result of ``config``; refuse a folder that holds another's.

    Args:
        folder: the result folder; made if missing.
        part: ``"set"`` or ``"evaluation"``: a folder may hold a set first and be judged later.
        config: the part of the configuration that the result depends on.

    Raises:
        UserError: the folder holds a result of another configuration, or foreign files.
    """
    note = folder / "result.json"
    config = json.loads(json.dumps(config))
    if folder.is_dir() and not note.is_file() and any(folder.iterdir()):
        raise UserError(f"output: {folder} is not empty and holds no result of ours; choose another output")
    held = read_json(note) if note.is_file() else {"format": FORMAT}
    require(
        held.get("format") == FORMAT,
        f"output: {folder} holds a result of format {held.get('format')}, expected {FORMAT}; choose another output",
    )
    if part in held and held[part] != config:
        differing = ", ".join(_differences(held[part], config))
        raise UserError(
            f"output: {folder} holds another config's result (different: {differing}); "
            "choose another output or remove the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(note, {**held, part: config})


def _differences(held: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, with both values."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*held, *wanted})
            for line in _differences(held.get(key), wanted.get(key), f"{prefix}{key}.")
        ]
    return [] if held == wanted else [f"{prefix.rstrip('.')} is {held!r} there, {wanted!r} here"]
