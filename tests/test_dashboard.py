"""A table's W&B report: what it specifies, and what goes over the wire to a stand-in of W&B's interface."""

import base64
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command import manifoldgd
from PIL import Image
from tables import small_table

from manifoldgd.tracking.dashboard import table_report

PROJECT = {"name": "p", "entityName": "me", "id": "77"}
KEY = "k" * 40


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "outputs" / "tables" / "small"
    small_table().save(found / "results.json")
    (found / "figures").mkdir()
    Image.new("RGB", (6, 3)).save(found / "figures" / "ipc10.png")
    return found


class Interface(ThreadingHTTPServer):
    """W&B's interface as far as reports need it. It keeps what it is asked, and its answers can be changed."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.status = [], 200
        self.answers = {
            "Viewer": {"viewer": {"entity": "me"}},
            "ProjectInternalId": {"project": {"internalId": "77"}},
            "upsertView": {"upsertView": {"view": {"id": "Vmlldzox="}, "inserted": True}},
        }
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def of(self, name):
        return [variables for operation, variables, _ in self.asked if operation == name]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        assert self.path == "/graphql"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = body["query"].split("(")[0].split("{")[0].split()[1]
        self.server.asked.append((operation, body["variables"], self.headers["Authorization"]))
        answer = self.server.answers[operation]
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(json.dumps(answer if "errors" in answer else {"data": answer}).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def wandb_server(monkeypatch):
    server = Interface()
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield server
    server.shutdown()
    server.server_close()


def grids(spec):
    return [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]


def panels(spec):
    return [panel for grid in grids(spec) for panel in grid["panelBankSectionConfig"]["panels"]]


def held(folder):
    return json.loads((folder / "dashboard.json").read_text())


def test_the_report_shows_what_it_should():
    spec = table_report(small_table(), PROJECT, group="small", figures=["ipc10"])
    by_title = {panel["config"].get("chartTitle"): panel["config"] for panel in panels(spec)}
    bar = by_title["Accuracy by method: mean and deviation over sets"]
    assert (bar["metrics"], bar["groupBy"]) == (["summary_metrics.last_top1"], "cell.value.method")
    assert (bar["groupAgg"], bar["groupArea"]) == ("mean", "stddev")
    scatters = [by_title["Accuracy against images per class"], by_title["Accuracy against guidance scale"]]
    assert [each["xAxis"] for each in scatters] == ["config:ipc.value", "config:guidance.value.scale"]
    assert {each["yAxis"] for each in scatters} == {"summary:last_top1"}
    assert by_title["Distilled sets"]["mediaKeys"] == ["set"]
    assert by_title["Figures"]["mediaKeys"] == ["figure/ipc10"]
    assert by_title["Accuracy over epochs"]["metrics"] == ["student/0/top1", "student/1/top1"]
    keys = [
        panel["config"]["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]
        for panel in panels(spec)
        if panel["viewType"] == "Weave"
    ]
    assert keys == ["table", "per_class"]


def test_run_sets_hold_the_table_s_group():
    spec = table_report(small_table(), PROJECT, group="mine", figures=[])
    run_sets = [run_set for grid in grids(spec) for run_set in grid["runSets"]]
    kinds = []
    for run_set in run_sets:
        wanted = {each["key"]["name"]: each["value"] for each in run_set["filters"]["filters"]}
        assert wanted["group"] == "mine"
        assert run_set["project"] == PROJECT
        kinds.append((wanted["jobType"], run_set["search"]["query"]))
    assert kinds == [("table", ""), ("cell", "/ipc1/"), ("cell", "/ipc10/"), ("cell", ""), ("table", "")]


def test_names_stay_and_do_not_meet():
    one = table_report(small_table(), PROJECT, group="small", figures=["a"])
    assert one == table_report(small_table(), PROJECT, group="small", figures=["a"])
    names = [panel["__id__"] for panel in panels(one)]
    assert len(set(names)) == len(names)
    for grid in grids(one):
        boxes = [panel["layout"] for panel in grid["panelBankSectionConfig"]["panels"]]
        covered = [
            (x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])
        ]
        assert len(set(covered)) == len(covered)
        assert max(x for x, _ in covered) < 24


def test_wandb_s_own_reader_understands_every_block():
    """Read and written again by W&B's package, the specification is the same: nothing is unknown to it."""
    internal = pytest.importorskip("wandb_workspaces.reports.v2.internal")
    spec = table_report(small_table(), PROJECT, group="small", figures=["ipc10"])
    read = internal.Spec.model_validate(spec)
    assert not any(isinstance(block, internal.UnknownBlock) for block in read.blocks)
    written = read.model_dump_json(by_alias=True, exclude_none=True)
    assert json.loads(written.replace(',"inlineComments":[]', "")) == spec
    for panel in panels(spec):
        kind = internal.panel_type_mapping[panel["viewType"]]
        again = kind.model_validate(panel).model_dump(by_alias=True, exclude_none=True, mode="json")
        assert again == panel


