"""A study as one long frame, a row a student, from which every number that is shown is computed.

Columns: what the cell is (``method``, ``column``, ``dataset``, ``ipc``, ``student``, ``label_protocol``, ``split``),
which set and student (``seed``, ``student_seed``), what was measured (``last_top1``, ``best_top1``, in [0, 1]), on what
(``key``, ``fingerprint``, ``code_version``), and, the same for all students of a set, ``hardware``, ``run``, ``grid``
and one column each for its seconds, measures and guidance. ``per_class`` holds a tuple of accuracies.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from manifoldgd.study.results import TableResult

PLACE = ("method", "column", "dataset", "ipc", "student", "label_protocol", "split")
RECORDED = (*PLACE, "seed", "student_seed", "last_top1", "best_top1", "key", "fingerprint", "code_version")
NUMBERS = ("ipc", "seed", "student_seed", "last_top1", "best_top1")
OF_A_SET = ("key", "fingerprint", "code_version", "hardware", "run", "grid")
GROUPS = {
    "seconds": "seconds",
    "measures": "measure",
    "guidance": "guidance",
}  # of a set: prefix of their columns


def frame_of(result: TableResult) -> pd.DataFrame:
    """The sets of a study by method, column and seed, in the order of the study; no set, no row."""
    columns = {column.key: column for column in result.columns}
    methods = {name: position for position, name in enumerate(result.methods)}
    places = {key: position for position, key in enumerate(columns)}
    known = [one for one in result.sets if one.method in methods and one.column in columns]
    rows = []
    for one in sorted(known, key=lambda one: (methods[one.method], places[one.column], one.seed)):
        column = columns[one.column]
        of_set = {
            "method": one.method,
            "column": one.column,
            **{name: getattr(column, name) for name in ("dataset", "ipc", "student", "label_protocol")},
            "split": result.split,
            "seed": one.seed,
            **{name: getattr(one, name) for name in OF_A_SET},
            **{f"{group}_{key}": value for part, group in GROUPS.items() for key, value in getattr(one, part).items()},
        }
        for position, (student, last) in enumerate(zip(one.student_seeds, one.last, strict=True)):
            judged = {"student_seed": student, "last_top1": last}
            judged["best_top1"] = one.best[position] if one.best else None
            judged["per_class"] = one.per_class[position] if one.per_class else None
            rows.append(of_set | judged)
    names = dict.fromkeys((*RECORDED, *OF_A_SET, "per_class", *(name for row in rows for name in row)))
    frame = pd.DataFrame(rows, columns=list(names), dtype=object)
    numbers = [
        name for name in names if name in NUMBERS or name.startswith(tuple(f"{each}_" for each in GROUPS.values()))
    ]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    return frame


def distinct_seeds(students: pd.DataFrame) -> list[int]:
    """Of the seeds of a cell one for each different set, in their order.

    Seeds that lead to the same images add nothing to what is known; of equal sets that with the most students counts.
    Where a record is older than fingerprints, equal keys are equal sets.
    """
    found: list[tuple[int, str, str, int]] = []  # seed, fingerprint, key, students
    for seed, held in students.groupby("seed"):
        one = (int(seed), held["fingerprint"].iloc[0], held["key"].iloc[0], len(held))
        known = next((place for place, other in enumerate(found) if _same(one, other)), None)
        if known is None:
            found.append(one)
        elif one[3] > found[known][3]:
            found[known] = one
    return [seed for seed, *_ in found]


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    return one[1] == other[1] if one[1] and other[1] else one[2] == other[2]
