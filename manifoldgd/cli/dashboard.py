"""``manifoldgd dashboard``: the W&B report of a table or of a sweep, published where there is an account."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from manifoldgd.cli.components import build
from manifoldgd.cli.sweep import job_records, varied_keys
from manifoldgd.errors import UserError, nearest, require
from manifoldgd.files import atomic_write_json
from manifoldgd.store.keys import read_json
from manifoldgd.study.results import TableResult
from manifoldgd.tracking import WandbTracker
from manifoldgd.tracking.wandb_tracker import has_account

TABLES = Path("outputs") / "tables"
SWEEPS = Path("outputs") / "sweeps"
APART = {"ipc", "seed"}  # the one has a block of its own for each value, the other is averaged over
FILE = "dashboard.json"  # in the folder of what was published: where, so that it is published there again


@dataclass(frozen=True)
class Shown:
    """What a report is made of."""

    folder: Path
    title: str
    description: str
    tracked: bool  # whether any run is known to lie on a server
    blocks: Callable[[Any, Any], Sequence[Any]]  # from manifoldgd.tracking.dashboard and where the runs lie


def publish_dashboard(config: DictConfig) -> None:
    """Publish the report of a table or a sweep, again in the place of an earlier one.

    Without an account, or with ``logger.mode=offline``, it says what would be published and how to go on.

    Raises:
        UserError: there are no results, the logger is not W&B, wandb-workspaces is missing, or W&B refuses.
    """
    require(
        (config.table is None) != (config.sweep is None),
        "table: a dashboard shows one table or one sweep; set table=NAME or sweep=FOLDER",
    )
    shown = _table(config.table, config.output) if config.sweep is None else _sweep(config.sweep, config.output)
    tracker = build(config, "logger")
    require(isinstance(tracker, WandbTracker), "logger: a dashboard is one of W&B; choose logger=wandb")
    try:
        from manifoldgd.tracking import dashboard
    except ImportError as error:
        raise UserError(f"dashboard: {error}; run `pip install 'manifoldgd[dashboard]'`") from error
    if not shown.tracked:
        print(
            "dashboard: no result has a run on W&B, so the panels will be empty unless the runs were uploaded later "
            "(`wandb sync outputs/wandb/*run-*`); with logger=wandb and an account results are measured with runs"
        )
    group = tracker.group or shown.folder.name
    account = has_account()
    if tracker.mode == "offline" or not account:
        print(f"dashboard: {shown.title!r} would show, of the group {group} in the W&B project {tracker.project}:")
        for line in dashboard.outline(shown.blocks(dashboard, dashboard.Runs("", tracker.project, group))):
            print(f"  {line}")
        step = "set logger.mode=auto" if account else "W&B's reports need an account: run `wandb login`"
        print(f"dashboard: not published; {step} and run the same command again")
        return
    runs = dashboard.Runs(tracker.entity or dashboard.default_entity(), tracker.project, group)
    file = shown.folder / FILE
    before = (read_json(file).get("published") if file.is_file() else None) or {}
    place = {"entity": runs.entity, "project": runs.project}
    known = before["id"] if place.items() <= before.items() else ""
    try:
        blocks = shown.blocks(dashboard, runs)
        report, address = dashboard.publish(runs, shown.title, shown.description, blocks, known=known)
    except UserError as error:
        gone = f"; if W&B no longer has the earlier report, remove {file}" if known else ""
        raise UserError(f"{error}{gone}") from error
    atomic_write_json(file, {"published": {**place, "id": report, "address": address}})
    print(f"dashboard: {address}")


def _table(name: str, output: str | None) -> Shown:
    folder = Path(output) if output else TABLES / name
    if not (folder / "results.json").is_file():
        known = sorted(file.parent.name for file in TABLES.glob("*/results.json"))
        hint = nearest(name, known, otherwise=f"tables with results: {', '.join(known) or 'none'}")
        raise UserError(
            f"table: no results of {name!r} in {folder}; {hint}; measure it first with `manifoldgd table table={name}`"
        )
    result = TableResult.load(folder / "results.json")
    figures = sorted(file.stem for file in (folder / "figures").glob("*.png"))
    return Shown(
        folder,
        result.title,
        result.question,
        any(one.run for one in result.sets),
        lambda dashboard, runs: dashboard.table_blocks(result, runs, figures=figures),
    )


def _sweep(name: str, output: str | None) -> Shown:
    require(output is None, "output: names the folder of a table's results only; leave it out with sweep=FOLDER")
    folder = Path(name) if "/" in name else SWEEPS / name
    records = job_records(folder)
    if not records:
        known = sorted(file.name for file in SWEEPS.glob("*") if (file / "jobs").is_dir())
        hint = nearest(name, known, otherwise=f"sweeps: {', '.join(known) or 'none'}")
        raise UserError(f"sweep: no jobs in {folder}; {hint}; the last line of a sweep names its folder")
    judged = [one for one in records if one["result"] and "accuracy" in one["result"]]
    require(bool(judged), f"sweep: {folder} holds no accuracies; `manifoldgd run` and `evaluate` measure them")
    results, overrides = [one["result"] for one in judged], [one["overrides"] for one in judged]
    varied = sorted(varied_keys(overrides))
    drawn = [key for key in varied if key not in APART and all(_is_number(one.get(key)) for one in overrides)]
    return Shown(
        folder,
        f"Sweep {folder.name}",
        f"{len(results)} of {len(records)} jobs judged, varied: {', '.join(varied)}",
        any(one["run_url"] for one in results),
        lambda dashboard, runs: dashboard.sweep_blocks(results, runs, varied=drawn),
    )


def _is_number(value: str | None) -> bool:
    try:
        return value is not None and math.isfinite(float(value))
    except ValueError:
        return False
