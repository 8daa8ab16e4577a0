"""Reports are W&B's own objects: outlined without an account, published and published again with one."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command import manifoldgd
from PIL import Image
from tables import set_result, small_table

from manifoldgd.errors import UserError

reports = pytest.importorskip("manifoldgd.tracking.dashboard", reason="needs wandb-workspaces")
KEY = "k" * 40


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "outputs" / "tables" / "small"
    small_table().save(found / "results.json")
    (found / "figures").mkdir()
    Image.new("RGB", (6, 3)).save(found / "figures" / "ipc10.png")
    return found


def job(number, overrides, *, ipc=1, method="mode", error=None, url=None):
    judged = {"accuracy": {}, "dataset": "digits", "student": "ConvNet-3", "student_seeds": [0, 1]}
    result = None if error else {**judged, "ipc": ipc, "method": method, "run_url": url}
    return f"{number:04d}.json", {"overrides": overrides, "result": result, "error": error}


JOBS = [
    job(0, {"dataset": "digits", "ipc": "1", "guidance.scale": "0.1", "guidance": "mode"}),
    job(1, {"dataset": "digits", "ipc": "1", "guidance.scale": "0.2", "guidance": "manifold"}),
    job(2, {"dataset": "digits", "ipc": "10", "guidance.scale": "0.2", "guidance": "mode"}, ipc=10),
    job(3, {"dataset": "digits", "ipc": "5000", "guidance.scale": "0.2", "guidance": "mode"}, error="too many"),
]


@pytest.fixture
def sweep(tmp_path):
    found = tmp_path / "outputs" / "sweeps" / "run-abc"
    (found / "jobs").mkdir(parents=True)
    for name, record in JOBS:
        (found / "jobs" / name).write_text(json.dumps(record))
    return found


def spec_of(blocks):
    """The report as W&B's objects write it, without a server."""
    report = reports.wr.Report(entity="me", project="p", title="t", blocks=list(blocks))
    return json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def grids(spec):
    return [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]


def panels(spec):
    return [panel for grid in grids(spec) for panel in grid["panelBankSectionConfig"]["panels"]]


def wanted(grid):
    (run_set,) = grid["runSets"]
    conditions = {(each["key"]["name"], each["op"], str(each["value"])) for each in run_set["filters"]["filters"]}
    return conditions, run_set["search"]["query"]


def of_table(group="small", figures=("ipc10",)):
    return spec_of(reports.table_blocks(small_table(), reports.Runs("", "p", group), figures=figures))


def test_a_table_s_report_shows_what_it_should():
    spec = of_table()
    by_title = {panel["config"].get("chartTitle"): panel["config"] for panel in panels(spec)}
    bar = by_title["Accuracy by method: mean and deviation over sets"]
    assert (bar["metrics"], bar["groupBy"]) == (["summary_metrics.last_top1"], "cell.value.method")
    assert (bar["groupAgg"], bar["groupArea"]) == ("mean", "stddev")
    scatters = [by_title["Accuracy against ipc"], by_title["Accuracy against guidance.scale"]]
    assert [each["xAxis"] for each in scatters] == ["config:ipc.value", "config:guidance.value.scale"]
    assert {each["yAxis"] for each in scatters} == {"summary:last_top1"}
    assert by_title["Distilled sets"]["mediaKeys"] == ["set"]
    assert by_title["Figures"]["mediaKeys"] == ["figure/ipc10"]
    assert by_title["Accuracy over epochs"]["metrics"] == ["student/0/top1", "student/1/top1"]
    shares = [each for title, each in by_title.items() if title and title.endswith("by step")]
    assert [(each["xAxis"], each["metrics"]) for each in shares] == [
        ("guidance/step", ["guidance/ratio"]),
        ("guidance/step", ["guidance/kept"]),
    ]
    tables = [panel["config"]["panel2Config"] for panel in panels(spec) if panel["viewType"] == "Weave"]
    assert [each["exp"]["fromOp"]["inputs"]["key"]["val"] for each in tables] == ["table", "per_class"]
    assert "Figures" not in {panel["config"].get("chartTitle") for panel in panels(of_table(figures=()))}


def test_a_table_s_run_sets_hold_its_group_and_a_column_each():
    group = ("group", "=", "mine")
    table, cell = ("jobType", "=", "table"), ("jobType", "=", "cell")
    assert [wanted(grid) for grid in grids(of_table("mine"))] == [
        ({group, table}, ""),
        ({group, cell}, "/ipc1/"),
        ({group, cell}, "/ipc10/"),
        ({group, cell}, ""),
        ({group, table}, ""),
    ]


def test_a_sweep_s_report_never_puts_different_ipc_side_by_side():
    results = [record["result"] for _, record in JOBS if record["result"]]
    blocks = reports.sweep_blocks(results, reports.Runs("", "p", "run-abc"), varied=["guidance.scale"])
    spec = spec_of(blocks)
    group = ("group", "=", "run-abc")
    tags = [("tags", "IN", "['dataset: digits']"), ("tags", "IN", "['student: ConvNet-3']")]
    assert [wanted(grid)[0] for grid in grids(spec)] == [
        {group, *tags, ("tags", "IN", f"['ipc: {ipc}']")} for ipc in (1, 10)
    ]
    drawn = [panel["config"] for panel in panels(spec)]
    assert {each["xAxis"] for each in drawn if str(each.get("xAxis")).startswith("config")} == {
        "config:guidance.value.scale"
    }
    assert {each["groupBy"] for each in drawn if "groupBy" in each} == {"method.value"}


