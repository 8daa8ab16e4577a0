"""A table as a W&B report: what it shows, from the runs of the table's cells and the run of the table itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from manifoldgd.tables.results import Column, TableResult
from manifoldgd.tables.wording import student_seeds_text
from manifoldgd.tracking import panels
from manifoldgd.tracking.panels import Json
from manifoldgd.tracking.tables import FIGURES, JOB_TYPE, PER_CLASS, TABLE

CELL_TYPE = "cell"  # job type of the cells' runs
METHOD = "cell.method"  # entry of a cell's configuration
SHOWN = 4  # image grids side by side


def table_report(result: TableResult, project: Json, *, group: str, figures: Sequence[str]) -> Json:
    """The specification of the report.

    Args:
        result: finished or not.
        project: ``name`` and ``entityName``, with W&B's ``id`` of it where that is known.
        group: of the runs.
        figures: names, without suffix, of the pictures that the table's run holds.
    """
    whole = panels.run_set("Table", project, {"group": group, "jobType": JOB_TYPE})
    cells = panels.run_set("Cells", project, {"group": group, "jobType": CELL_TYPE})
    shown = [panels.logged_table(TABLE)]
    shown += [panels.pictures("Figures", [f"{FIGURES}{name}" for name in figures], columns=2)] if figures else []
    across = [
        panels.scatter("Accuracy against images per class", x="ipc", y="last_top1"),
        panels.scatter("Accuracy against guidance scale", x="guidance.scale", y="last_top1"),
    ]
    blocks = [
        *_introduction(result),
        panels.heading("The table"),
        panels.grid(whole, shown),
        *(block for column in result.columns for block in _column(result, column, project, group)),
        panels.heading("Across columns"),
        panels.grid(cells, across),
        panels.heading("Per class"),
        panels.text("Last-epoch accuracy of each class, mean over all students of a cell."),
        panels.grid(whole, [panels.logged_table(PER_CLASS)]),
    ]
    return panels.report(blocks)


def _introduction(result: TableResult) -> Iterator[Json]:
    yield panels.text(result.question)
    yield panels.text(
        f"Judged on the {result.split} split. Distillation seeds {_listed(result.seeds)}; student seeds "
        f"{student_seeds_text(result)} for each set. Differences are against {result.baseline}, on the same seeds. "
        "Accuracies are those of the last epoch, as fractions; intervals are over distilled sets."
    )
    for note in result.notes:
        yield panels.text(note)
    if result.failed:
        yield panels.text(f"Failed: {len(result.failed)} sets, the first for this reason: {result.failed[0].reason}")


def _column(result: TableResult, column: Column, project: Json, group: str) -> Iterator[Json]:
    # The name of a cell's run is <method>/<column>/seed<k>.
    wanted = {"group": group, "jobType": CELL_TYPE}
    runs = panels.run_set(column.title, project, wanted, search=f"/{column.key}/")
    histories = [f"student/{seed}/top1" for seed in result.students[column.key]]
    yield panels.heading(column.title)
    yield panels.grid(
        runs,
        [
            panels.bars("Accuracy by method: mean and deviation over sets", "last_top1", by=METHOD),
            panels.curves("Accuracy over epochs", histories, x="epoch", by=METHOD),
            panels.pictures("Distilled sets", ["set"], columns=SHOWN),
        ],
    )


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
