"""A table is one run beside its cells' runs; a W&B in trouble leaves it on disk."""

import fake_wandb
import pytest
from PIL import Image
from tables import small_table

from manifoldgd.tracking import NoTracker, WandbTracker
from manifoldgd.tracking.tables import track_table


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


def tracker(**changes):
    return WandbTracker(
        **{"project": "p", "entity": None, "group": None, "mode": "auto", "folder": "out", "sets": True} | changes
    )


def rendered(folder):
    folder.mkdir()
    Image.new("RGB", (6, 3)).save(folder / "ipc10.png")
    (folder / "table.csv").write_text("a,b\n")
    return folder


def test_a_table_is_one_run(monkeypatch, tmp_path):
    wandb = fake_wandb.install(monkeypatch)
    url = track_table(tracker(), small_table(), rendered(tmp_path / "t"), group="small")
    assert url == "https://wandb.example/p/runs/1"
    (run,) = wandb.runs
    assert (run.settings["name"], run.settings["group"], run.settings["job_type"]) == ("small", "small", "table")
    assert run.settings["config"]["split"] == "test"
    seeds = {key: list(seeds) for key, seeds in small_table().students.items()}
    assert run.settings["config"]["student_seeds"] == seeds
    assert run.settings["tags"] == ["dataset: digits", "ipc: 1", "ipc: 10", "student: ConvNet-3"]
    assert run.exit_code == 0
    # Sets (0.50, 0.52) and (0.54, 0.56): means 0.51 and 0.55.
    assert run.summary["ipc1/random/mean"] == pytest.approx(0.53)
    assert run.summary["ipc1/random/std"] == pytest.approx(0.04 / 2**0.5)
    assert run.summary["ipc1/random/ci95"] == pytest.approx(12.7062047362 * 0.02)  # t(0.975, 1)
    assert run.summary["ipc1/mode/mean"] == pytest.approx(0.61)
    assert "ipc1/mode/ci95" not in run.summary  # one set has no interval
    assert (run.summary["cells/finished"], run.summary["sets/failed"]) == (2, 1)


def test_the_run_holds_table_classes_and_figures(monkeypatch, tmp_path):
    wandb = fake_wandb.install(monkeypatch)
    track_table(tracker(), small_table(), rendered(tmp_path / "t"), group="small")
    logged = {name: value for values in wandb.runs[0].history for name, value in values.items()}
    assert logged["figure/ipc10"] == ("image", (6, 3))
    _, columns, rows = logged["table"]
    first = dict(zip(columns, rows[0], strict=True))
    assert (first["column"], first["method"], first["sets"], first["students"]) == ("ipc1", "random", 2, 4)
    assert (first["ipc"], first["student"], first["seconds"]) == (1, "ConvNet-3", 6.0)
    assert first["best_epoch_mean"] == pytest.approx(0.54)
    _, columns, rows = logged["per_class"]
    assert columns == ["column", "method", "class", "accuracy"]
    assert rows[0] == ["ipc1", "random", "zero", pytest.approx(0.63)]
    assert len(rows) == 4


@pytest.mark.parametrize("key", [True, False], ids=["online", "offline"])
def test_the_same_table_again_continues_its_run(monkeypatch, tmp_path, key):
    wandb = fake_wandb.install(monkeypatch, key=key)
    folder = rendered(tmp_path / "t")
    grown = small_table(sets=())
    for result, group in (
        (small_table(), "small"),
        (grown, "small"),
        (grown, "other"),
        (small_table(name="b"), "small"),
    ):
        track_table(tracker(), result, folder, group=group)
    one, again, elsewhere, other = (run.settings for run in wandb.runs)
    assert one["id"] == again["id"]
    assert len({one["id"], elsewhere["id"], other["id"]}) == 3
    assert {each["mode"] for each in (one, again)} == {"online" if key else "offline"}
    assert one["resume"] == again["resume"] == "allow"


def test_a_table_with_nothing_finished(monkeypatch, tmp_path):
    wandb = fake_wandb.install(monkeypatch)
    track_table(tracker(), small_table(sets=()), tmp_path, group="small")
    assert wandb.runs[0].summary == {"cells/finished": 0, "sets/failed": 1}


def test_without_a_tracker_nothing_happens(tmp_path):
    assert track_table(NoTracker(), small_table(), tmp_path, group="small") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_trouble_is_said_and_raises_nothing(capsys, monkeypatch, tmp_path, fails):
    fake_wandb.install(monkeypatch, fails=[fails])
    track_table(tracker(), small_table(), rendered(tmp_path / "t"), group="small")
    assert capsys.readouterr().out.startswith("W&B: ")


def test_offline_it_lies_in_wandb_s_folder(capsys, tmp_path):
    pytest.importorskip("wandb")
    assert track_table(tracker(), small_table(), rendered(tmp_path / "t"), group="small") is None
    assert "W&B: recorded offline; upload with `wandb sync out/wandb/offline-run-" in capsys.readouterr().out
    media = {file.name.split("_")[0] for file in (tmp_path / "out").rglob("*.table.json")}
    assert media == {"table", "per"}