def test_panels_do_not_overlap():
    for grid in grids(of_table()):
        boxes = [panel["layout"] for panel in grid["panelBankSectionConfig"]["panels"]]
        covered = [
            (x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])
        ]
        assert len(set(covered)) == len(covered)
        assert max(x for x, _ in covered) < reports.WHOLE


@pytest.mark.parametrize("group", ['say "so"', "a (b), c", "äb/c"])
def test_a_group_is_selected_by_its_very_name(group):
    assert wanted(grids(of_table(group))[0])[0] == {("group", "=", group), ("jobType", "=", "table")}


@pytest.mark.parametrize("name", ["a=b", "it's"])
def test_a_name_that_w_and_b_s_objects_misread_is_refused(name):
    with pytest.raises(UserError, match=r"logger\.group"):
        of_table(name)
    results = [{**JOBS[0][1]["result"], "dataset": name}]
    with pytest.raises(UserError, match="dataset"):
        reports.sweep_blocks(results, reports.Runs("", "p", "g"), varied=[])


def test_without_an_account_it_says_what_would_be_published(capsys, folder):
    assert manifoldgd("dashboard", "table=small", "logger.project=mine") == 0
    out = capsys.readouterr().out
    empty, about, *outline, last = out.splitlines()
    assert "panels will be empty" in empty
    assert "'A small table'" in about
    assert "small" in about
    assert "mine" in about
    assert [line.strip() for line in outline if not line.startswith("    ")] == [
        "The table",
        *(column.title for column in small_table().columns),
        "Across columns",
        "Per class",
    ]
    assert "    Figures" in outline
    assert "`wandb login`" in last
    assert not (folder / "dashboard.json").exists()


def test_a_sweep_is_outlined_too(capsys, sweep):
    for name in ("run-abc", "outputs/sweeps/run-abc", f"{sweep}/"):
        assert manifoldgd("dashboard", f"sweep={name}") == 0
        out = capsys.readouterr().out
        assert [line.strip() for line in out.splitlines() if "ipc 1" in line] == [
            "digits, ConvNet-3, ipc 1",
            "digits, ConvNet-3, ipc 10",
        ]
        assert out.count("Accuracy against guidance.scale") == 2  # numbers only, ipc apart
        assert "Accuracy against guidance\n" not in out
        assert "`wandb login`" in out


def test_results_with_runs_need_no_remark(capsys, folder, sweep):
    seen = set_result("random", "ipc1", 0, (0.5, 0.52), run="https://wandb.ai/me/p/runs/1")
    small_table(sets=(seen,)).save(folder / "results.json")
    name, record = job(0, {"ipc": "1"}, url="https://wandb.ai/me/p/runs/1")
    (sweep / "jobs" / name).write_text(json.dumps(record))
    for asked in ("table=small", "sweep=run-abc"):
        assert manifoldgd("dashboard", asked) == 0
        assert "empty" not in capsys.readouterr().out


