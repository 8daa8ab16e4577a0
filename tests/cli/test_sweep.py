"""A sweep makes one table; a failing job is listed and stops nobody."""

import csv
import json
import signal

import pytest
from command import QUICK, manifoldgd
from fake_cells import WRONG
from toy_table import ran

from manifoldgd import stopping
from manifoldgd.cli.arguments import read_arguments
from manifoldgd.cli.grid import grid_jobs
from manifoldgd.cli.sweep import FOLDER_VARIABLE, job_records, plan_sweep, record_job
from manifoldgd.errors import UserError
from manifoldgd.study.results import TableResult
from manifoldgd.study.run import Watch


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, "")  # restored afterwards
    monkeypatch.chdir(tmp_path)


def sweep(prior, cache, *changes):
    given = {change.split("=", 1)[0] for change in changes}
    keys = [each for each in QUICK if each.split("=", 1)[0] not in given]
    return manifoldgd("run", "--multirun", "dataset=digits", *keys, f"prior.path={prior}", f"cache={cache}", *changes)


def folder_of(tmp_path):
    (folder,) = (tmp_path / "outputs" / "sweeps").glob("run-*")
    return folder


def test_flags():
    assert read_arguments(["ipc=1,2", "-m"]).sweeps
    assert read_arguments(["ipc=1,2", "-m", "seed=0"]).for_hydra() == ["--multirun", "ipc=1,2", "seed=0"]
    assert not read_arguments(["ipc=1"]).sweeps
    assert not read_arguments(["-m", "ipc=1,2", "--cfg", "job"]).sweeps


@pytest.mark.slow
def test_two_by_two(capsys, tiny_prior, shared_cache, tmp_path):
    assert sweep(tiny_prior, shared_cache, "guidance=mode,none", "ipc=1,2") == 0
    out = capsys.readouterr().out
    folder = folder_of(tmp_path)
    assert f"sweep: 4 finished, 0 failed; {folder.relative_to(tmp_path)}" in out
    assert "2 images a class" in out
    assert "accuracy, %" in out
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert sorted((row["guidance"], row["ipc"]) for row in rows) == [
        ("mode", "1"),
        ("mode", "2"),
        ("none", "1"),
        ("none", "2"),
    ]
    assert {"sweep.csv", "sweep.md", "sweep.html", "failed.csv"} <= {file.name for file in folder.iterdir()}
    assert all(0 <= float(row["last_top1"]) <= 1 for row in rows)
    assert len(list(csv.DictReader((folder / "results.csv").open()))) == 4  # one student a job


def test_a_failing_job_is_listed_and_the_others_finish(capsys, fakes, tiny_prior, shared_cache, tmp_path):
    assert sweep(tiny_prior, shared_cache, "guidance=none", "ipc=5000,1") == 1
    out, err = capsys.readouterr()
    assert "sweep: 1 finished, 1 failed" in out
    assert "ipc=5000: ipc: expected at most" in out
    assert "Traceback" not in err
    records = [json.loads(file.read_text()) for file in sorted((folder_of(tmp_path) / "jobs").iterdir())]
    assert [record["error"] is None for record in records] == [False, True]
    assert "ipc=5000" in (folder_of(tmp_path) / "failed.csv").read_text()


def test_a_grid_is_run_like_a_table(capsys, fakes, tiny_prior, shared_cache, tmp_path):
    words = ("guidance=none,mode", "ipc=1,2", "seed=0,1", "jobs=2")
    fakes({"guidance=mode": WRONG})
    assert sweep(tiny_prior, shared_cache, *words) == 1
    out = capsys.readouterr().out
    assert "ipc=2/guidance=mode-seed1: failed: ipc: too many" in out
    assert "sweep: 4 finished, 4 failed" in out
    held = TableResult.load(folder_of(tmp_path) / "results.json")
    assert (held.methods, held.seeds) == (("guidance=none", "guidance=mode"), (0, 1))
    assert [(column.key, column.ipc) for column in held.columns] == [("ipc=1", 1), ("ipc=2", 2)]
    assert (len(held.sets), len(held.failed)) == (4, 4)
    assert len(ran(folder_of(tmp_path))) == 4
    fakes()
    assert sweep(tiny_prior, shared_cache, *words) == 0
    assert len(ran(folder_of(tmp_path))) == 4  # what is finished is read
    names = [file.parent.name for file in (tmp_path / "outputs" / "digits").glob("*/metrics.json")]
    assert len(names) == 8  # where single runs would put them
    assert all(name.startswith(("none-ipc", "mode-ipc")) for name in names)


