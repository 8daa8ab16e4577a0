"""The sentences without which the numbers of a table could be misread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from manifoldgd.report.numbers import seconds_text
from manifoldgd.study.results import TableResult
from manifoldgd.study.summary import Summary
from manifoldgd.study.timing import computing_seconds

FOREIGN = "†‡§"  # one sign a foreign number family; beyond three families the last is shared
# DD-Ranking's scores among the measures of a set, with the better end.
SCORES: Mapping[str, Literal["high", "low"]] = {"hlr": "low", "ior": "high", "lrs": "high", "ars": "high"}
FAMILY_WARNING = "absolute values of different families do not compare"


def noun(summary: Summary) -> str:
    """What the numbers are."""
    return f"last-epoch {summary.result.split} accuracy"


def label_note(summary: Summary) -> str:
    """For captions: hard labels are the rule, anything else must be said."""
    if summary.labels == "hard":
        return ""
    return f"; {summary.labels} labels: students learn a teacher's outputs, never compare with hard-label tables"


def notices(summary: Summary) -> list[str]:
    """What must not be overlooked."""
    found = []
    if summary.result.split == "validation":
        found.append(
            "VALIDATION accuracies, not test results: judged on images held out of the training split, "
            "for choosing settings. The test split was not read, and published (test) accuracies are left out."
        )
    if summary.missing or summary.lacking:
        found.append(f"Unfinished: {_unfinished(summary)}.")
    return found


def _unfinished(summary: Summary) -> str:
    total = sum(cell.asked for cell in summary.cells.values())
    held = {(one.method, one.column, one.seed) for one in summary.result.sets}
    failed = sum((one.method, one.column, one.seed) not in held for one in summary.result.failed)
    parts = []
    if summary.missing:
        parts.append(f"{summary.missing} of {total} sets are missing")
    if failed:
        parts.append(f"{failed} of them failed")
    if summary.lacking:
        parts.append(f"fewer students than asked for in {summary.lacking} of {total} sets")
    return ", ".join(parts)


def explanations(summary: Summary) -> list[str]:
    """How to read the numbers: one sentence or two each."""
    result = summary.result
    found = [
        "Means are over distilled sets, each the mean of its students; ± is half the 95 % interval (Student's t over "
        "the sets, since students of one set are not independent). A cell with one set has no interval.",
    ]
    if repeating := dict.fromkeys(cell.method for cell in summary.cells.values() if cell.repeats):
        names = ", ".join(repeating)
        found.append(f"Seeds that gave the same images count as one set ({names}); differences pair all seeds.")
    if summary.comparisons:
        found.append(
            f"▲ better, ▼ worse than {result.baseline}: the 95 % interval of the difference on the same distillation "
            "and student seeds excludes zero. No sign: not separated. The highest mean of a column is emphasised."
        )
    else:
        found.append(f"No method shares two distillation seeds with {result.baseline}: none is called better or worse.")
    if summary.comparisons > 1:
        found.append(
            f"{summary.comparisons} comparisons, not corrected for their number: between equals about "
            f"{0.05 * summary.comparisons:.1f} of them would be marked by chance."
        )
    if summary.not_run or any(cell.published for cell in summary.cells.values()):
        found.append(
            f"Published numbers are of the family “{result.number_family}”, ± as their source gives it: most give a "
            "standard deviation, no interval."
        )
    for family, sign in foreign_signs(summary).items():
        found.append(f"{sign} published in another number family (“{family}”): {FAMILY_WARNING}.")
    return found


def notes(summary: Summary, *, scores: bool) -> list[str]:
    """The table's own notes, and what must be known of scores where they were asked for."""
    found = [f"Note: {note}" for note in summary.result.notes]
    if scores and any(key in one.measures for one in summary.result.sets for key in SCORES):
        found.append(
            "HLR, IOR, LRS, ARS: DD-Ranking's scores of accuracies as fractions. Its published code puts percentages "
            "into the exponential, so its numbers and these do not compare."
        )
    elif scores:
        found.append("DD-Ranking's scores were asked for, and no set holds one.")
    return found


def facts(summary: Summary) -> list[str]:
    """Seeds, protocol, hardware, time and code: one line each."""
    result = summary.result
    protocols = sorted({column.label_protocol for column in result.columns})
    found = [
        f"Baseline: {result.baseline}. Distillation seeds: {_listed(result.seeds)}. "
        f"Student seeds: {student_seeds_text(result)}. Judged on the {result.split} split.",
        f"Label protocol: {', '.join(protocols)}. Students: {', '.join(sorted({c.student for c in result.columns}))}.",
    ]
    if stages := computing_seconds(result.sets):
        parts = ", ".join(f"{stage} {seconds_text(value)}" for stage, value in stages.items())
        found.append(f"Time: {seconds_text(stages.total())} of computing in all ({parts}).")
    hardware = sorted({one.hardware for one in result.sets if one.hardware})
    found += [f"Hardware: {'; '.join(hardware)}."] if hardware else []
    versions = Counter(one.code_version for one in result.sets if one.code_version)
    if versions:
        counted = ", ".join(
            f"{version} ({count} set{'s' if count > 1 else ''})" for version, count in versions.most_common()
        )
        found.append(f"Code version: {counted}.")
    return found


def foreign_signs(summary: Summary) -> dict[str, str]:
    """The sign of each number family that is shown and is not the table's own."""
    shown = {row.number_family for cell in summary.cells.values() for row in cell.published}
    foreign = sorted(shown - {summary.result.number_family})
    return {family: FOREIGN[min(position, len(FOREIGN) - 1)] for position, family in enumerate(foreign)}


def student_seeds_text(result: TableResult) -> str:
    """The student seeds of the table, and of the columns that have others."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for key, seeds in result.students.items():
        groups.setdefault(seeds, []).append(key)
    if len(groups) == 1:
        return _listed(next(iter(groups)))
    return "; ".join(f"{_listed(seeds)} ({', '.join(keys)})" for seeds, keys in groups.items())


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