def refused(capsys, *arguments):
    assert manifoldgd("dashboard", *arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_bad_input(capsys, monkeypatch, folder, sweep):
    assert "set table=NAME or sweep=FOLDER" in refused(capsys)
    assert "set table=NAME or sweep=FOLDER" in refused(capsys, "table=small", "sweep=run-abc")
    err = refused(capsys, "table=smal")
    assert "no results of 'smal' in outputs/tables/smal; did you mean 'small'?" in err
    assert "tables with results: small" in refused(capsys, "table=imagenet")
    assert "did you mean 'run-abc'?" in refused(capsys, "sweep=run-abd")
    assert "sweeps: run-abc" in refused(capsys, "sweep=elsewhere/x")
    assert refused(capsys, "sweep=run-abc", "output=o").startswith("manifoldgd: error: output:")
    assert "logger: a dashboard is one of W&B" in refused(capsys, "table=small", "logger=none")
    assert "does not use 'ipc'" in refused(capsys, "table=small", "ipc=3")
    (folder / "results.json").write_text("{}")
    assert "holds a table of format None" in refused(capsys, "table=small")
    small_table().save(folder / "results.json")
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    monkeypatch.delitem(sys.modules, "manifoldgd.tracking.dashboard")
    monkeypatch.delattr("manifoldgd.tracking.dashboard")
    assert "pip install 'manifoldgd[dashboard]'" in refused(capsys, "table=small")


def test_nothing_judged_is_nothing_to_show(capsys, sweep):
    for name, record in JOBS[:3]:
        (sweep / "jobs" / name).write_text(json.dumps({**record, "result": {"folder": "o"}}))
    assert "sweep: run-abc holds no accuracies" in refused(capsys, "sweep=run-abc").replace("outputs/sweeps/", "")


PROJECT = {"id": "1", "name": "mine", "entityName": "me", "createdAt": "", "isBenchmark": False, "user": None}
PROJECTS = {
    "edges": [{"cursor": "", "node": PROJECT}],
    "pageInfo": {"endCursor": None, "hasNextPage": False},
}


class Interface(ThreadingHTTPServer):
    """W&B's interface as far as reports need it. It keeps what it is asked, and refuses when told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.project = [], {"id": "9", "internalId": "77"}
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, query, variables):
        if "upsertView" in query:
            view = {"id": "Vmlldzox", "type": "runs", "name": "n", "displayName": variables["displayName"]}
            project = {"id": "9", "name": variables["projectName"], "entityName": variables["entityName"]}
            whole = view | {"description": "", "project": project, "spec": variables["spec"], "updatedAt": None}
            return {"upsertView": {"view": whole, "inserted": True}}
        if "ProjectInternalId" in query:
            return {"project": self.project if variables["projectName"] == "mine" else None}
        if "models(" in query or "projects(" in query:
            return {"models": PROJECTS, "entity": {"projects": PROJECTS}}
        return {"viewer": {"id": "4", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((body["query"], body.get("variables"), self.headers["Authorization"]))
        answer = json.dumps({"data": self.server.answer(body["query"], body.get("variables"))}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


PUBLISHER = """
import json, sys
from manifoldgd.cli.main import run
for arguments in json.loads(sys.argv[1]):
    print("exit", run(["dashboard", *arguments]), flush=True)
"""


def published(server, *commands):
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # one of its own
    environment |= {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": KEY, "WANDB_HTTP_TIMEOUT": "2"}
    asked = [sys.executable, "-c", PUBLISHER, json.dumps(commands)]
    return subprocess.run(asked, stdout=-1, stderr=-1, text=True, env=environment)


def test_with_an_account_it_is_published_and_published_again(folder, sweep):
    """wandb's own client against a server: a new report, the same one again, one of a sweep, a missing project."""
    server = Interface()
    mine = ["table=small", "logger.project=mine"]
    try:
        done = published(server, mine, mine, ["sweep=run-abc", "logger.project=mine"], ["table=small"])
    finally:
        server.shutdown()
        server.server_close()
    exits = [line for line in done.stdout.splitlines() if line.startswith("exit")]
    assert exits == ["exit 0", "exit 0", "exit 0", "exit 2"], done.stderr
    sent = [variables for query, variables, _ in server.asked if "upsertView" in query]
    assert [each["id"] for each in sent] == [None, "Vmlldzox", None]
    assert {(each["entityName"], each["projectName"], each["type"]) for each in sent} == {("me", "mine", "runs")}
    assert [each["displayName"] for each in sent] == ["A small table", "A small table", "Sweep run-abc"]
    assert grids(json.loads(sent[0]["spec"]))[0]["runSets"][0]["project"]["id"] == "77"
    held = json.loads((folder / "dashboard.json").read_text())["published"]
    assert f"dashboard: {held['address']}" in done.stdout.splitlines()
    assert held["address"].startswith(f"{server.address}/me/mine/reports/")
    account = f"Basic {base64.b64encode(f'api:{KEY}'.encode()).decode()}"
    assert {given for _, _, given in server.asked} == {account}
    assert KEY not in (folder / "dashboard.json").read_text() + done.stdout
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("manifoldgd: error")]
    assert "me/manifoldgd" in error
    assert "logger.project" in error
    assert "wandb sync" in error
    assert "Traceback" not in done.stderr


def test_a_report_published_by_an_older_version_keeps_its_place(monkeypatch, folder):
    """They wrote the whole specification beside ``published``, and the server into it."""
    place = {"server": "https://api.wandb.ai", "entity": "me", "project": "p", "id": "old", "address": "https://x"}
    (folder / "dashboard.json").write_text(json.dumps({"displayName": "t", "spec": {}, "published": place}))
    told = []
    monkeypatch.setattr("manifoldgd.cli.dashboard.has_account", lambda: True)
    monkeypatch.setattr(reports, "publish", lambda *report, known: told.append(known) or ("old", "https://y"))
    asked = ("table=small", "logger.entity=me", "logger.project=p")
    assert manifoldgd("dashboard", *asked) == 0
    assert manifoldgd("dashboard", *asked[:-1], "logger.project=other") == 0
    assert told == ["old", ""]


def test_a_server_that_is_gone_is_one_line(capsys, monkeypatch, folder):
    """Whatever wandb raises."""
    monkeypatch.setattr("manifoldgd.cli.dashboard.has_account", lambda: True)

    def gone(*asked, **how):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(reports.wandb, "Api", gone)
    assert "W&B: the report was not published (no route); try again later" in refused(capsys, "table=small")
    (folder / "dashboard.json").write_text(
        json.dumps({"published": {"entity": "me", "project": "manifoldgd", "id": "x"}})
    )
    err = refused(capsys, "table=small", "logger.entity=me")
    assert "dashboard.json" in err
