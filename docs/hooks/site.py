"""What mkdocs puts into the pages: keys of ``conf/``, numbers of the records, files of the repository, formulas.

Pages hold markers; nothing that stands in a file of the repository is written down a second time:

* ``<!-- keys: guidance -->`` the keys of a configuration group, from the comments in ``conf/``; without a group
  those of ``config.yaml``;
* ``<!-- record: fashion_mnist -->`` a recorded table, from ``experiments/``;
* ``<!-- published: fashion_mnist dc -->`` published accuracies of a dataset and a number family;
* ``<!-- priors -->`` the bundled priors, from the cards beside their weights;
* ``<!-- file: CHANGELOG.md -->`` a file of the repository's root;
* ``{{ accuracy TABLE COLUMN METHOD }}`` and ``{{ difference TABLE COLUMN METHOD BASELINE }}`` within a sentence.

A marker that names something that is not there stops the build. Formulas become MathML, which browsers draw by
themselves: no script, no font and no other host is needed to read the site.
"""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from latex2mathml.converter import convert

from manifoldgd.cli.reference import Key, Member, read_reference
from manifoldgd.estimates import Estimate, estimate
from manifoldgd.study.statistics import paired_difference

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
PUBLISHED = ROOT / "manifoldgd" / "study" / "published_results.csv"
MARKER = re.compile(r"^<!-- (\w+)(?:: (.+?))? -->$", re.MULTILINE)
INLINE = re.compile(r"\{\{ (\w+) (.+?) \}\}")
LEFT = re.compile(r"<!--.*|\{\{.*")
ELSEWHERE = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill the markers of a page; mkdocs calls this."""
    blocks: dict[str, Callable[..., str]] = {
        "keys": _keys,
        "record": _record,
        "published": _published,
        "priors": _priors,
        "file": _file,
    }
    numbers: dict[str, Callable[..., str]] = {"accuracy": _accuracy, "difference": _difference}
    markdown = MARKER.sub(lambda found: blocks[found[1]](*(found[2] or "").split()), markdown)
    markdown = INLINE.sub(lambda found: numbers[found[1]](*found[2].split()), markdown)
    if left := LEFT.search(markdown):
        raise ValueError(
            f"{page.file.src_path}: {left[0]} fills nothing; write it as the head of docs/hooks/site.py says"
        )
    return markdown


def on_page_content(content: str, **_: object) -> str:
    """Formulas to MathML; mkdocs calls this."""
    return FORMULA.sub(
        lambda found: convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline"), content
    )


def on_post_page(output: str, page: Any, **_: object) -> str:
    """Refuse what a reader without a network would miss; mkdocs calls this."""
    if found := ELSEWHERE.search(output):
        raise ValueError(f"{page.file.src_path}: {found[0]} is fetched from another host; bring it into docs/")
    return output


# Configuration


@cache
def _reference() -> list[Member]:
    return read_reference(ROOT / "conf")


def _keys(group: str = "") -> str:
    """Every member of a group; without a group the keys of ``config.yaml``."""
    members = [each for each in _reference() if each.group == group and (group or each.name == "config")]
    if not members:
        raise ValueError(f"keys: no group {group!r} in conf/")
    return "\n\n".join(_member(each) for each in members)


def _member(member: Member) -> str:
    parts = (
        [f"### `{member.group}={member.name}` {{ #{member.group.replace('/', '-')}-{member.name} }}"]
        if member.group
        else []
    )
    parts += [_escaped(member.text)] if member.text and member.group else []
    if member.target:
        parts.append(f"Builds `{member.target}`.")
    if member.builds_on:
        parts.append(f"Takes the keys of {', '.join(f'`{each}`' for each in member.builds_on)} and sets:")
    if member.keys:
        parts.append(
            _table(("key", "value", "meaning, unit, range, source"), (_key(each, member) for each in member.keys))
        )
    return "\n\n".join(parts)


def _key(key: Key, member: Member) -> tuple[str, str, str]:
    inherited = f"as in {' or '.join(f'`{each}`' for each in member.builds_on)}" if member.builds_on else ""
    return f"`{key.name}`", f"`{_cell(key.default)}`", _cell(_escaped(key.text or inherited))


# Records


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@cache
def _results(table: str) -> dict[tuple[str, str], dict[tuple[int, int], float]]:
    """``(column, method)`` -> ``(distillation seed, student seed)`` -> accuracy in [0, 1]."""
    found: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
    for row in _rows(EXPERIMENTS / table / "results.csv"):
        cell = found.setdefault((row["column"], row["method"]), {})
        cell[int(row["seed"]), int(row["student_seed"])] = float(row["last_top1"])
    return found


def _record(table: str) -> str:
    definition = yaml.safe_load((EXPERIMENTS / table / "table.yaml").read_text(encoding="utf-8"))
    rows = _rows(EXPERIMENTS / table / "table.csv")
    columns, methods = (
        list(dict.fromkeys(row["column"] for row in rows)),
        list(dict.fromkeys(row["method"] for row in rows)),
    )
    cells = {(row["column"], row["method"]): row for row in rows}
    titles = {row["column"]: f"{row['student']}, {row['ipc']} a class" for row in rows}
    first = rows[0]
    head = f"{first['dataset']}, `{first['label_protocol']}`, {first['split']} split; last epoch, %"
    body = [(f"`{method}`", *(_recorded(cells.get((column, method))) for column in columns)) for method in methods]
    notes = [f"- {_escaped(note)}" for note in definition.get("notes", ())]
    baseline = first["baseline"]
    marks = f"▲ better, ▼ worse than `{baseline}` on the same seeds." if baseline else ""
    return "\n\n".join(
        part
        for part in (
            f"*{definition['question'].strip()}* Command: `manifoldgd table table={table}`.",
            f"{head}. {marks}",
            _table(("method", *(titles[column] for column in columns)), body),
            "\n".join(notes),
        )
        if part
    )


def _recorded(row: dict[str, str] | None) -> str:
    if row is None or not row["last_top1"]:
        return ""
    mark = {"better": " ▲", "worse": " ▼"}.get(row["verdict"], "")
    if not row["last_top1_low"]:
        return f"{100 * float(row['last_top1']):.1f}{mark} (one set)"
    half = (float(row["last_top1_high"]) - float(row["last_top1_low"])) / 2
    return f"{100 * float(row['last_top1']):.1f} ± {100 * half:.1f}{mark}"


def _accuracy(table: str, column: str, method: str) -> str:
    by_set: dict[int, list[float]] = {}
    for (seed, _), value in _results(table)[column, method].items():
        by_set.setdefault(seed, []).append(value)
    return _points(estimate([sum(each) / len(each) for each in by_set.values()]))


def _difference(table: str, column: str, method: str, baseline: str) -> str:
    results = _results(table)
    found = paired_difference(results[column, method], results[column, baseline])
    if found is None:
        raise ValueError(f"difference: {method} and {baseline} share no seed in {table}, {column}")
    return _points(found, sign="+")


def _points(interval: Estimate, sign: str = "") -> str:
    """Hundredths, one digit after the point: ``84.8 ± 0.3``."""
    mean = f"{100 * interval.mean:{sign}.1f}".replace("-", "−")
    return mean if interval.half is None else f"{mean} ± {100 * interval.half:.1f}"


def _published(dataset: str, family: str) -> str:
    rows = [row for row in _rows(PUBLISHED) if (row["dataset"], row["number_family"]) == (dataset, family)]
    if not rows:
        raise ValueError(f"published: no row of {dataset}, {family}")
    sizes = sorted({int(row["ipc"]) for row in rows})
    found: dict[tuple[str, ...], dict[int, str]] = {}
    for row in rows:
        name = tuple(_cell(_escaped(row[key])) for key in ("method", "kind", "student", "labels", "source"))
        spread = f" ± {row['std']}" if row["std"] else ""
        found.setdefault(name, {})[int(row["ipc"])] = f"{row['top1_percent']}{spread}"
    return _table(
        ("method", *(f"{size} a class, %" for size in sizes), "kind", "student", "labels", "source"),
        ((name[0], *(values.get(size, "") for size in sizes), *name[1:]) for name, values in found.items()),
    )


def _priors() -> str:
    found = []
    for card in sorted((ROOT / "manifoldgd" / "weights").glob("*/manifoldgd.json")):
        facts = json.loads(card.read_text(encoding="utf-8"))
        judge = facts["judge"]
        size = sum(file.stat().st_size for file in card.parent.rglob("*.safetensors")) / 1e6
        found.append(
            (
                facts["dataset"],
                f"{size:.1f} MB",
                f"{100 * judge['recognised']:.1f} % of {judge['samples']:,}",
                f"{judge['frechet_distance_to_test']:.1f} ({judge['frechet_distance_of_train']:.1f})",
                f"{100 * judge['classifier_test_accuracy']:.1f} %",
            )
        )
    return _table(
        (
            "prior",
            "size",
            "unguided samples recognised",
            "Fréchet distance to test images (real training images)",
            "the judge on real test images",
        ),
        found,
    )


def _file(name: str) -> str:
    """A file of the root without its title, which the page has already."""
    return re.sub(r"\A# .*\n", "", (ROOT / name).read_text(encoding="utf-8"))


# Markdown


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text in which nothing but `code` is markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*_{}\[\]$])", r"\\\1", part).replace("<", "&lt;")
        for part in parts
    )
