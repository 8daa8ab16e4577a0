"""A result folder knows which configuration it holds the result of."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from manifoldgd.artifacts import Key
from manifoldgd.errors import UserError, require
from manifoldgd.store.keys import FETCHING, FORMAT, essence, read_json, write_json

NOTE = "result.json"  # of what a folder holds the result
PAGE = "report.html"  # in a result folder; written last, so a result with a page is whole


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
    write_json(folder / NOTE, {**held, part: config})


def check_claim(folder: Path, part: str, config: dict[str, Any], *, free: Collection[str] = ()) -> dict[str, Any]:
    """Raise what :func:`claim_result` would raise; returns the note of the folder and writes nothing."""
    note = folder / NOTE
    # A process killed while it wrote the note leaves a hidden file, which is nobody's.
    visible = [entry for entry in folder.iterdir() if entry.name[0] != "."] if folder.is_dir() else []
    if visible and not note.is_file():
        raise UserError(f"{folder} is not empty and holds no result of ours; choose another one", "output")
    # Without its note the folder would be taken for a foreign one.
    remedy = f"remove the folder {folder} to have it made again"
    held: dict[str, Any] = read_json(note, remedy=remedy) if note.is_file() else {"format": FORMAT}
    require(
        held.get("format") == FORMAT,
        f"{folder} holds a result of format {held.get('format')}, expected {FORMAT}; choose another one",
        key="output",
    )
    differing = differences(_without(held[part], free), _without(_as_noted(config), free)) if part in held else []
    if differing:
        raise UserError(
            f"{folder} holds another config's result (different: {', '.join(differing)}); choose another one or "
            "remove it",
            "output",
        )
    return held


def check_inputs(folder: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise :class:`UserError` where a set was made of other data, or by another prior, under the same names.

    What an older version did not note is not compared.
    """
    differing = differences(held, {name: value for name, value in wanted.items() if name in held})
    require(
        not differing,
        f"{folder} holds a set of other inputs of the same names (different: {', '.join(differing)}); choose another "
        "one or remove it",
        key="output",
    )


def same_where_held(held: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether what is held says nothing else of what is wanted; what an older version did not note says nothing."""
    return not any(differences(held[name], value) for name, value in wanted.items() if name in held)


def same_config(held: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether a part of a note describes what is wanted."""
    return held is not None and not differences(_without(held, ()), _without(_as_noted(wanted), ()))


def _without(config: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    # Not without the data's folder, which is all that tells two image folders apart.
    return essence({key: value for key, value in config.items() if key not in keys}, apart_from=FETCHING)


def differences(held: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, with both values; a former hash of a wanted :class:`Key` is no difference."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*held, *wanted})
            for line in differences(held.get(key), wanted.get(key), f"{prefix}{key}.")
        ]
    same = held == wanted or (isinstance(wanted, Key) and held in wanted.former)
    return [] if same else [f"{prefix.rstrip('.')} is {held!r} there, {wanted!r} here"]


def _as_noted(value: Any) -> Any:
    """What comes back from a JSON file: lists for tuples, text for the names of entries. A :class:`Key` stays one."""
    if isinstance(value, dict):
        return {name if isinstance(name, str) else json.dumps(name): _as_noted(each) for name, each in value.items()}
    return [_as_noted(each) for each in value] if isinstance(value, list | tuple) else value
