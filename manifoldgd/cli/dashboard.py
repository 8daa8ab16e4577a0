"""``manifoldgd dashboard``: a table's W&B report, written as a file and, where there is an account, published."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from manifoldgd.cli.components import build
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_write_json
from manifoldgd.store.keys import read_json
from manifoldgd.tables.results import TableResult
from manifoldgd.tracking import WandbTracker
from manifoldgd.tracking.account import api_key
from manifoldgd.tracking.dashboard import table_report
from manifoldgd.tracking.publishing import Interface

TABLES = Path("outputs") / "tables"
LONGEST_TITLE = 128  # characters, W&B's limit


def write_dashboard(config: DictConfig) -> None:
    """Write ``dashboard.json`` beside the table's results; online, publish it, again in the place of an earlier one.

    Its panels show the runs of the cells; where no recorded cell has one, a line says how to get them.

    Raises:
        UserError: the table has no results, the logger is not W&B, or W&B cannot be reached or refuses. The file is
            written first in any case.
    """
    folder = _results_of(config.table, config.output)
    result = TableResult.load(folder / "results.json")
    tracker = build(config, "logger")
    require(isinstance(tracker, WandbTracker), "logger: a dashboard is one of W&B; choose logger=wandb")
    file = folder / "dashboard.json"
    published = read_json(file).get("published") if file.is_file() else None
    atomic_write_json(file, {**_view(result, tracker, folder), "published": published})
    if not any(one.run for one in result.sets):
        print(
            "dashboard: no cell was measured with logger=wandb and an account, so the panels will be empty unless its "
            f"run was uploaded later (`wandb sync`); `manifoldgd table table={config.table} logger=wandb` measures so"
        )
    key = api_key()
    if tracker.mode == "offline" or key is None:
        step = "set logger.mode=auto" if key else "run `wandb login`"
        print(f"dashboard: {file}; to publish it, {step} and run the same command again")
        return
    try:
        published = _publish(file, Interface(key), result, tracker, published)
    except UserError as error:
        raise UserError(f"{error}; the specification is in {file}") from error
    print(f"dashboard: {published['address']}")


def _results_of(name: str | None, output: str | None) -> Path:
    require(name is not None, "table: needs the name of a table; set table=NAME")
    folder = Path(output) if output else TABLES / str(name)
    if not (folder / "results.json").is_file():
        known = sorted(file.parent.name for file in TABLES.glob("*/results.json"))
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; tables with results: {', '.join(known) or 'none'}"
        raise UserError(
            f"table: no results of {name!r} in {folder}{hint}; measure it first with `manifoldgd table table={name}`"
        )
    return folder


def _view(
    result: TableResult, tracker: WandbTracker, folder: Path, entity: str = "", project_id: str | None = None
) -> dict[str, Any]:
    """Everything W&B is told, by the names of its mutation; ``spec`` as an object."""
    project = {"name": tracker.project, "entityName": entity}
    spec = table_report(
        result,
        project if project_id is None else {**project, "id": project_id},
        group=tracker.group or folder.name,
        figures=sorted(file.stem for file in (folder / "figures").glob("*.png")),
    )
    return {
        "entityName": entity,
        "projectName": tracker.project,
        "type": "runs",
        "name": f"table-{result.name}",
        "displayName": result.title[:LONGEST_TITLE],
        "description": result.question,
        "spec": spec,
    }


def _publish(
    file: Path, interface: Interface, result: TableResult, tracker: WandbTracker, before: dict[str, Any] | None
) -> dict[str, Any]:
    """Save the report on the server, in the place of the one published ``before`` there; returns where it is."""
    entity = tracker.entity or interface.default_entity()
    view = _view(result, tracker, file.parent, entity, interface.project_id(entity, tracker.project))
    place = {"server": interface.address, "entity": entity, "project": tracker.project}
    known = before["id"] if before and place.items() <= before.items() else None
    report = interface.save_report({**view, "id": known})
    address = interface.report_address(entity, tracker.project, view["displayName"], report)
    published = {**place, "id": report, "address": address}
    atomic_write_json(file, {**view, "published": published})
    return published
