"""Curves and final metrics in files: read back as what was told, whole after a stop, and never a reason to fail."""

import csv
import json
import sys

import pytest
import yaml
from command import manifoldgd, quick
from PIL import Image

from manifoldgd.students import Student
from manifoldgd.tracking import CSVTracker, RunFacts, RunResult, TensorBoardTracker


def of_csv(folder):
    rows = list(csv.DictReader((folder / "metrics.csv").open(newline="")))
    names = [name for name in rows[0] if name != "step"]
    return {name: [(int(row["step"]), float(row[name])) for row in rows if row[name]] for name in names}


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert len(list(folder.glob("events.*"))) == 1
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def of_tensorboard(folder):
    held = events(folder)
    return {name: [(one.step, one.value) for one in held.Scalars(name)] for name in held.Tags()["scalars"]}


READ = {CSVTracker: of_csv, TensorBoardTracker: of_tensorboard}
POINTS = [
    {"epoch": 1, "student/0/top1": 0.25},
    {"epoch": 2, "student/0/top1": 0.5},
    {"epoch": 2, "student/1/top1": 0.75},
    {"guidance/step": 0, "guidance/ratio": 0.25, "guidance/kept": 0.5},
    {"guidance/step": 1, "guidance/ratio": 0.125},
]


@pytest.fixture(params=READ, ids=lambda kind: kind.kind)
def kind(request):
    if request.param is TensorBoardTracker:
        pytest.importorskip("tensorboard")
    return request.param


def started(kind, folder):
    one = kind()
    config = {"ipc": 10, "a": {"b": None}}
    one.start(RunFacts(name="a", group="g", job_type="run", config=config, run_id="x", folder=folder))
    return one


def train(one, seed, curve, *, loss):
    logger = one.student_logger(seed)
    for epoch, top1 in curve:
        logger.log_metrics(
            {f"student/{seed}/loss": loss / epoch} | ({f"student/{seed}/top1": top1} if top1 else {}), epoch
        )


def finish(one):
    images = {"set": Image.new("L", (6, 4))}
    summary, tables = {"last_top1": 0.5, "set/coverage": 1.0}, {"t": {"a": [1]}}
    one.finish(RunResult(summary=summary, tables=tables, images=images, points=POINTS))
    one.close(0)


def test_what_was_told_is_read_back(kind, tmp_path):
    one = started(kind, tmp_path)
    train(one, 0, [(1, 0.25), (2, 0.5)], loss=2.0)
    assert READ[kind](tmp_path / "logs" / kind.kind / "student-0")["loss"] == [(1, 2.0), (2, 1.0)]  # while it grows
    finish(one)
    read, logs = READ[kind], tmp_path / "logs" / kind.kind
    assert sorted(each.name for each in logs.iterdir()) == ["guidance", "run", "student-0", "student-1"]
    assert read(logs / "student-0") == {"loss": [(1, 2.0), (2, 1.0)], "top1": [(1, 0.25), (2, 0.5)]}
    assert read(logs / "student-1") == {"top1": [(2, 0.75)]}  # trained by another process
    assert read(logs / "guidance") == {"ratio": [(0, 0.25), (1, 0.125)], "kept": [(0, 0.5)]}
    run = read(logs / "run")
    assert (run["last_top1"], len(run)) == ([(0, 0.5)], 2)
    assert yaml.safe_load((logs / "run" / "hparams.yaml").read_text())["ipc"] == 10
    assert list(tmp_path.iterdir()) == [tmp_path / "logs"]


def test_event_files_have_the_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    finish(started(TensorBoardTracker, tmp_path))
    (image,) = events(tmp_path / "logs" / "tensorboard" / "run").Images("set")
    assert (image.width, image.height) == (6, 4)


def test_a_folder_is_taken_as_it_is_called(kind, tmp_path, monkeypatch):
    """``$HOME`` and ``~`` in a name are characters of it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "$HOME" / "~"
    folder.mkdir(parents=True)
    one = started(kind, folder)
    train(one, 0, [(1, 0.25), (2, 0.5)], loss=2.0)
    finish(one)
    assert READ[kind](folder / "logs" / kind.kind / "student-0")["loss"] == [(1, 2.0), (2, 1.0)]
    assert list(tmp_path.iterdir()) == [tmp_path / "$HOME"]


def test_a_stopped_run_keeps_whole_curves_and_mends_the_others(kind, tmp_path):
    stopped = started(kind, tmp_path)
    train(stopped, 0, [(1, 0.25), (2, 0.5)], loss=2.0)
    train(stopped, 1, [(1, 0.125)], loss=8.0)  # of two epochs; the process dies
    train(stopped, 2, [(1, 0.1), (2, 0.2)], loss=8.0)
    again = started(kind, tmp_path)
    train(again, 2, [(1, None), (2, 0.4)], loss=4.0)
    finish(again)
    read, logs = READ[kind], tmp_path / "logs" / kind.kind
    assert read(logs / "student-0")["loss"] == [(1, 2.0), (2, 1.0)]
    assert read(logs / "student-1") == {"top1": [(2, 0.75)]}  # finished meanwhile, by who kept no curves
    assert read(logs / "student-2") == {"loss": [(1, 4.0), (2, 2.0)], "top1": [(2, pytest.approx(0.4))]}


def test_half_a_row_is_no_curve(tmp_path):
    place = tmp_path / "logs" / "csv" / "student-0"
    place.mkdir(parents=True)
    (place / "metrics.csv").write_text("loss,step,top1\n1.0,1,0.25\n0.5,2,0.")
    finish(started(CSVTracker, tmp_path))
    assert of_csv(place) == {"top1": [(1, 0.25), (2, 0.5)]}


def test_files_that_cannot_be_written_stop_nothing(capsys, kind, tmp_path):
    (tmp_path / "logs").write_text("in the way")
    one = started(kind, tmp_path)
    train(one, 0, [(1, 0.25), (2, 0.5)], loss=2.0)
    finish(one)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"logger: {tmp_path}/logs/{kind.kind} cannot be written (")


def test_without_tensorboard_one_line_says_so(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert manifoldgd("run", "dataset=digits", "logger=tensorboard", "machine=cpu") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "logger: takes tensorboard" in said
    assert "manifoldgd[tensorboard]" in said


@pytest.mark.parametrize("kind", [pytest.param(CSVTracker, marks=pytest.mark.slow), TensorBoardTracker], indirect=True)
def test_a_resumed_command_has_every_curve(kind, monkeypatch, tiny_prior, shared_cache, tmp_path):
    """Stopped in its second student and continued: each student's loss and accuracy, the guidance, the summary."""
    whole = Student.train

    def dies(self, *images, seed, **settings):
        if seed == 1:
            raise KeyboardInterrupt
        return whole(self, *images, seed=seed, **settings)

    asked = (f"logger={kind.kind}", "student_seeds=[0,1]", "guidance=mode", "measures=false")
    monkeypatch.setattr(Student, "train", dies)
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", *asked) == 130
    monkeypatch.setattr(Student, "train", whole)
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", *asked) == 0
    result = json.loads((tmp_path / "o" / "metrics.json").read_text())
    read, logs = READ[kind], tmp_path / "o" / "logs" / kind.kind
    for student in result["students"]:
        curves = read(logs / f"student-{student['seed']}")
        assert curves["top1"] == [(epoch, pytest.approx(value)) for epoch, value in student["curve"]]
        assert len(curves["loss"]) == student["last_epoch"]
    assert read(logs / "run")["last_top1"] == [(0, pytest.approx(result["accuracy"]["last"]["mean"]))]
    assert "ratio" in read(logs / "guidance")
