"""``manifoldgd table`` from start to end: what it runs, says and leaves; cells run as fakes, and once for real."""

import csv
import signal
from pathlib import Path

import pytest
import torch
from command import manifoldgd
from fake_cells import NO_DISK, WRONG, metrics_of
from toy_table import HOME, OUTPUT, TOY, ran, table, write

from manifoldgd import stopping
from manifoldgd.study import rendering
from manifoldgd.study.definition import read_definition
from manifoldgd.study.rendering import write_table
from manifoldgd.study.results import TableResult

pytestmark = pytest.mark.usefixtures("toy_table")


def test_a_table_from_start_to_end_and_again(capsys, fakes, monkeypatch):
    monkeypatch.setattr(rendering, "write_table", write_table)
    assert table("jobs=1") == 0
    out = capsys.readouterr().out
    assert "[12/12] two/mode-seed1: 50.0 %" in out
    assert "table toy: 12 of 12 cells finished, 0 failed; outputs/tables/toy/report.html" in out
    lines = ran()
    assert lines[:3] == ["one/random-seed0", "one/unguided-seed0", "one/mode-seed0"]
    assert [line[-1] for line in lines] == ["0"] * 6 + ["1"] * 6  # half a table has whole seeds
    held = TableResult.load(OUTPUT / "results.json")
    assert (held.name, held.methods, held.seeds) == ("toy", ("random", "unguided", "mode"), (0, 1))
    assert [column.title for column in held.columns] == [f"digits, ipc {n}, ConvNet-3 (width 8)" for n in (1, 2)]
    assert held.parameters == {"mode": 0.1}
    assert held.class_names == tuple("0123456789")
    assert len({one.key for one in held.sets}) == 12
    assert {"report.html", "table.md", "figures"} <= {file.name for file in OUTPUT.iterdir()}
    assert table() == 0
    assert ran() == []


def test_parts_of_a_table_join_in_its_folder(fakes):
    assert table("methods=mode", "columns=two", "seeds=1", "student_seeds=[0]") == 0
    assert ran() == ["two/mode-seed1"]
    held = TableResult.load(OUTPUT / "results.json")
    assert (held.methods, [each.key for each in held.columns], held.seeds) == (("unguided", "mode"), ["two"], (1,))
    assert table("columns=two") == 0
    assert len(ran()) == 5
    fakes(seeds=(0, 7))
    assert table("columns=two", "student_seeds=[0,7]") == 0
    assert len(ran()) == 6
    assert TableResult.load(OUTPUT / "results.json").student_seeds == (0, 7)


def test_failed_cells_are_listed_and_the_exit_code_says_so(capsys, fakes):
    fakes({"mode": WRONG})
    assert table("columns=one") == 1
    out = capsys.readouterr().out
    assert "failed: one/mode-seed0: ipc: too many" in out
    assert "failed: one/mode-seed1: ipc: too many" in out
    assert "4 of 6 cells finished, 2 failed" in out
    assert (OUTPUT / "logs" / "one-mode-seed0.log").read_text().startswith("all well")
    fakes()
    assert table("columns=one") == 0
    assert sorted(set(ran())) == sorted(f"one/{name}-seed{k}" for name in TOY["methods"] for k in (0, 1))


def test_a_full_disk_is_said_and_the_table_continues(capsys, fakes):
    fakes({"unguided": NO_DISK})
    assert table("columns=one", "jobs=1") == 1
    out, err = capsys.readouterr()
    assert "failed: one/unguided-seed0: the disk is full" in out
    assert err.startswith(
        "manifoldgd: error: outputs/tables/toy: No space left on device; free some space; what is fini"
    )
    assert [one.method for one in TableResult.load(OUTPUT / "results.json").sets] == ["random"]
    fakes()
    assert table("columns=one") == 0


