"""``manifoldgd COMMAND --help``: the keys that the command uses, for the chosen members, with their meaning."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from manifoldgd.cli.compose import Config
from manifoldgd.cli.reference import ROOT, TARGET, Key, Member, read_reference
from manifoldgd.cli.used import USED_KEYS

WIDEST = 140  # characters of a line, on however wide a terminal
KEY_COLUMN = 40  # characters of `key = value`; what is longer has its meaning on the next line


def command_help(
    command: str,
    meaning: str,
    examples: Sequence[str],
    config: Config,
    conf: Path,
) -> str:
    """What a command can be told.

    Args:
        command: the command word.
        meaning: what it does.
        examples: command lines.
        config: composed as the command would, so that values and keys are those of the chosen members.
        conf: configuration folder, whose comments say what keys mean.
    """
    used, choices = USED_KEYS[command], config.hydra.runtime.choices
    reference, width = read_reference(conf), _width()
    parts = [
        f"manifoldgd {command}: {meaning}",
        f"usage: manifoldgd {command} [group=member ...] [key=value ...] [--multirun] [--cfg job] [--help]",
        "\n".join(["Examples:", *(f"  {each}" for each in examples)]),
        "Members of each group, the chosen one in brackets; what belongs to another shows with group=member --help:",
        "\n".join(_choices(reference, choices, used, width)),
        "Keys and their values:",
        "\n".join(_plain(config.values, reference, used, width)),
    ]
    for group in sorted(used & choices.keys()):
        parts.append("\n".join(_group(group, config.values, reference, choices, width)))
    return "\n\n".join(part for part in parts if part)


def plain_keys(conf: Path, name: str) -> Iterator[str]:
    """The keys of a file of ``conf`` that belongs to no group, with the values that it states."""
    (file,) = (each for each in read_reference(conf) if (each.group, each.name) == (ROOT, name))
    for key in file.keys:
        yield from _entry(f"  {key.name}={key.default}", key.text, _width(), column=28)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, WIDEST)


def _choices(reference: Sequence[Member], choices: Mapping[str, str], used: set[str], width: int) -> Iterator[str]:
    members: dict[str, list[str]] = {}
    for each in reference:
        if each.group != ROOT and each.group.partition("/")[0] in used:
            members.setdefault(each.group, []).append(each.name)
    for group, names in members.items():
        shown = " ".join(f"[{name}]" if choices.get(group) == name else name for name in names)
        yield from _entry(group, shown, width, column=24)


def _plain(config: DictConfig, reference: Sequence[Member], used: set[str], width: int) -> Iterator[str]:
    """The keys of ``config.yaml`` itself."""
    (root,) = (each for each in reference if each.group == ROOT and each.name == "config")
    for key in root.keys:
        if key.name.partition(".")[0] in used:
            yield from _entry(f"{key.name} = {_spelled(OmegaConf.select(config, key.name))}", key.text, width)


def _group(
    group: str, config: DictConfig, reference: Sequence[Member], choices: Mapping[str, str], width: int
) -> Iterator[str]:
    """The keys of a group's chosen member, and of what stands inside it."""
    owners = _owners(reference, choices)
    chosen = owners.get(group)
    if chosen is None or not OmegaConf.is_dict(config.get(group)):
        return
    yield f"{group}={chosen.name}"
    yield from textwrap.wrap(chosen.text, width, initial_indent="  ", subsequent_indent="  ")
    for name, value, target in _leaves(config[group], group):
        known = _meaning(name, target, owners, reference)
        yield from _entry(f"  {name} = {_spelled(value)}", known, width)


def _leaves(node: DictConfig, path: str) -> Iterator[tuple[str, Any, str | None]]:
    """Name, value and what takes it, of every key below a node."""
    target = None if OmegaConf.is_missing(node, TARGET) else node.get(TARGET)
    for key in map(str, node):
        if key == TARGET:
            continue
        value: Any = "???" if OmegaConf.is_missing(node, key) else node[key]
        if OmegaConf.is_dict(value) and (TARGET in value or target is None):
            yield from _leaves(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value, target


def _owners(reference: Sequence[Member], choices: Mapping[str, str]) -> dict[str, Member]:
    """The chosen members, by where their keys lie: ``student.protocol``."""
    by_name = {(each.group, each.name): each for each in reference}
    placed = {(*choice.partition("@")[::2], name) for choice, name in choices.items()}
    return {
        place or group.replace("/", "."): by_name[group, name]
        for group, place, name in placed
        if (group, name) in by_name
    }


def _meaning(name: str, target: str | None, owners: Mapping[str, Member], reference: Sequence[Member]) -> str:
    """The comment of a key: of the member that was chosen where it lies or one that it builds on, else of any file.

    Of those, files that give the same thing the same key come first.
    """
    path, _, last = name.rpartition(".")
    while path not in owners:
        path = path.rpartition(".")[0]
    # By its last word: a member whose group has several places is read at one of them.
    inside = len(name[len(path) :].split(".")) == 2

    def same_use(key: Key) -> bool:
        return target is not None and key.target == target and key.name.rpartition(".")[2] == last

    own = list(_lineage(owners[path], reference))
    everywhere = [key for each in reference for key in each.keys]
    candidates = [
        *(key for each in own for key in each.keys if key.name == name),
        *(key for each in own for key in each.keys if inside and key.name.rpartition(".")[2] == last),
        *(key for key in everywhere if same_use(key)),
        *(key for key in everywhere if key.name == name),
    ]
    return next((key.text for key in candidates if key.text), "")


def _lineage(member: Member, reference: Sequence[Member]) -> Iterator[Member]:
    """A member, and those whose keys it takes, nearest first."""
    yield member
    for name in reversed(member.builds_on):
        inner, _, last = name.rpartition("/")
        group = f"{member.group}/{inner}" if inner else member.group
        for each in reference:
            if (each.group, each.name) == (group, last):
                yield from _lineage(each, reference)


def _spelled(value: Any) -> str:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace("'", "") if isinstance(value, list) else str(value)


def _entry(left: str, right: str, width: int, *, column: int = KEY_COLUMN) -> Iterator[str]:
    """Two columns; one below the other where the left one is too wide."""
    lines = textwrap.wrap(right, max(20, width - column)) or [""]
    if len(left) < column:
        yield f"{left:{column}}{lines.pop(0)}".rstrip()
    else:
        yield left
    yield from (f"{'':{column}}{line}" for line in lines if line)
