"""W&B works offline, opens one run a job, asks for a key only when told to be online, and never fails a run."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fake_wandb
import pytest
from command import quick
from offline_runs import offline_runs
from PIL import Image

from manifoldgd.cli.commands import guidance_scale
from manifoldgd.errors import UserError
from manifoldgd.students import Student
from manifoldgd.tracking import NoTracker, RunFacts, RunResult, WandbTracker


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


SETTINGS = {"project": "p", "entity": None, "group": None, "mode": "auto", "folder": "out", "sets": True}
KEY = "k" * 40


def tracker(**changes):
    return WandbTracker(**SETTINGS | changes)


# Where `wandb login` of the oldest version taken writes: api.forge.coreweave.com.
ACCOUNTS = {
    "login": ("machine api.forge.coreweave.com login user password " + KEY, {}),
    "other": ("machine github.com login user password x", {}),
    "broken": ("machine machine machine", {}),
    "key": ("", {"WANDB_API_KEY": KEY}),
    "offline": ("", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}),
    "malformed": ("", {"WANDB_API_KEY": "short"}),
}
ASKED = """
import json, os, sys
from manifoldgd.tracking.wandb_tracker import has_account
assert "wandb" not in sys.modules
import wandb  # once for all
for name, (netrc, environment) in json.loads(sys.argv[1]).items():
    sys.stdout.flush()
    if os.fork() == 0:  # wandb looks once a process
        open(os.environ["NETRC"], "w").write(netrc)
        os.environ.update(environment)
        print(name, has_account(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_an_account_is_what_wandb_itself_takes_for_one():
    pytest.importorskip("wandb")
    asked = [sys.executable, "-c", ASKED, json.dumps(ACCOUNTS)]
    *said, warned, last = subprocess.run(asked, stdout=-1, text=True, check=True).stdout.splitlines()
    assert said == ["login True", "other False", "broken False", "key True", "offline False"]
    assert "`wandb login`" in warned
    assert last == "malformed False"


def test_mode_follows_the_account(monkeypatch):
    wandb = fake_wandb.install(monkeypatch)
    for mode, key, expected in (("auto", True, "online"), ("auto", False, "offline"), ("offline", True, "offline")):
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        if key:
            monkeypatch.setenv("WANDB_API_KEY", KEY)
        one = started(tracker(mode=mode))
        assert wandb.runs[-1].settings["mode"] == expected
        one.close(0)


def test_credentials_that_wandb_refuses_stop_nothing(capsys, monkeypatch):
    wandb = fake_wandb.install(monkeypatch, fails=["login"])
    started(tracker()).close(0)
    assert [run.settings["mode"] for run in wandb.runs] == ["offline"]
    said = capsys.readouterr().out.splitlines()
    assert "`wandb login`" in said[0]
    assert "wandb sync" in said[1]


def test_a_run_left_open_does_not_hide_the_account(monkeypatch):
    wandb = fake_wandb.install(monkeypatch)
    started(tracker())
    wandb.run = wandb.runs[0]
    wandb.fails.add("login")  # between runs only
    started(tracker(), name="b")
    assert [run.settings["mode"] for run in wandb.runs] == ["online", "online"]
    assert wandb.runs[1].settings["reinit"] == "finish_previous"


def test_online_without_a_key_says_what_to_do():
    with pytest.raises(UserError, match=r"mode: .*wandb login.*logger=none"):
        tracker(mode="online")
    with pytest.raises(UserError, match=r"mode: expected one of auto, online, offline, got 'disabled'"):
        tracker(mode="disabled")


def started(one, *, name="a", config=None, run_id=None):
    one.start(
        RunFacts(
            name=name,
            group="digits",
            job_type="run",
            config=config or {},
            run_id=run_id or f"id-{name}",
            folder=Path("result"),
            tags=["ipc: 1"],
        )
    )
    return one


def finish(one, **more):
    table = {"seed": [0, 1], "last_top1": [0.5, 0.6]}
    images = {"set": Image.new("RGB", (4, 4))}
    one.finish(RunResult(summary={"last_top1": 0.55}, tables={"students": table}, images=images, **more))


POINTS = [
    {"epoch": 5, "student/0/top1": 0.4},  # drawn while it grew
    {"epoch": 5, "student/1/top1": 0.3},
    {"guidance/step": 0, "guidance/ratio": 0.25, "guidance/kept": 0.5},
    {"guidance/step": 1, "guidance/ratio": 0.125},
]


def test_two_jobs_of_one_process_are_two_offline_runs(capsys, tmp_path):
    wandb = pytest.importorskip("wandb")
    made = tmp_path / "made"
    (made / "zero").mkdir(parents=True)
    Image.new("L", (4, 4)).save(made / "zero" / "0.png")
    for job in range(2):
        one = started(tracker(group="mine" if job else None, sets=job == 0), name=f"job{job}", config={"ipc": job})
        assert one.url is None  # offline
        one.student_logger(0).log_metrics({"student/0/top1": 0.5}, step=1)
        finish(one, points=POINTS, set_folder=made)
        one.close(0)
        one.close(0)  # a second time does nothing
        assert one.run is None
    assert wandb.run is None
    assert capsys.readouterr().out.count("wandb sync out/wandb/offline-run-") == 2
    first, second = offline_runs(tmp_path / "out")
    assert (first.run_id, first.name, first.group, first.job_type) == ("id-job0", "job0", "digits", "run")
    assert (second.run_id, second.name, second.group) == ("id-job1", "job1", "mine")
    assert (first.config["ipc"], second.config["ipc"]) == (0, 1)
    assert first.tags == ["ipc: 1"]
    assert first.summary["last_top1"] == 0.55
    assert first.exit_code == 0
    assert first.curve("student/0/top1", "epoch") == [(1, 0.5)]
    assert first.curve("student/1/top1", "epoch") == [(5, 0.3)]
    assert first.curve("guidance/ratio", "guidance/step") == [(0, 0.25), (1, 0.125)]
    assert first.curve("guidance/kept", "guidance/step") == [(0, 0.5)]
    assert first.steps == {"student/*": "epoch", "guidance/ratio": "guidance/step", "guidance/kept": "guidance/step"}
    assert {name: files for name, files in first.artifacts.items() if name.startswith("set")} == {
        "set-id-job0": ["zero/0.png"]
    }
    assert not any(name.startswith("set") for name in second.artifacts)
    assert (made / "zero" / "0.png").is_file()


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


def test_a_tracked_run_is_a_whole_result(tiny_prior, shared_cache, tmp_path):
    """Offline, with wandb's own run: configuration, tags, curves, pictures, the set."""
    pytest.importorskip("wandb")
    guided = ("guidance=mode", "guidance.scale=0.5", "measures=true", "logger=wandb", f"logger.folder={tmp_path / 'w'}")
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", *guided) == 0
    (run,) = offline_runs(tmp_path / "w")
    result = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert (run.group, run.job_type, run.exit_code) == ("digits", "run", 0)
    facts = {"method": "mode", "dataset": "digits", "student": result["student"], "ipc": 1, "scale": 0.5}
    assert run.tags == [f"{name}: {value}" for name, value in facts.items()]
    assert {name: run.config[name] for name in ("method", "ipc", "scale")} == {"method": "mode", "ipc": 1, "scale": 0.5}
    assert (run.config["dataset"]["name"], run.config["student"]["name"]) == ("digits", result["student"])
    assert (run.config["guidance"]["scale"], run.config["sampler"]["steps"]) == (0.5, 3)
    assert run.summary["last_top1"] == result["accuracy"]["last"]["mean"]
    assert {"best_top1", "set/frechet_distance"} <= set(run.summary)
    assert [len(run.curve("student/0/loss", "epoch")), run.curve("student/0/top1", "epoch")[-1][0]] == [1, 1]
    steps = result["guidance"]["steps"]
    known = [(step, row["ratio_mean"]) for step, row in enumerate(steps) if row["ratio_mean"] is not None]
    assert known
    assert run.curve("guidance/ratio", "guidance/step") == known
    assert {"set", "prototypes", "guidance", "students"} <= {name.split(".")[0] for row in run.history for name in row}
    images = [path for path in run.artifacts[f"set-{run.run_id}"] if path.endswith(".png")]
    assert len(images) == result["num_images"]


def test_a_resumed_result_is_one_run(monkeypatch, tiny_prior, shared_cache, tmp_path):
    """Stopped after its first student, continued: two offline folders, one run, and the later folder has it all."""
    pytest.importorskip("wandb")
    train = Student.train

    def dies(self, *images, seed, **settings):
        if seed == 1:
            raise KeyboardInterrupt
        return train(self, *images, seed=seed, **settings)

    cell = "cell={table: mine, method: unguided, column: ipc1, seed: 0}"
    asked = ("guidance=none", "student_seeds=[0,1]", "logger=wandb", f"logger.folder={tmp_path / 'w'}", cell)
    monkeypatch.setattr(Student, "train", dies)
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", *asked) == 130
    monkeypatch.setattr(Student, "train", train)
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", *asked) == 0
    stopped, whole = offline_runs(tmp_path / "w")
    assert stopped.run_id == whole.run_id
    assert (stopped.exit_code, whole.exit_code) == (1, 0)
    assert (whole.name, whole.group, whole.job_type) == ("unguided/ipc1/seed0", "mine", "cell")
    assert "scale" not in {tag.split(":")[0] for tag in whole.tags}
    for seed in (0, 1):
        assert [epoch for epoch, _ in whole.curve(f"student/{seed}/top1", "epoch")] == [1]
    assert stopped.curve("student/0/top1", "epoch") == whole.curve("student/0/top1", "epoch")


def test_what_a_result_is_tells_its_run(monkeypatch, tiny_prior, shared_cache, tmp_path):
    wandb = fake_wandb.install(monkeypatch)
    made, again = tmp_path / "o", tmp_path / "copies" / "o"
    asked = ("logger=wandb", "guidance=mode", "measures=false")
    assert quick("run", tiny_prior, shared_cache, made, *asked) == 0
    assert quick("run", tiny_prior, shared_cache, again, *asked, "machine.batch_size=3", "student_seeds=[1]") == 0
    judged = ("logger=wandb", f"set={made}", "measures=false", "student.width=4")
    assert quick("evaluate", tiny_prior, shared_cache, tmp_path / "e" / "o", *judged) == 0
    first, same, other = (run.settings for run in wandb.runs)
    assert first["id"] == same["id"]  # batches and students change nothing about what it is
    assert first["id"] != other["id"]
    assert {each["resume"] for each in (first, same, other)} == {"allow"}
    # A set judged later says what made it, not what the defaults would make.
    assert other["config"]["method"] == "mode"
    assert other["config"]["guidance"] == first["config"]["guidance"]


@pytest.mark.parametrize(
    ("guidance", "scale"),
    [
        ({"scale": 0.1}, 0.1),
        ({"first": {"scale": 0.2}, "steps": 3}, 0.2),
        ({"method": {"scale": 0.3}}, 0.3),
        ({"pull": 1.0}, None),
        (None, None),
    ],
)
def test_scale_of_any_guidance(guidance, scale):
    assert guidance_scale({"guidance": guidance}) == scale


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
from pathlib import Path
from manifoldgd.tracking import RunFacts, RunResult, WandbTracker, wandb_tracker
from PIL import Image
wandb_tracker.FINISH_SECONDS = 2.0
one = WandbTracker(project="p", entity=None, group=None, mode="auto", folder="out", sets=True)
one.start(RunFacts(name="a", group="g", job_type="run", config={}, run_id="abc", folder=Path("o")))
print("url", one.url, flush=True)
sys.stdin.readline()  # the server dies meanwhile
for epoch in range(3):
    one.student_logger(0).log_metrics({"student/0/loss": 1.0}, step=epoch + 1)
one.finish(RunResult(summary={"last_top1": 0.5}, tables={}, images={"set": Image.new("L", (8, 8))}))
one.close(0)
print("survived")
"""


@pytest.mark.slow  # wandb's own client takes seconds to give up; what we make of that is tested above with a stand-in
def test_a_server_that_dies_in_the_middle_stops_nothing(tmp_path):
    pytest.importorskip("wandb")
    server = ThreadingHTTPServer(("127.0.0.1", 0), FirstAnswers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # one of its own
    environment |= {"WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "WANDB_HTTP_TIMEOUT": "2"}
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
