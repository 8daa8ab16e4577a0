"""Blocks and panels of a W&B report as the web application stores them (version 5 of its format).

The names are W&B's; ``wandb-workspaces`` (``reports/v2/internal.py``) is their only public description, and the tests
read what is made here with its models where it is installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manifoldgd.store.keys import key_of

Json = dict[str, Any]
WIDTH = 24  # columns of a report's grid
# What the application fills in for a new report.
BANK = {"autoOrganizePrefix": 2, "showEmptySections": False, "sortAlphabetically": False}
FLOW = {
    "snapToColumns": True,
    "columnsPerPage": 3,
    "rowsPerPage": 2,
    "gutterWidth": 16,
    "boxWidth": 460,
    "boxHeight": 300,
}
SETTINGS = {
    "smoothingWeight": 0,
    "smoothingType": "exponential",
    "xAxis": "_step",
    "ignoreOutliers": False,
    "useRunsTableGroupingInPanels": True,
    "smoothingActive": True,
    "xAxisActive": False,
}
FEED = {
    "version": 2,
    "columnVisible": {"run:name": False},
    "columnPinned": {},
    "columnWidths": {},
    "columnOrder": [],
    "pageSize": 10,
    "onlyShowSelected": False,
}


def config_key(path: str) -> str:
    """``a.b`` of a run's configuration as panels address it: W&B keeps each top-level entry under ``value``."""
    top, *rest = path.split(".")
    return ".".join((top, "value", *rest))


def text(content: str) -> Json:
    """A paragraph."""
    return {"type": "paragraph", "children": [{"text": content}]}


def heading(content: str) -> Json:
    """A heading of the second level; the report's title is the first."""
    return {"type": "heading", "level": 2, "children": [{"text": content}]}


def bars(title: str, metric: str, *, by: str) -> Json:
    """Mean and standard deviation of a summary value over runs, one bar for each value of a configuration entry."""
    grouped = {"groupBy": config_key(by), "groupAgg": "mean", "groupArea": "stddev", "aggregate": True}
    shown = {"metrics": [f"summary_metrics.{metric}"], "vertical": False}
    return _panel("Bar Chart", {"chartTitle": title, **shown, **grouped})


def scatter(title: str, *, x: str, y: str) -> Json:
    """A dot a run: a number of its configuration against a summary value."""
    return _panel("Scatter Plot", {"chartTitle": title, "xAxis": f"config:{config_key(x)}", "yAxis": f"summary:{y}"})


def curves(title: str, metrics: Sequence[str], *, x: str, by: str) -> Json:
    """Histories, averaged over the runs with the same value of a configuration entry, with the band of their spread."""
    grouped = {"groupBy": config_key(by), "groupAgg": "mean", "groupArea": "minmax", "aggregate": True}
    return _panel("Run History Line Plot", {"chartTitle": title, "xAxis": x, "metrics": list(metrics), **grouped})


def pictures(title: str, keys: Sequence[str], *, columns: int) -> Json:
    """Logged images, side by side."""
    return _panel("Media Browser", {"chartTitle": title, "columnCount": columns, "mediaKeys": list(keys)}, width=WIDTH)


def logged_table(key: str) -> Json:
    """A ``wandb.Table`` that the runs have under ``key``: a query of W&B's panel language, with its types."""
    table = {"type": "file", "extension": "json", "wbObjectType": {"type": "table", "columnTypes": {}}}
    summary = _members(_struct({}), _struct({key: table}))
    runs = {"nodeType": "var", "varName": "runs", "type": _from_runs("run")}
    summaries = _call("run-summary", {"run": runs}, _from_runs(_of_run(summary)))
    name = {"nodeType": "const", "type": "string", "val": key}
    values = _call("pick", {"obj": summaries, "key": name}, _from_runs(_of_run(_members(table, "none"))))
    return _panel("Weave", {"panel2Config": {"exp": values, "__userInput": True}}, width=WIDTH, height=12)


