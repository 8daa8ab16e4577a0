"""W&B reports of a table and of a sweep, made of wandb-workspaces' own objects.

A report shows what the runs of one group hold: those of cells or jobs, and that of the table itself. Only runs of one
dataset, student and number of images per class stand side by side. Without an account the objects can be built, for an
:func:`outline`; W&B's own form of a report, and saving it, take the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr

from manifoldgd.errors import UserError, require
from manifoldgd.study.results import TableResult
from manifoldgd.tracking.tables import FIGURES, JOB_TYPE, PER_CLASS, TABLE
from manifoldgd.tracking.tracker import GUIDANCE_STEP, reason, run_tags

CELL_TYPE = "cell"  # job type of the runs of a table's cells
ACCURACY = wr.SummaryMetric("last_top1")
LONGEST_TITLE = 128  # characters, W&B's limit
SHOWN = 4  # image grids side by side
WHOLE, HALF = 24, 12  # width of a panel, in columns of a report's grid


@dataclass(frozen=True)
class Runs:
    """Where the runs lie that a report shows. Without an ``entity`` the report can be outlined only."""

    entity: str
    project: str
    group: str

    def of(self, name: str, *conditions: Any, query: str = "") -> wr.Runset:
        """Those that meet the conditions and have ``query`` in their names."""
        return wr.Runset(
            entity=self.entity,
            project=self.project if self.entity else "",
            name=name,
            query=query,
            filters=expr.And(expr.Metric("Group") == _selectable(self.group), *conditions),
        )


def table_blocks(result: TableResult, runs: Runs, *, figures: Sequence[str]) -> list[Any]:
    """The report of a table.

    Args:
        result: finished or not.
        runs: of its cells, and its own.
        figures: names, without suffix, of the pictures that the table's run holds.
    """
    is_cell = expr.Metric("JobType") == CELL_TYPE
    whole, cells = runs.of("Table", expr.Metric("JobType") == JOB_TYPE), runs.of("Cells", is_cell)
    pictures = wr.MediaBrowser(title="Figures", media_keys=[f"{FIGURES}{one}" for one in figures], num_columns=2)
    blocks = [*map(wr.P, _introduction(result)), wr.H2("The table")]
    blocks.append(_grid(whole, _logged(TABLE), *([pictures] if figures else [])))
    for column in result.columns:  # the name of a cell's run is <method>/<column>/seed<k>
        own = runs.of(column.title, is_cell, query=f"/{column.key}/")
        blocks += _compared(column.title, own, by="cell.method", student_seeds=result.students[column.key])
    return [
        *blocks,
        wr.H2("Across columns"),
        _grid(cells, _scatter("ipc"), _scatter("guidance.scale")),
        wr.H2("Per class"),
        wr.P("Last-epoch accuracy of each class, mean over all students of a cell."),
        _grid(whole, _logged(PER_CLASS)),
    ]


def sweep_blocks(results: Sequence[Mapping[str, Any]], runs: Runs, *, varied: Sequence[str]) -> list[Any]:
    """The report of a sweep.

    Args:
        results: of its finished jobs, as in ``metrics.json``.
        runs: of its jobs.
        varied: keys whose numbers the sweep varied; accuracy is drawn against each.
    """
    blocks = [wr.P("Accuracies are those of the last epoch, as fractions.")]
    alike: dict[tuple[str, str, int], set[int]] = {}  # seeds of students
    for one in results:
        alike.setdefault((one["dataset"], one["student"], one["ipc"]), set()).update(one["student_seeds"])
    for dataset, student, ipc in sorted(alike):
        title = f"{dataset}, {student}, ipc {ipc}"
        tags = run_tags({"dataset": dataset, "student": student, "ipc": ipc})
        own = runs.of(title, *(expr.Tags().isin([_selectable(tag)]) for tag in tags))
        seeds = sorted(alike[dataset, student, ipc])
        blocks += _compared(title, own, by="method", student_seeds=seeds, varied=varied)
    return blocks


def outline(blocks: Sequence[Any]) -> Iterator[str]:
    """A report in lines: its headings, and below each the titles of its panels."""
    for block in blocks:
        if isinstance(block, wr.H2):
            yield str(block.text)
        elif isinstance(block, wr.PanelGrid):
            panels: Sequence[Any] = block.panels
            yield from (f"  {getattr(panel, 'title', None) or panel.table_name}" for panel in panels)


def default_entity() -> str:
    """The account's own user or team.

    Raises:
        UserError: the server cannot be reached or does not know the account.
    """
    try:
        entity = wandb.Api().default_entity
    except Exception as error:  # whatever wandb raises
        raise _refused(error) from error
    if not entity:
        raise UserError("logger.entity: the account has no user or team of its own on W&B; name one")
    return entity


def publish(runs: Runs, title: str, description: str, blocks: Sequence[Any], *, known: str = "") -> tuple[str, str]:
    """Save a report, in the place of the one whose id is ``known``; returns its id and address.

    Raises:
        UserError: W&B cannot be reached or refuses.
    """
    report = wr.Report(
        entity=runs.entity,
        project=runs.project,
        title=title[:LONGEST_TITLE],
        description=description,
        blocks=list(blocks),
        width="fluid",
    )
    report.id = known
    try:
        report.save()
        return report.id, report.url
    except Exception as error:  # whatever wandb raises
        raise _refused(error) from error


def _refused(error: Exception) -> UserError:
    said = reason(error)
    step = "try again later, or run `wandb login` if the account is not known there"
    if isinstance(error, ValueError) and "not found" in said:  # wandb-workspaces asks for the project of the runs
        step = "upload the runs first (`wandb sync outputs/wandb/*run-*`), or correct logger.project and logger.entity"
    return UserError(f"W&B: the report was not published ({said}); {step}")


def _introduction(result: TableResult) -> Iterator[str]:
    yield result.question
    yield (
        f"Judged on the {result.split} split. Distillation seeds {', '.join(map(str, result.seeds))}; student seeds "
        f"{result.student_seeds_text} for each set. Differences are against {result.baseline}, on the same seeds. "
        "Accuracies are those of the last epoch, as fractions; intervals are over distilled sets."
    )
    yield from result.notes
    if result.failed:
        yield f"Failed: {len(result.failed)} sets, the first for this reason: {result.failed[0].reason}"


def _compared(
    title: str, runs: wr.Runset, *, by: str, student_seeds: Sequence[int], varied: Sequence[str] = ()
) -> list[Any]:
    """Runs that may be compared, by an entry of their configuration."""
    by_entry: dict[str, Any] = {"groupby": wr.Config(by), "groupby_aggfunc": "mean"}

    def lines(title: str, x: str, y: list[Any]) -> wr.LinePlot:
        return wr.LinePlot(title=title, x=x, y=y, groupby_rangefunc="minmax", layout=_half(), **by_entry)

    deviation = "Accuracy by method: mean and deviation over sets"
    panels = [
        wr.BarPlot(title=deviation, metrics=[ACCURACY], groupby_rangefunc="stddev", layout=_half(), **by_entry),
        *map(_scatter, varied),
        lines("Accuracy over epochs", "epoch", [f"student/{seed}/top1" for seed in student_seeds]),
        lines("Guidance norm / noise norm, by step", GUIDANCE_STEP, ["guidance/ratio"]),
        lines("Share of the guidance vector kept, by step", GUIDANCE_STEP, ["guidance/kept"]),
        wr.MediaBrowser(title="Distilled sets", media_keys=["set"], num_columns=SHOWN, layout=wr.Layout(w=WHOLE, h=9)),
    ]
    return [wr.H2(title), _grid(runs, *panels)]


def _scatter(key: str) -> wr.ScatterPlot:
    return wr.ScatterPlot(title=f"Accuracy against {key}", x=wr.Config(key), y=ACCURACY, layout=_half())


def _half() -> wr.Layout:
    return wr.Layout(w=HALF, h=9)  # a new one each: a grid moves its panels' layouts


def _selectable(name: str) -> str:
    """The name, unless wandb-workspaces, which takes filters apart as text, would look for another one."""
    require(
        not {"=", "'"} & set(name),
        f"dashboard: W&B's reports cannot select runs by {name!r}, for its ' or =; name the group "
        "(logger.group) or the dataset without and measure again",
    )
    return name


def _logged(table: str) -> wr.WeavePanelSummaryTable:
    return wr.WeavePanelSummaryTable(table_name=table, layout=wr.Layout(w=WHOLE, h=12))


def _grid(runs: wr.Runset, *panels: Any) -> wr.PanelGrid:
    return wr.PanelGrid(runsets=[runs], panels=list(panels))