def test_a_grid_that_is_stopped_continues(capsys, fakes, monkeypatch, tiny_prior, shared_cache, tmp_path):
    words = ("guidance=none", "ipc=1,2,3", "jobs=1")

    def tick(watch, running):
        if len(watch.board.sets) == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "tick", tick)
        patch.setattr(stopping, "PATIENCE", 60)
        assert sweep(tiny_prior, shared_cache, *words) == 143
    assert "stopped by SIGTERM; 2 of 3 cells finished, 0 failed" in capsys.readouterr().err
    assert len(list((folder_of(tmp_path) / "jobs").iterdir())) == 2
    assert len(ran(folder_of(tmp_path))) == 2
    assert sweep(tiny_prior, shared_cache, *words) == 0
    assert len(ran(folder_of(tmp_path))) == 1
    assert "sweep: 3 finished, 0 failed" in capsys.readouterr().out


def test_a_grid_is_the_product_of_its_keys():
    fixed = ["dataset=digits", "+guidance.own=1", "~measures"]
    swept = ["guidance.scale=0.1,0.2", "ipc=range(1,3)", "seed=3,4", "student.width=8,9"]
    plan = plan_sweep(read_arguments(["-m", *fixed, *swept, "hydra/launcher=joblib"]))
    jobs = list(grid_jobs(plan.grid("run"), plan.first))
    assert len(jobs) == 16
    assert [job.method for job in jobs[:2]] == ["guidance.scale=0.1", "guidance.scale=0.2"]
    columns = [f"ipc={n} student.width={w}" for n in (1, 2) for w in (8, 9)]
    assert list(dict.fromkeys(job.column for job in jobs)) == columns
    assert [job.overrides["seed"] for job in jobs] == [3] * 8 + [4] * 8
    last = {"dataset": "digits", "+guidance.own": 1, "~measures": None, "guidance.scale": 0.2, "ipc": 2, "seed": 4}
    assert jobs[-1].overrides == last | {"student.width": 9}
    assert list(jobs[-1].overrides) == ["dataset", "+guidance.own", "~measures", *(w.split("=")[0] for w in swept)]
    assert plan.launching.launcher == "joblib"
    assert "hydra.launcher.n_jobs=-1" in plan.launching.settings


@pytest.mark.parametrize("words", [("guidance=glob(m*)",), ("experiment=none,tuning", "dataset.validation=9")])
def test_what_only_hydra_can_expand_is_left_to_it(words):
    plan = plan_sweep(read_arguments(["-m", "dataset=digits", *words]))
    assert plan.grid("run") is None
    plan = plan_sweep(read_arguments(["-m", "dataset=digits", "seed=1,2", "jobs=2"]))
    with pytest.raises(UserError, match=r"jobs: .* hydra/launcher=joblib"):
        plan.grid("distill")


def test_a_sweep_that_cannot_be_composed_is_bad_input(capsys, tmp_path):
    assert manifoldgd("run", "--multirun", "dataset=digits", "guidance=mode,mood") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "guidance: no choice named 'mood'" in err


def test_a_sweep_of_sets_lists_them(capsys, shared_cache, tmp_path):
    arguments = ("dataset=digits", "source=random", "ipc=1,2,5000", "machine=cpu", f"cache={shared_cache}")
    assert manifoldgd("distill", "--multirun", *arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    for ipc in (1, 2):
        (line,) = [line for line in lines if line.startswith(f"ipc={ipc}: finished: ")]
        assert (tmp_path / line.rpartition(": ")[2] / "set" / "manifest.json").is_file()
    assert any(line.startswith("ipc=5000: failed: ipc: expected at most") for line in lines)
    assert lines[-1].startswith("sweep: 2 finished, 1 failed; outputs/sweeps/distill-")


def test_a_damaged_record_of_a_job_is_named(tmp_path):
    record_job(tmp_path, 0, {"ipc": "1"}, {"folder": "o"}, None)
    assert job_records(tmp_path) == [{"overrides": {"ipc": "1"}, "result": {"folder": "o"}, "error": None}]
    file = tmp_path / "jobs" / "0000.json"
    file.write_text(file.read_text().replace('"ipc": "1"', '"ipc": "2"'))
    with pytest.raises(UserError, match=r"0000\.json: does not match its checksum"):
        job_records(tmp_path)
