"""Names of artifacts by what they are, and JSON files that know their own checksum."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Module

from manifoldgd.artifacts import Key
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_write_json

FORMAT = 1  # of what says no other; raised when a reader of the old format would misread the new

# How files are got, which changes nothing about what they are: a hash of their content says that.
FETCHING = ("download", "revision", "autoencoder_revision", "allow_bin", "skip_bad")

CHECKSUM = "file_checksum"  # of everything else in the file that holds it


def key_of(*parts: Any) -> Key:
    """A 16-digit hexadecimal hash of JSON-able parts, the same for everyone.

    Where parts hold a :class:`Key` that had other hashes before, so had this one.
    """
    first, *others = (_short_hash(each) for each in _versions(parts))
    return Key(first, others)


def _versions(part: Any) -> Iterable[Any]:
    """What a part is, and what it was with former keys in it: every combination of them, today's first."""
    if isinstance(part, Key):
        return part.names
    if isinstance(part, list | tuple):
        return map(list, itertools.product(*map(_versions, part)))
    if isinstance(part, dict):
        combinations = itertools.product(*map(_versions, part.values()))
        return (dict(zip(part, values, strict=True)) for values in combinations)
    return (part,)


def _short_hash(part: Any) -> str:
    text = json.dumps(part, sort_keys=True, default=str)
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


def described(component: Any) -> Any:
    """An object in plain containers: the dotted name of its class and its public attributes, and so on inside.

    Equal for objects that were made alike, in any process. A class of this package is called as in a configuration.

    >>> from fractions import Fraction
    >>> described({"half": Fraction(1, 2), "list": (1, None)})
    {'half': '1/2', 'list': [1, None]}
    """
    if component is None or isinstance(component, str | int | float):
        return component
    if isinstance(component, Mapping):
        return {str(name): described(each) for name, each in component.items()}
    if isinstance(component, list | tuple):
        return [described(each) for each in component]
    if isinstance(component, Tensor):
        content = component.detach().cpu().contiguous()
        return f"{content.dtype}{list(content.shape)} {hashlib.blake2b(content.numpy().tobytes()).hexdigest()[:16]}"
    kind = component if hasattr(component, "__qualname__") else type(component)  # classes and functions by their names
    home = kind.__module__.split(".")
    name = ".".join([*(home[:2] if home[0] == "manifoldgd" else home), kind.__qualname__])
    if kind is component:
        return name
    if not hasattr(component, "__dict__"):  # fractions and the like
        return str(component)
    held = {key: each for key, each in vars(component).items() if key[0] != "_"}
    weights = component.state_dict() if isinstance(component, Module) else {}
    return {"_target_": name, **described({**held, **weights})}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object with its checksum in it, whole or not at all.

    Raises:
        TypeError, ValueError: as :func:`~manifoldgd.files.atomic_write_json`.
    """
    atomic_write_json(path, sealed(value))


def read_json(path: Path, *, remedy: str | None = None) -> dict[str, Any]:
    """The object in a JSON file, without its checksum.

    Files of earlier versions hold no checksum and are read as they are.

    Args:
        path: the file.
        remedy: what to do if it is damaged; ``None`` for a file that is made again when it is gone.

    Raises:
        UserError: it is unreadable, holds no object, or does not match its checksum; the line names it.
    """
    remedy = remedy or "restore it, or remove it to have it made again"
    try:
        held = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}); {remedy}") from error
    require(isinstance(held, dict), f"{path}: holds no JSON object; {remedy}")
    require(is_intact(held), f"{path}: does not match its checksum, so it was damaged or edited; {remedy}")
    held.pop(CHECKSUM, None)
    return held


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """An object with a last entry that is the checksum of the others."""
    value = {name: each for name, each in value.items() if name != CHECKSUM}
    return {**value, CHECKSUM: _checksum(value)}


def is_intact(held: dict[str, Any]) -> bool:
    """Whether an object has its own checksum, or none and is of an earlier version."""
    others = {name: each for name, each in held.items() if name != CHECKSUM}
    if CHECKSUM in held:
        return held[CHECKSUM] == _checksum(others)
    return not _lost_its_name(held)


def _lost_its_name(held: dict[str, Any]) -> bool:
    """Whether one entry is the checksum of the others: damage to the word must not pass for an earlier version."""
    texts = [name for name, each in held.items() if isinstance(each, str) and len(each) == 2 * _CHECKSUM_BYTES]
    return any(held[one] == _checksum({name: each for name, each in held.items() if name != one}) for one in texts)


_CHECKSUM_BYTES = 16


def _checksum(value: dict[str, Any]) -> str:
    """Of the text that ``json.dumps(value, sort_keys=True)`` gives, which is never whole: a list may be long."""
    digest = hashlib.blake2b(digest_size=_CHECKSUM_BYTES)

    def take(text: str) -> None:
        digest.update(text.encode("utf-8", "surrogatepass"))

    for place, name in enumerate(sorted(value)):
        take(f"{', ' if place else '{'}{json.dumps(name)}: ")
        each = value[name]
        if isinstance(each, list) and each:
            for number, row in enumerate(each):
                take(f"{', ' if number else '['}{json.dumps(row, sort_keys=True)}")
            take("]")
        else:
            take(json.dumps(each, sort_keys=True))
    take("}" if value else "{}")
    return digest.hexdigest()
