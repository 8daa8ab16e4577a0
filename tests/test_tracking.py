"""W&B works offline, opens one run a job, and asks for a key only when told to be online."""

import json

import pytest
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


def test_two_jobs_of_one_process_are_two_offline_runs(capsys, tmp_path):
    wandb = pytest.importorskip("wandb")
    ids = []
    for job in range(2):
        one = tracker(group="mine" if job else None)
        one.start(name=f"job{job}", group="digits", config={"ipc": job})
        assert one.run.group == ("mine" if job else "digits")
        assert one.run.name == f"job{job}"
        assert one.run.config["ipc"] == job
        ids.append(one.run.id)
        logger = one.student_logger(0)
        assert logger.experiment is one.run
        logger.log_metrics({"top1": 0.5}, step=1)
        table = {"seed": [0, 1], "last_top1": [0.5, 0.6]}
        one.finish(summary={"last_top1": 0.55}, table=table, grid=Image.new("RGB", (4, 4)))
        assert one.run.summary["last_top1"] == 0.55
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
    none = NoTracker()
    none.start(name="a", group="b", config={})
    assert none.student_logger(0) is False
    none.finish(summary={}, table={}, grid=Image.new("L", (1, 1)))
    none.close(0)
    assert json.dumps(sorted(each.name for each in tmp_path.iterdir())) == "[]"
