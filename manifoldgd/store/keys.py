"""Names of artifacts by what they are, and the format all files share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from manifoldgd.errors import UserError, require

FORMAT = 1  # of everything on disk; raised when a reader of the old format would misread the new


def key_of(*parts: Any) -> str:
    """A 16-digit hexadecimal hash of JSON-able parts, the same for everyone."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def essence(config: Any, *, apart_from: Collection[str]) -> Any:
    """A configuration without some keys and without nulls: a null switches something off, as if the key were not there.

    Args:
        config: plain containers; what is no mapping is returned as it is.
        apart_from: names of the keys, on every level.
    """
    if not isinstance(config, dict):
        return config
    kept = {name: each for name, each in config.items() if each is not None and name not in apart_from}
    return {name: essence(each, apart_from=apart_from) for name, each in kept.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a file that is unreadable or holds none is a :class:`UserError` that names it."""
    try:
        held = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it to have it made again") from error
    require(isinstance(held, dict), f"{path}: holds no JSON object; remove it to have it made again")
    return held