def grid(runs: Json, panels: Sequence[Json]) -> Json:
    """Panels over one set of runs, left to right, row by row."""
    placed = [
        {"__id__": _name("panel", runs["id"], number, panel), "layout": layout, **_unsized(panel)}
        for number, (panel, layout) in enumerate(zip(panels, _layouts(panels), strict=True))
    ]
    metadata = {
        "openViz": True,
        "openRunSet": 0,
        "name": "unused-name",
        "runSets": [runs],
        "hideRunSets": False,
        "panels": {"views": {"0": {"name": "Panels", "defaults": [], "config": []}}, "tabs": ["0"]},
        "panelBankConfig": {"state": 0, "settings": BANK, "sections": [_section("Hidden Panels", "flow", [])]},
        "panelBankSectionConfig": _section("Report Panels", "grid", placed),
        "customRunColors": {},
    }
    return {"type": "panel-grid", "children": [{"text": ""}], "metadata": metadata}


def run_set(name: str, project: Json, wanted: Mapping[str, str], *, search: str = "") -> Json:
    """The runs of a project, newest first, whose attributes are as ``wanted`` and whose name has ``search``."""
    filters: list[Json] = [
        {"key": {"section": "run", "name": key}, "op": "=", "value": value, "disabled": False}
        for key, value in wanted.items()
    ]
    for each in filters[1:]:
        each["connector"] = "AND"
    return {
        "id": _name("run set", name, dict(wanted), search),
        "runFeed": FEED,
        "enabled": True,
        "project": project,
        "name": name,
        "search": {"query": search},
        "filters": {"filterFormat": "filterV2", "filters": filters},
        "grouping": [],
        "sort": {"keys": [{"key": {"section": "run", "name": "createdAt"}, "ascending": False}]},
        "selections": {"root": 1, "bounds": [], "tree": []},
        "expandedRowAddresses": [],
    }


def report(blocks: Sequence[Json]) -> Json:
    """The whole; the application wants an empty paragraph at either end."""
    whole = [text(""), *blocks, text("")]
    return {
        "version": 5,
        "panelSettings": {},
        "blocks": whole,
        "width": "fluid",
        "authors": [],
        "discussionThreads": [],
    }


def _panel(kind: str, config: Json, *, width: int = WIDTH // 2, height: int = 9) -> Json:
    return {"viewType": kind, "config": config, "size": (width, height)}


def _unsized(panel: Json) -> Json:
    return {key: value for key, value in panel.items() if key != "size"}


def _section(name: str, kind: str, panels: Sequence[Json]) -> Json:
    return {
        "name": name,
        "isOpen": False,
        "type": kind,
        "flowConfig": FLOW,
        "sorted": 0,
        "localPanelSettings": SETTINGS,
        "panels": list(panels),
    }


def _layouts(panels: Sequence[Json]) -> list[Json]:
    layouts, x, y, tallest = [], 0, 0, 0
    for width, height in (panel["size"] for panel in panels):
        if x + width > WIDTH:
            x, y, tallest = 0, y + tallest, 0
        layouts.append({"x": x, "y": y, "w": width, "h": height})
        x, tallest = x + width, max(tallest, height)
    return layouts


def _name(*parts: Any) -> str:
    """Twelve characters, the same for the same parts: a report that is written again keeps its names."""
    return key_of(*parts)[:12]


def _struct(fields: Mapping[str, Any]) -> Json:
    return {"type": "typedDict", "propertyTypes": dict(fields)}


def _members(*types: Any) -> Json:
    return {"type": "union", "members": list(types)}


def _tagged(tag: Json, value: Any) -> Json:
    return {"type": "tagged", "tag": tag, "value": value}


def _of_run(value: Any) -> Json:
    return _tagged(_struct({"run": "run"}), value)


def _from_runs(item: Any) -> Json:
    """A list of what each run of the panel's run set gives."""
    where = _struct({"entityName": "string", "projectName": "string"})
    how = _struct({"project": "project", "filter": "string", "order": "string"})
    return _tagged(_tagged(where, how), {"type": "list", "objectType": item, "maxLength": 50})


def _call(name: str, inputs: Mapping[str, Any], result: Json) -> Json:
    return {"nodeType": "output", "type": result, "fromOp": {"name": name, "inputs": dict(inputs)}}