def test_a_disk_that_fills_up_under_the_table_itself(capsys, fakes, monkeypatch):
    def full(self, file):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(TableResult, "save", full)
    assert table("columns=one") == 1
    err = capsys.readouterr().err
    assert err.startswith(
        "manifoldgd: error: outputs/tables/toy/results.json: No space left on device; free some space"
    )


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGINT, "jobs=1"), (signal.SIGTERM, "jobs=1"), (signal.SIGTERM, "launcher=basic")]
)
def test_a_signal_leaves_the_pages_and_says_how_to_continue(number, how, capsys, fakes, monkeypatch):
    from manifoldgd.study.run import Watch

    def tick(watch, running):
        if len(watch.board.sets) == 2:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "tick", tick)
        patch.setattr(stopping, "PATIENCE", 60)  # pages take their time on a machine that is busy
        assert table("columns=one", how) == 128 + number
    out, err = capsys.readouterr()
    assert err == (
        f"manifoldgd: stopped by {number.name}; 2 of 6 cells finished, 0 failed, and the same command continues from "
        "there\n"
    )
    assert "one/random-seed0" in out
    assert "| random |" in (OUTPUT / "table.md").read_text()
    assert table("columns=one") == 0
    assert len(set(ran())) == 6


def test_scores_compare_with_random_images_and_with_all_of_them(capsys, fakes, monkeypatch):
    from manifoldgd.cli import study

    trained = []

    def bound(dataset, student, recipe, machine, cache):
        trained.append((dataset.name, student.name, recipe.images_shown, ran()))
        return 0.9

    monkeypatch.setattr(study, "full_data_accuracy", bound)
    assert table("columns=one", "scores=true", "record=true") == 0
    assert trained == [("digits", "ConvNet-3 (width 8)", 300_000, [])]  # before any cell
    for folder in (OUTPUT, HOME):
        rows = list(csv.DictReader((folder / "table.csv").open()))
        assert [float(row["measure_hlr"]) for row in rows] == pytest.approx([0.4] * 3)  # every fake student reaches 0.5
        assert [float(row["measure_ior"]) for row in rows] == [0] * 3
        assert "| HLR" in (folder / "table.md").read_text()
    recorded = TableResult.load(HOME / "results.json")
    assert not any({"hlr", "ior"} & set(one.measures) for one in recorded.sets)  # they follow from the rows
    assert table("columns=one") == 0
    assert "HLR" not in (OUTPUT / "table.md").read_text()


def test_a_launcher_runs_the_same_cells(capsys, fakes):
    """Hydra's own launcher stands for joblib and submitit; each job is the process that would be started here."""
    fakes({"mode": WRONG})
    assert table("columns=one", "seeds=0", "launcher=basic") == 1
    out = capsys.readouterr().out
    assert "[1/3] one/random-seed0: 50.0 % (" in out  # said as cells end, one after the other
    assert "failed: one/mode-seed0: ipc: too many" in out
    assert sorted(ran()) == ["one/random-seed0", "one/unguided-seed0"]
    fakes()
    assert table("columns=one", "seeds=0", "launcher=basic") == 0
    assert ran() == ["one/mode-seed0"]


def test_a_launcher_whose_worker_is_killed_loses_no_finished_cell(capsys, fakes):
    fakes({"unguided": "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"})
    assert table("columns=one", "seeds=0", "launcher=basic") == 1
    assert ran() == ["one/random-seed0"]
    out = capsys.readouterr().out
    for method in ("unguided", "mode"):
        assert f"failed: one/{method}-seed0: the launcher ended before it did (killed by SIGKILL" in out
    assert "1 of 3 cells finished, 2 failed" in out
    assert "random" in (OUTPUT / "table.md").read_text()
    fakes()
    assert table("columns=one", "seeds=0", "launcher=basic") == 0
    assert set(ran()) == {"one/unguided-seed0", "one/mode-seed0"}


