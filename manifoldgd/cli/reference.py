"""What every key of ``conf/`` means, read from the comments beside the keys.

A line ``key: value  # meaning, unit, range, source`` documents one key. Structure comes from the YAML parser and
comments from the text, so that the reference holds what the files hold: nothing is composed, imported or evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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
    files = sorted(conf.rglob("*.yaml"), key=lambda file: (_group(file, conf), file.stem))
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    trees = {file: yaml.compose(text, yaml.SafeLoader) for file, text in texts.items()}
    # A group that the whole configuration has, or members of the group above it, keeps its own name, wherever else a
    # file puts members of it.
    own = {
        f"{_group(file, conf)}/{group}".lstrip("/")
        for file, tree in trees.items()
        for group, member in _defaults(tree)
        if member is not None and not group.startswith("/")
    }
    packages = {
        group: place
        for file, tree in trees.items()
        for group, place in _placed(_group(file, conf), tree)
        if group not in own
    }
    return [
        _member(_group(file, conf), file.stem, text, packages.get(_group(file, conf), _group(file, conf)))
        for file, text in texts.items()
    ]


def _group(file: Path, conf: Path) -> str:
    folder = file.parent.relative_to(conf).as_posix()
    return ROOT if folder == "." else folder


def _placed(group: str, node: yaml.Node | None) -> Iterator[tuple[str, str]]:
    """Groups that a file of ``group`` puts elsewhere (``/student/teacher@teacher``), with that place."""
    for entry, _ in _defaults(node) if group else ():
        other, at, package = entry.partition("@")
        if package == HERE:
            yield f"{group}/{other.rpartition('/')[0]}", group
        if at and other.startswith("/") and not package.startswith("_global_"):
            yield other.removeprefix("/"), f"{group}/{package.replace('.', '/')}"


def _defaults(node: yaml.Node | None) -> list[tuple[str, str | None]]:
    """The defaults list: ``(group, member)`` and ``(member of the own group, None)``."""
    found: list[tuple[str, str | None]] = []
    for key, value in _items(node):
        if key.value == DEFAULTS and isinstance(value, yaml.SequenceNode):
            for each in value.value:
                if isinstance(each, yaml.MappingNode):
                    found += [(name.value.removeprefix("override "), member.value) for name, member in each.value]
                elif each.value != "_self_":
                    found.append((each.value, None))
    return found


def _items(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _member(group: str, name: str, text: str, package: str) -> Member:
    node, lines = yaml.compose(text, yaml.SafeLoader), text.splitlines()
    targets = [value.value for key, value in _items(node) if key.value == TARGET]
    prefix = "" if _global(lines) or not package else package.replace("/", ".") + "."
    return Member(
        group=group,
        name=name,
        text=_head(lines),
        target=targets[0] if targets else None,
        builds_on=tuple(entry.removesuffix(f"@{HERE}") for entry, member in _defaults(node) if member is None),
        keys=tuple(_keys(node, prefix, lines)),
    )


def _global(lines: list[str]) -> bool:
    return any(line.startswith("# @package _global_") for line in lines)


def _head(lines: list[str]) -> str:
    """The comment lines at the start of a file, without Hydra's own directive."""
    found = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            found.append(line.lstrip("#").strip())
    return " ".join(found)


def _keys(node: yaml.Node | None, prefix: str, lines: list[str]) -> Iterator[Key]:
    target = next((value.value for key, value in _items(node) if key.value == TARGET), None)
    for key, value in _items(node):
        if key.value in HIDDEN:
            continue
        # A whole of keys is walked into, unless the comment beside it describes it as one value: a mapping of labels.
        own = _comment(lines, key, value)
        if isinstance(value, yaml.MappingNode) and value.value and not (own and TARGET not in _names(value)):
            yield from _keys(value, f"{prefix}{key.value}.", lines)
        else:
            above = _above(lines, key.start_mark.line)
            text = " ".join(part for part in (above, own) if part)
            yield Key(f"{prefix}{key.value}", _spelled(value), text, target)


def _names(node: yaml.Node) -> set[str]:
    return {key.value for key, _ in _items(node)}


def _comment(lines: list[str], key: yaml.Node, value: yaml.Node) -> str:
    """What stands behind the value, or behind the key where the value begins below it."""
    below = value.start_mark.line > key.start_mark.line
    end = key.end_mark if below else value.end_mark
    if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"):
        return ""  # a block of text: its lines are the value
    found = _COMMENT.search(lines[end.line][end.column :]) if end.line < len(lines) else None
    return found[1].strip() if found else ""


def _above(lines: list[str], line: int) -> str:
    """Comment lines of their own right above a key, as deep as the key; not the head of the file."""
    indent = len(lines[line]) - len(lines[line].lstrip())
    found: list[str] = []
    while line > 0 and re.match(rf" {{{indent}}}#", lines[line - 1]):
        line -= 1
        found.insert(0, lines[line].strip().lstrip("#").strip())
    return " ".join(found) if line > 0 else ""


def _spelled(value: yaml.Node) -> str:
    """The value as it stands in the file; what takes many lines, by its length."""
    source = value.start_mark.buffer
    if isinstance(value, yaml.ScalarNode):
        return value.value if value.style else value.value or "null"
    if value.start_mark.line == value.end_mark.line and source is not None:
        return source[value.start_mark.pointer : value.end_mark.pointer]
    return f"{len(value.value)} entries"
