"""``experiments/measure_sets.py``: the second embedding, the real side, the rows of a study and their record."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from manifoldgd.metrics import functional

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def measure_sets():
    spec = importlib.util.spec_from_file_location("measure_sets", EXPERIMENTS / "measure_sets.py")
    module = sys.modules["measure_sets"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(count, seed=0):
    return torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_pixel_components_keep_cosines_and_distances_of_pixels(measure_sets):
    train = images(300)
    embed = measure_sets.pixel_components(train)  # all 64 directions of 64 pixels: a rotation
    pixels = train[:9].flatten(1).double() / 255
    torch.testing.assert_close(embed(train[:9]) @ embed(train[:9]).T, pixels @ pixels.T)


def test_the_real_side_is_balanced_and_apart_from_unseen_images(measure_sets):
    labels = torch.arange(2100) % 3
    real, others = measure_sets.held_out_rows(labels)
    assert labels[real].bincount().tolist() == [200] * 3
    assert sorted(torch.cat([real, others]).tolist()) == list(range(2100))
    assert torch.equal(real, measure_sets.held_out_rows(labels)[0])


def test_a_copied_set_is_at_zero_and_a_foreign_one_diverges(measure_sets):
    train, labels = images(90), torch.arange(90) % 3
    embed = measure_sets.pixel_components(train)
    seen = embed(train)
    way = measure_sets.Embedding("pixels", embed, seen[:60], labels[:60], seen, runaway=2.5)
    copied = way.measure(train[:30], labels[:30])
    assert set(copied) == set(measure_sets.MEASURES)
    assert (copied["nearest_mean"], copied["diverged"], copied["precision"]) == (0, 0, 1)
    assert copied["frechet_distance"] == float(functional.frechet_distance(seen[:30], seen[:60]))
    foreign = way.measure(torch.full((30, 1, 8, 8), 255, dtype=torch.uint8), labels[:30])
    assert (foreign["diverged"], foreign["precision"]) == (1, 0)


@pytest.mark.parametrize("name", ["claims", "geometry"])
def test_studies_name_choices_that_exist(measure_sets, name):
    study = measure_sets.read_study(EXPERIMENTS / name)
    assert set(study["baselines"]) <= set(study["methods"])
    assert study["overrides"]["dataset.validation"] > 0  # sets are compared with images that no method sees
    for overrides in study["methods"].values():
        for group in {"guidance", "experiment"} & set(overrides or {}):
            assert (EXPERIMENTS.parent / "conf" / group / f"{overrides[group]}.yaml").is_file(), overrides


def test_record_holds_a_row_a_set_and_marks_what_intervals_separate(measure_sets, tmp_path):
    study = {
        "question": "Which?",
        "ipc": [10],
        "seeds": [0, 1, 2],
        "baselines": ["mode"],
        "methods": {"mode": {}, "other": {}},
    }
    for method, offset in (("mode", 0.0), ("other", 1.0)):
        for seed in study["seeds"]:
            folder = tmp_path / "out" / "ipc10" / f"{method}-seed{seed}"
            folder.mkdir(parents=True)
            values = dict.fromkeys(measure_sets.MEASURES, 5.0 + seed + offset * (1 + seed / 100))
            (folder / measure_sets.MEASURED).write_text(json.dumps({"pixels": values}))
    measure_sets.write_record(tmp_path / "record", study, measure_sets.gather(study, tmp_path / "out"))
    rows = list(csv.DictReader((tmp_path / "record" / "results.csv").open()))
    assert [(row["method"], row["seed"], float(row["kid"])) for row in rows][:2] == [("mode", "0", 5), ("mode", "1", 6)]
    page = (tmp_path / "record" / "table.md").read_text()
    (difference,) = [line for line in page.splitlines() if line.startswith("| other | 3 | +1.01")]
    cells = dict(zip(measure_sets.MEASURES, [cell.strip() for cell in difference.split("|")[3:-1]], strict=True))
    assert cells["frechet_distance"] == "+1.01 ± 0.02 **-**"  # a larger distance, and the interval is clear of 0
    assert cells["recall"] == "+1.010 ± 0.025 **+**"
    assert cells["nearest_mean"] == "+1.010 ± 0.025"  # neither better nor worse
    assert "| mode | 3 | 6.00 ± 2.48 |" in page
