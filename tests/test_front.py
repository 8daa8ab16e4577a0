"""``experiments/geometry/front.py``: the picture and the differences of a front, from records made here."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "geometry" / "front.py"
# Row -> Fréchet distance of seeds 0, 1, 2; distance to the nearest training image; share of diverged images.
SETS = {
    "unguided": ([44, 43, 44], 5.0, 0.0),
    "mode-0.1": ([40, 41, 40], 5.1, 0.0),
    "mode-0.8": ([180, 190, 185], 13.0, 1.0),
    "mode-1.6": ([float("nan")] * 3, float("nan"), 1.0),
    "kalman-1": ([39, 40.1, 39], 4.8, 0.0),
    "kalman-4": ([40.5, 40.1, 40], 3.5, 0.0),
}


@pytest.fixture(scope="module")
def front():
    spec = importlib.util.spec_from_file_location("front", SCRIPT)
    module = sys.modules["front"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["front"]


@pytest.fixture
def record(tmp_path):
    (tmp_path / "measures").mkdir()
    names = ["method", "ipc", "seed", "embedding", "frechet_distance", "nearest_mean", "class_mmd2", "coverage"]
    with (tmp_path / "measures" / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*names, "precision", "diverged"])
        writer.writeheader()
        for method, (distances, near, lost) in SETS.items():
            for seed, distance in enumerate(distances):
                for embedding in ("classifier", "pixels"):
                    ours = {"method": method, "ipc": 10, "seed": seed, "embedding": embedding, "diverged": lost}
                    ours |= {"frechet_distance": distance if embedding == "classifier" else 0, "nearest_mean": near}
                    writer.writerow(ours | dict.fromkeys(("class_mmd2", "coverage", "precision"), 0.5))
    return tmp_path


def accuracies(record):
    with (record / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["method", "column", "seed", "student_seed", "last_top1"])
        writer.writeheader()
        for method, value in {"unguided": 0.74, "mode-0.1": 0.77, "kalman-1": 0.78}.items():
            for seed in range(3):
                row = {"method": method, "column": "ipc10-convnet3", "seed": seed, "last_top1": value + 0.001 * seed}
                writer.writerow(row | {"student_seed": 0})


def lines_of(text, heading):
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    return {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("| ")}


def test_every_point_is_compared_with_mode_guidance_on_equal_seeds(front, record):
    text = front.differences(front.read_measures(record / "measures" / "results.csv"), {})
    rows = lines_of(text, "frechet_distance")
    assert "less mode-0.1" in rows["row"]
    assert "less mode-0.8" not in rows["row"]  # its images are lost
    assert "**-0.967 ± 0.14**" in rows["kalman-1"]
    assert "+0.2 ± " not in rows["kalman-4"]
    assert "-0.133 ± " in rows["kalman-4"]
    assert "**" not in rows["kalman-4"]
    assert rows["mode-1.6"].count("nan") >= 1
    assert "accuracy" not in text


def test_accuracy_joins_where_it_is_recorded(front, record):
    accuracies(record)
    measures, accuracy = (
        front.read_measures(record / "measures" / "results.csv"),
        front.read_accuracy(record / "results.csv"),
    )
    assert accuracy["kalman-1"] == pytest.approx({0: 78.0, 1: 78.1, 2: 78.2})
    assert "+1 ± " in lines_of(front.differences(measures, accuracy), "accuracy, points")["kalman-1"]
    panels = front.draw(measures, accuracy).figure.axes
    assert len(panels) == 2
    assert [line.get_label() for line in panels[1].lines] == ["mode", "Kalman", "unguided"]


def test_what_ran_away_is_left_out_of_the_picture(front, record):
    (panel,) = front.draw(front.read_measures(record / "measures" / "results.csv"), {}).figure.axes
    drawn = {line.get_label(): line.get_xdata() for line in panel.lines}
    assert list(drawn["mode"]) == pytest.approx([5.1])
    assert list(drawn["Kalman"]) == pytest.approx([4.8, 3.5])


def test_the_command_writes_both(front, record, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["front.py", "--record", str(record), "--output", str(record)])
    front.main()
    assert (record / "front.png").read_bytes().startswith(b"\x89PNG")
    assert (record / "front.md").read_text().startswith("# Every point of the front")