def test_without_an_account_the_file_says_it_all(capsys, folder):
    assert manifoldgd("dashboard", "table=small") == 0
    step = "to publish it, run `wandb login` and run the same command again"
    empty, written = capsys.readouterr().out.splitlines()
    assert "the panels will be empty unless" in empty
    assert "`manifoldgd table table=small logger=wandb`" in empty
    assert written == f"dashboard: outputs/tables/small/dashboard.json; {step}"
    assert held(folder)["displayName"] == "A small table"
    assert held(folder)["published"] is None
    assert any(panel["config"].get("mediaKeys") == ["figure/ipc10"] for panel in panels(held(folder)["spec"]))


def test_cells_with_runs_need_no_remark(capsys, folder):
    measured = small_table()
    replace(measured, sets=tuple(replace(one, run="https://wandb.ai/me/p/runs/1") for one in measured.sets)).save(
        folder / "results.json"
    )
    assert manifoldgd("dashboard", "table=small") == 0
    assert "panels" not in capsys.readouterr().out


def test_with_an_account_it_is_published(capsys, folder, wandb_server):
    assert manifoldgd("dashboard", "table=small", "logger.project=mine") == 0
    address = f"{wandb_server.address}/me/mine/reports/A-small-table--Vmlldzox"
    assert capsys.readouterr().out.endswith(f"dashboard: {address}\n")
    assert wandb_server.of("ProjectInternalId") == [{"entityName": "me", "projectName": "mine"}]
    (sent,) = wandb_server.of("upsertView")
    assert (sent["entityName"], sent["projectName"], sent["type"], sent["id"]) == ("me", "mine", "runs", None)
    assert json.loads(sent["spec"]) == held(folder)["spec"]
    assert grids(json.loads(sent["spec"]))[0]["runSets"][0]["project"]["id"] == "77"
    account = f"Basic {base64.b64encode(f'api:{KEY}'.encode()).decode()}"
    assert {given for _, _, given in wandb_server.asked} == {account}
    assert KEY not in (folder / "dashboard.json").read_text()


def test_published_again_it_takes_its_own_place(folder, wandb_server):
    for _ in range(2):
        assert manifoldgd("dashboard", "table=small", "logger.entity=me") == 0
    assert wandb_server.of("Viewer") == []  # an entity that is given is not asked for
    assert [sent["id"] for sent in wandb_server.of("upsertView")] == [None, "Vmlldzox="]
    assert manifoldgd("dashboard", "table=small", "logger.mode=offline") == 0  # forgets nothing
    assert manifoldgd("dashboard", "table=small", "logger.project=other") == 0
    assert wandb_server.of("upsertView")[-1]["id"] is None


def refused(capsys, *arguments):
    assert manifoldgd("dashboard", *arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_server_that_is_gone(capsys, folder, wandb_server):
    wandb_server.shutdown()
    wandb_server.server_close()
    err = refused(capsys, "table=small")
    assert f"W&B: {wandb_server.address} cannot be reached" in err
    assert "the specification is in outputs/tables/small/dashboard.json" in err
    assert held(folder)["spec"]


def test_a_server_that_refuses(capsys, folder, wandb_server):
    wandb_server.status = 401
    assert "refuses (401 Unauthorized); run `wandb login`" in refused(capsys, "table=small")
    wandb_server.status = 200
    wandb_server.answers["upsertView"] = {"errors": [{"message": "no\nroom"}]}
    assert "refuses: no room" in refused(capsys, "table=small")
    wandb_server.answers["ProjectInternalId"] = {"project": None}
    assert "logger.project: me/manifoldgd does not exist" in refused(capsys, "table=small")
    wandb_server.answers["Viewer"] = {"viewer": None}
    assert "does not know this API key" in refused(capsys, "table=small")


def test_bad_input(capsys, folder):
    assert "table: needs the name of a table; set table=NAME" in refused(capsys)
    err = refused(capsys, "table=smal")
    assert "no results of 'smal' in outputs/tables/smal; did you mean 'small'?" in err
    assert "tables with results: small" in refused(capsys, "table=imagenet")
    assert "logger: a dashboard is one of W&B" in refused(capsys, "table=small", "logger=none")
    assert "does not use 'ipc'" in refused(capsys, "table=small", "ipc=3")
    (folder / "results.json").write_text("{}")
    assert "holds a table of format None" in refused(capsys, "table=small")