def test_launchers_get_as_many_cells_at_a_time_as_they_can_hold_back(monkeypatch):
    from manifoldgd.cli import study
    from manifoldgd.cli.launcher import Launching

    runners = []
    monkeypatch.setattr(Launching, "check", lambda self: None)
    monkeypatch.setattr(study, "run_left", lambda board, runner: runners.append(runner) or True)
    for launcher, jobs, room, at_once, limit in (
        ("submitit_local", ["jobs=2"], 2, 2, []),
        ("submitit_slurm", [], 3, 3, []),
        ("submitit_slurm", ["jobs=2"], 3, 2, ["hydra.launcher.array_parallelism=2"]),
        ("joblib", ["jobs=2"], 3, 2, ["hydra.launcher.n_jobs=2"]),
        ("ray", ["jobs=2"], 3, 2, ["++hydra.launcher.ray.init.num_cpus=2"]),
    ):
        assert table("columns=one", "seeds=0", f"launcher={launcher}", *jobs) == 1  # nothing was run, so all is left
        runner = runners.pop()
        assert (runner.room, runner.at_once) == (room, at_once)
        assert [word for word in runner.command if word.lstrip("+").startswith("hydra.launcher.")] == limit


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cluster_needs_no_gpu_here(capsys, monkeypatch):
    from manifoldgd.cli import study
    from manifoldgd.cli.launcher import Launching

    monkeypatch.setattr(Launching, "check", lambda self: None)
    monkeypatch.setattr(study, "run_left", lambda *_: True)
    chosen = ("columns=one", "seeds=0", "machine=gpu")
    assert table(*chosen, "launcher=submitit_local") == 2
    assert "torch finds no GPU" in capsys.readouterr().err
    assert table(*chosen, "launcher=submitit_slurm") == 1
    assert "torch finds no GPU" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_real_cells_by_a_real_launcher(shared_cache, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    tiny = ("sampler.steps=3", "student.protocol.epochs=1", f"cache={shared_cache}")
    assert table("columns=one", "seeds=0", "methods=random,unguided", f"launcher={launcher}", "jobs=2", *tiny) == 0
    held = TableResult.load(OUTPUT / "results.json")
    assert [one.method for one in held.sets] == ["random", "unguided"]
    assert table("columns=one", "seeds=0", "methods=random,unguided", *tiny) == 0  # the same cells: nothing is left
    assert TableResult.load(OUTPUT / "results.json") == held


@pytest.mark.slow
def test_real_cells(capsys, shared_cache):
    assert table("columns=one", "seeds=0", "sampler.steps=3", "student.protocol.epochs=1", f"cache={shared_cache}") == 0
    capsys.readouterr()
    held = TableResult.load(OUTPUT / "results.json")
    assert [one.method for one in held.sets] == ["random", "unguided", "mode"]
    for one in held.sets:
        assert (OUTPUT / one.grid).is_file()
        assert set(one.seconds) >= {"students", "metrics"}
        assert one.hardware
    assert next(each for each in held.sets if (each.method, each.column) == ("mode", "one")).guidance["ratio"] > 0
    again = ("columns=one", "seeds=0", "sampler.steps=3", "student.protocol.epochs=1", f"cache={shared_cache}")
    assert table(*again, "student_seeds=[0,1]") == 0
    grown = TableResult.load(OUTPUT / "results.json")
    assert [one.students[0] for one in grown.sets] == [one.students[0] for one in held.sets]
    assert all(len(one.students) == 2 for one in grown.sets)


@pytest.mark.slow
def test_the_digits_table_with_fewer_epochs(capsys, shared_cache):
    changes = ["student.protocol.epochs=5", "student.width=16", "sampler.steps=10", f"cache={shared_cache}"]
    assert manifoldgd("table", "table=digits", *changes) == 0
    held = TableResult.load(Path("outputs/tables/digits/results.json"))
    defined = read_definition(Path(__file__).parents[2] / "experiments" / "digits" / "table.yaml")
    assert len(held.sets) == len(defined.methods) * len(defined.columns) * len(defined.seeds)
    assert not held.failed


def test_metrics_have_what_a_table_reads():
    """The fakes hold the keys of real results that the table reads: see `check_metrics` in test_run."""
    assert set(metrics_of()) >= {"student_seeds", "students", "seconds", "set_metrics", "guidance", "hardware"}


def test_a_method_may_refer_to_the_seed():
    from manifoldgd.cli.plan import plan_table

    own = {"guidance": "matching", "guidance.then.pool_seed": "${seed}"}
    write(methods={**TOY["methods"], "own": own})
    cells = [cell for cell in plan_table(read_definition(HOME / "table.yaml"), {}).cells if cell.method == "own"]
    pools = {cell.seed: cell.set_config["guidance"]["then"]["pool_seed"] for cell in cells}
    assert pools == {0: 0, 1: 1}
    assert len({cell.key for cell in cells}) == len(cells)
