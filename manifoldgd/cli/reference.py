"""What every key of ``conf/`` means, read from the comments beside the keys.

A line ``key: value  # meaning, unit, range, source`` documents one key. Structure comes from the YAML parser and
comments from the text, so that the reference holds what the files hold: nothing is composed, imported or evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

TARGET, DEFAULTS = "_target_", "defaults"
HIDDEN = {TARGET, DEFAULTS, "hydra"}  # told otherwise, or not the project's own
HERE = "_here_"  # Hydra's word for the place of the file that asks for another
ROOT = ""  # group of the files that lie in no group
_COMMENT = re.compile(r"(?:^|\s)#\s?(.*)$")


@dataclass(frozen=True)
class Key:
    """One key of one file."""

    name: str  # as on a command line, with all dots: guidance.then.rate
    default: str  # as the file writes it; mappings and long lists by their length
    text: str  # meaning, unit, range, source; empty where the file says nothing
    target: str | None = None  # what takes it, a dotted path, where the same file says so


@dataclass(frozen=True)
class Member:
    """One file: a choice ``group=name``, or a configuration that belongs to no group."""

    group: str  # as on a command line: clusterer/space
    name: str
    text: str  # the comment at the head of the file
    target: str | None  # what it builds, a dotted path
    builds_on: tuple[str, ...]  # members of the same group, or of one inside it, whose keys it has besides its own
    keys: tuple[Key, ...]


def read_reference(conf: Path) -> list[Member]:
    """Every file of a configuration folder, sorted by group and name.

    Args:
        conf: folder with ``config.yaml``; each folder in it is a group.
    """
    files = sorted((_File(file, conf) for file in conf.rglob("*.yaml")), key=lambda file: (file.group, file.name))
    # A group that the whole configuration has, or members of the group above it, keeps its own name, wherever else a
    # file puts members of it.
    own = {
        f"{file.group}/{group}".lstrip("/")
        for file in files
        for group, member in file.defaults
        if member is not None and not group.startswith("/")
    }
    places: dict[str, str] = {}  # the first, of a group that several files ask for
    for file in files:
        for group, place in file.placed():
            if group not in own:
                places.setdefault(group, place)
    return [file.member(places.get(file.group, file.group)) for file in files]


class _File:
    """A file of the folder, as text and as nodes."""

    def __init__(self, file: Path, conf: Path) -> None:
        folder = file.parent.relative_to(conf).as_posix()
        self.group, self.name = ROOT if folder == "." else folder, file.stem
        text = file.read_text(encoding="utf-8")
        self.lines, self.node = text.splitlines(), yaml.compose(text, yaml.SafeLoader)

    @cached_property
    def defaults(self) -> list[tuple[str, str | None]]:
        """The defaults list: ``(group, member)`` and ``(member of the own group, None)``."""
        found: list[tuple[str, str | None]] = []
        for each in next((value.value for key, value in _items(self.node) if key.value == DEFAULTS), ()):
            if isinstance(each, yaml.MappingNode):
                found += [(name.value.removeprefix("override "), member.value) for name, member in each.value]
            elif each.value != "_self_":
                found.append((each.value, None))
        return found

    def placed(self) -> Iterator[tuple[str, str]]:
        """Groups that the file puts elsewhere (``/student/teacher@teacher``), with that place."""
        for entry, _ in self.defaults if self.group else ():
            other, at, package = entry.partition("@")
            if package == HERE:
                yield f"{self.group}/{other.rpartition('/')[0]}", self.group
            if at and other.startswith("/") and not package.startswith("_global_"):
                yield other.removeprefix("/"), f"{self.group}/{package.replace('.', '/')}"

    def member(self, place: str) -> Member:
        """The file, whose keys lie at ``place``."""
        head = []
        for line in self.lines:
            if not line.startswith("#"):
                break
            head.append(line.lstrip("#").strip())
        whole = "@package _global_" in head
        return Member(
            group=self.group,
            name=self.name,
            text=" ".join(line for line in head if not line.startswith("@package")),
            target=_target(self.node),
            builds_on=tuple(entry.removesuffix(f"@{HERE}") for entry, member in self.defaults if member is None),
            keys=tuple(self._keys(self.node, "" if whole or not place else place.replace("/", ".") + ".")),
        )

    def _keys(self, node: yaml.Node | None, prefix: str) -> Iterator[Key]:
        for key, value in _items(node):
            if key.value in HIDDEN:
                continue
            # A whole of keys is walked into, unless a comment beside it describes it as one value: labels by name.
            beside = self._beside(key, value)
            if isinstance(value, yaml.MappingNode) and value.value and (not beside or _target(value)):
                yield from self._keys(value, f"{prefix}{key.value}.")
            else:
                text = " ".join(filter(None, (self._above(key.start_mark.line), beside)))
                yield Key(f"{prefix}{key.value}", _spelled(value), text, _target(node))

    def _beside(self, key: yaml.Node, value: yaml.Node) -> str:
        """What stands behind the value, or behind the key where the value begins below it."""
        if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"):
            return ""  # a block of text: its lines are the value
        end = key.end_mark if value.start_mark.line > key.start_mark.line else value.end_mark
        found = _COMMENT.search(self.lines[end.line][end.column :]) if end.line < len(self.lines) else None
        return found[1].strip() if found else ""

    def _above(self, line: int) -> str:
        """Comment lines of their own right above a key, as deep as the key; not the head of the file."""
        indent = len(self.lines[line]) - len(self.lines[line].lstrip())
        found: list[str] = []
        while line > 0 and re.match(rf" {{{indent}}}#", self.lines[line - 1]):
            line -= 1
            found.insert(0, self.lines[line].strip().lstrip("#").strip())
        return " ".join(found) if line > 0 else ""


def _items(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _target(node: yaml.Node | None) -> str | None:
    return next((value.value for key, value in _items(node) if key.value == TARGET), None)


def _spelled(value: yaml.Node) -> str:
    """The value as it stands in the file; what takes many lines, by its length."""
    source = value.start_mark.buffer
    if isinstance(value, yaml.ScalarNode):
        return value.value if value.style else value.value or "null"
    if value.start_mark.line == value.end_mark.line and source is not None:
        return source[value.start_mark.pointer : value.end_mark.pointer]
    return f"{len(value.value)} entries"
