"""W&B works offline, opens one run a job, asks for a key only when told to be online, and never fails a run."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fake_wandb
import pytest
from command import quick
from PIL import Image

from manifoldgd.errors import UserError
from manifoldgd.tracking import NoTracker, WandbTracker


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


def tracker(**changes):
    return WandbTracker(**{"project": "p", "entity": None, "group": None, "mode": "auto", "folder": "out"} | changes)


def test_mode_follows_the_key(monkeypatch, tmp_path):
    assert tracker().mode == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert tracker().mode == "online"
    assert tracker(mode="offline").mode == "offline"
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "k" * 40)
    assert tracker().mode == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert tracker().mode == "offline"
    monkeypatch.delenv("WANDB_BASE_URL")
    (tmp_path / "netrc").write_text("machine github.com login user password x")
    assert tracker().mode == "offline"


def test_the_usual_netrc_is_read(monkeypatch, tmp_path):
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tracker().mode == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password " + "k" * 40)
    assert tracker().mode == "online"


def test_a_broken_netrc_stops_nothing(tmp_path):
    (tmp_path / "netrc").write_text("machine machine machine")
    assert tracker().mode == "offline"


def test_online_without_a_key_says_what_to_do():
    with pytest.raises(UserError, match=r"logger\.mode: .*wandb login.*logger=none"):
        tracker(mode="online")
    with pytest.raises(UserError, match=r"logger\.mode: expected one of auto, online, offline, got 'disabled'"):
        tracker(mode="disabled")


def started(one, *, name="a", config=None):
    one.start(name=name, group="digits", job_type="run", config=config or {})
    return one


def finish(one):
    table = {"seed": [0, 1], "last_top1": [0.5, 0.6]}
    one.finish(summary={"last_top1": 0.55}, tables={"students": table}, images={"set": Image.new("RGB", (4, 4))})


def test_two_jobs_of_one_process_are_two_offline_runs(capsys, tmp_path):
    wandb = pytest.importorskip("wandb")
    ids = []
    for job in range(2):
        one = started(tracker(group="mine" if job else None), name=f"job{job}", config={"ipc": job})
        assert one.run.group == ("mine" if job else "digits")
        assert (one.run.name, one.run.job_type, one.run.config["ipc"]) == (f"job{job}", "run", job)
        assert one.url is None  # offline
        ids.append(one.run.id)
        one.student_logger(0).log_metrics({"student/0/top1": 0.5}, step=1)
        finish(one)
        assert one.run.summary["last_top1"] == 0.55
        assert one.run.summary["student/0/top1"] == 0.5
        one.close(0)
        one.close(0)  # a second time does nothing
        assert one.run is None
    assert len(set(ids)) == 2
    assert wandb.run is None
    folders = sorted(folder.name for folder in (tmp_path / "out" / "wandb").glob("offline-run-*"))
    assert {name.rsplit("-", 1)[1] for name in folders} == set(ids)
    for folder in folders:
        assert list((tmp_path / "out" / "wandb" / folder).glob("run-*.wandb"))
    out = capsys.readouterr().out
    assert out.count("wandb sync out/wandb/offline-run-") == 2


def test_no_tracker_leaves_nothing(tmp_path):
    none = started(NoTracker())
    assert none.student_logger(0) is False
    finish(none)
    none.close(0)
    assert none.url is None
    assert json.dumps(sorted(each.name for each in tmp_path.iterdir())) == "[]"


def test_curves_have_the_epoch_as_their_axis(monkeypatch):
    wandb = fake_wandb.install(monkeypatch)
    one = started(tracker())
    one.student_logger(3).log_metrics({"student/3/loss": 1.5}, step=7)
    finish(one)
    assert one.url == "https://wandb.example/p/runs/1"
    one.close(0)
    assert one.url is None
    (run,) = wandb.runs
    assert run.history[0] == {"student/3/loss": 1.5, "epoch": 7}
    assert run.history[1] == {"set": ("image", (4, 4))}
    assert run.history[2] == {"students": ("table", ["seed", "last_top1"], [[0, 0.5], [1, 0.6]])}
    assert (run.summary, run.exit_code) == ({"last_top1": 0.55}, 0)


def test_an_unreachable_server_makes_the_run_an_offline_one(capsys, monkeypatch):
    wandb = fake_wandb.install(monkeypatch, fails=["init"])
    one = started(tracker())
    finish(one)
    one.close(0)
    assert [run.settings["mode"] for run in wandb.runs] == ["offline"]
    assert wandb.runs[0].summary == {"last_top1": 0.55}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "W&B: cannot be reached (init: server gone); the run is recorded offline"
    assert said[1].startswith("W&B: recorded offline; upload with `wandb sync ")
    assert len(said) == 2


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_wandb_that_raises_is_left_alone(capsys, monkeypatch, fails):
    wandb = fake_wandb.install(monkeypatch, fails=[fails])
    one = started(tracker())
    logger = one.student_logger(0)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_metrics({"loss": 0.5}, step=2)
    finish(one)
    one.close(0)
    assert one.run is None
    assert wandb.runs[0].exit_code == {"log": 1, "finish": None}[fails]
    upload = "upload with `wandb sync out/wandb/online-run`"
    expected = {
        "log": "W&B: takes no more curves (log: server gone); results are on disk",
        "finish": f"W&B: not everything was uploaded (finish: server gone); {upload}",
    }
    assert capsys.readouterr().out.splitlines() == [expected[fails]]


def test_a_stop_by_the_user_is_no_trouble_of_wandb(monkeypatch):
    wandb = fake_wandb.install(monkeypatch)
    one = started(tracker())
    monkeypatch.setattr(wandb, "fail_if", lambda action: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        one.log({"loss": 1.0})


def test_a_run_goes_on_without_wandb_and_keeps_its_result(capsys, monkeypatch, tiny_prior, shared_cache, tmp_path):
    wandb = fake_wandb.install(monkeypatch, fails=["log", "finish"])
    cell = "cell={table: mine, method: 'manifold (posterior)', column: ipc1, seed: 0}"
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", "logger=wandb", "student_seeds=[0,1]", cell) == 0
    assert capsys.readouterr().out.count("W&B:") == 2
    result = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert len(result["students"]) == 2
    assert result["run_url"] is not None
    assert (tmp_path / "o" / "report.html").is_file()
    settings = wandb.runs[0].settings
    assert (settings["name"], settings["group"]) == ("manifold (posterior)/ipc1/seed0", "mine")
    assert settings["job_type"] == "cell"
    assert settings["config"]["cell"]["method"] == "manifold (posterior)"
    assert settings["config"]["guidance"]["estimator"] == "posterior"


def test_a_tracked_run_has_curves_pictures_and_config(monkeypatch, tiny_prior, shared_cache, tmp_path):
    wandb = fake_wandb.install(monkeypatch)
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", "logger=wandb") == 0
    (run,) = wandb.runs
    assert run.exit_code == 0
    assert (run.settings["group"], run.settings["job_type"]) == ("digits", "run")
    logged = {name for values in run.history for name in values}
    assert {"student/0/loss", "student/0/top1", "epoch", "set", "prototypes", "guidance", "students"} <= logged
    assert {"last_top1", "best_top1", "set/frechet_distance"} <= set(run.summary)
    assert run.settings["config"]["ipc"] == 1


def test_half_a_cell_is_bad_input(capsys, tmp_path):
    assert quick("run", "none", "none", tmp_path / "o", "cell={table: mine}") == 2
    assert "cell: expected null or the keys column, method, seed, table" in capsys.readouterr().err


PROJECT = {"id": "2", "name": "p", "entity": {"id": "3", "name": "me"}}
BUCKET = {"id": "1", "name": "abc", "displayName": "a", "config": "{}", "historyLineCount": 0, "project": PROJECT}


class FirstAnswers(BaseHTTPRequestHandler):
    """As much of W&B's interface as a run takes that has just been opened."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body) if self.path == "/graphql" else {"query": ""}
        data = {}
        if "upsertBucket" in asked["query"]:
            data = {"upsertBucket": {"bucket": BUCKET, "inserted": True}}
        elif "viewer" in asked["query"]:
            data = {"viewer": {"id": "4", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        elif "coreWeaveOrganizationId" in asked["query"]:
            data = {"entity": {"organization": {"coreWeaveOrganizationId": None}}}
        elif "createRunFiles" in asked["query"]:
            here = f"http://{self.headers['Host']}/upload"
            files = [{"name": name, "uploadUrl": f"{here}/{name}"} for name in asked["variables"]["files"]]
            data = {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        self.answer(json.dumps({"data": data}).encode())

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"")

    def answer(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


SURVIVOR = """
import sys
from manifoldgd.tracking import WandbTracker, wandb_tracker
from PIL import Image
wandb_tracker.FINISH_SECONDS = 2.0
one = WandbTracker(project="p", entity=None, group=None, mode="auto", folder="out")
one.start(name="a", group="g", job_type="run", config={})
print("url", one.url, flush=True)
sys.stdin.readline()  # the server dies meanwhile
for epoch in range(3):
    one.student_logger(0).log_metrics({"student/0/loss": 1.0}, step=epoch + 1)
one.finish(summary={"last_top1": 0.5}, tables={}, images={"set": Image.new("L", (8, 8))})
one.close(0)
print("survived")
"""


def test_a_server_that_dies_in_the_middle_stops_nothing(tmp_path):
    pytest.importorskip("wandb")
    server = ThreadingHTTPServer(("127.0.0.1", 0), FirstAnswers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # one of its own
    environment |= {"WANDB_BASE_URL": address, "WANDB_API_KEY": "k" * 40, "WANDB_HTTP_TIMEOUT": "2"}
    process = subprocess.Popen(
        [sys.executable, "-c", SURVIVOR], stdin=-1, stdout=-1, stderr=-1, text=True, cwd=tmp_path, env=environment
    )
    try:
        assert process.stdout.readline() == f"url {address}/me/p/runs/abc\n"
        server.shutdown()
        server.server_close()
        out, err = process.communicate("\n", timeout=300)
    finally:
        process.kill()
        server.server_close()
    assert process.returncode == 0, err
    said = out.splitlines()
    assert said[-1] == "survived"
    assert "W&B: not everything was uploaded (Timed out finishing run.); upload with `wandb sync out/wandb/run-" in out
    assert len(said) == 2
    assert list((tmp_path / "out" / "wandb").glob("run-*/run-*.wandb"))  # what `wandb sync` uploads later
