"""Pages are self-contained and escaped, say what is missing, and rank by the last epoch."""

import base64
import csv
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from manifoldgd.artifacts import DistilledSet
from manifoldgd.errors import UserError
from manifoldgd.report.numbers import spread_of
from manifoldgd.report.page import Figure, Section, write_page
from manifoldgd.report.run import write_run_report
from manifoldgd.report.sections import pairs_section
from manifoldgd.report.sweep import sweep_tables, write_sweep_report
from manifoldgd.report.tables import Column, Failure, Table

NASTY = """<script>alert("1")</script> & 'q' {{ 7 * 7 }}"""
STEPS = [
    {"index": i, "ratio_mean": 0.5 * 0.9 ** (9 - i), "ratio_std": 0.02, "kept_mean": 0.5, "kept_std": 0.1}
    for i in range(9, 3, -1)
]


def _solid(values, channels=1, height=2, width=3):
    pixels = torch.tensor(values, dtype=torch.uint8).view(len(values), -1, 1, 1)
    return pixels.expand(-1, channels, height, width).contiguous()


class _Resources(HTMLParser):
    """Everything in a page that a browser would load, and its visible text."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.tags, self.alts, self.text = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "href", "data", "poster", "action"):
                self.loads.append(value)
            if name == "alt":
                self.alts.append(value)

    def handle_data(self, data):
        self.text += data


def _read(path):
    page = path.read_text(encoding="utf-8")
    found = _Resources(page)
    assert all(load.startswith("data:") for load in found.loads), [load[:60] for load in found.loads]
    styles = " ".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles
    assert page.count("<script") == 1
    assert "{{" not in page.replace("{{ 7 * 7 }}", "")
    return page, found


def test_page_is_self_contained_and_escapes_everything(tmp_path):
    picture = Image.new("RGB", (40, 20), "red")
    table = Table([Column("a", NASTY, "setting")], [[NASTY]], NASTY, [Failure(NASTY, NASTY)])
    write_page(
        tmp_path / "p.html",
        title=NASTY,
        subtitle=NASTY,
        key_figures=[(NASTY, NASTY, NASTY), ("b", "1", "")],
        sections=[Section(NASTY, [NASTY, Figure(picture, NASTY, NASTY, dark=picture, min_width=30), table])],
        config=NASTY + "\nurl: https://example.org",
    )
    _, found = _read(tmp_path / "p.html")
    assert found.tags.count("script") == 1
    assert found.tags.count("h1") == 1
    assert {"details", "figure", "figcaption", "source"} <= set(found.tags)
    assert found.alts == [NASTY]
    assert found.text.count(NASTY) == 15  # every place a string can stand in
    assert os.listdir(tmp_path) == ["p.html"]


def test_page_embeds_the_very_picture(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8))
    write_page(
        tmp_path / "p.html",
        title="t",
        subtitle="",
        key_figures=[],
        sections=[Section("s", [Figure(picture, "c", "a", pixels_per_point=2)])],
        config="",
    )
    page, found = _read(tmp_path / "p.html")
    uri = next(load for load in found.loads if load.startswith("data:image"))
    embedded = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert (np.asarray(embedded) == np.asarray(picture)).all()
    assert 'width="2" height="3"' in page
    assert "<details>" not in page


def test_a_page_that_fails_leaves_nothing(tmp_path):
    bad = Section("s", [Figure(b"not a png", "c", "a")])
    with pytest.raises(ValueError, match="PNG"):
        write_page(tmp_path / "p.html", title="t", subtitle="", key_figures=[], sections=[bad], config="")
    assert os.listdir(tmp_path) == []


def _result(method="mode", last=(0.70, 0.74), best=(0.9, 0.9), seed=0, **changes):
    def summary(values):
        spread = spread_of(values)
        return {"mean": spread.mean, "std": spread.std, "ci95": 0.05, "values": list(values)}

    students = [
        {"seed": i, "last_top1": v, "best_top1": 0.9, "last_epoch": 20, "best_epoch": 10, "train_accuracy": 1.0,
         "per_class": [v, v], "curve": [[10, 0.9], [20, v]], "seconds": 1.5}
        for i, v in enumerate(last)
    ]  # fmt: skip
    return {
        "format": 1, "dataset": "toy", "source": "diffusion", "method": method, "ipc": 2, "num_images": 4,
        "label_protocol": "hard_small", "student": "convnet3", "distillation_seed": seed,
        "student_seeds": list(range(len(last))), "accuracy": {"last": summary(last), "best": summary(best)},
        "students": students, "set_metrics": {"frechet_distance": 3.0, "novel_one": None}, "guidance": None,
        "seconds": {"distill": 2.0, "students": 3.0}, "embedding": {"name": "net", "test_accuracy": 0.98},
    } | changes  # fmt: skip


def _set(names=("a", NASTY)):
    labels, ranks = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    return DistilledSet(_solid([10, 20, 30, 40], height=8, width=8), labels, ranks, names)


def _latents():
    real, labels = torch.randn(20, 2, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 2
    return {
        "real": real, "real_labels": labels, "prototypes": real[:4], "prototype_labels": labels[:4],
        "synthetic": real[4:8], "synthetic_labels": labels[4:8],
    }  # fmt: skip


def test_run_report_of_a_guided_set(tmp_path):
    page = write_run_report(
        tmp_path / "run",
        result=_result(),
        distilled=_set(),
        prototypes_images=_set().images,
        step_records=STEPS,
        latents=_latents(),
        config_text="guidance:\n  scale: 0.1 # <b>",
    )
    assert page == tmp_path / "run" / "report.html"
    stems = {"grid", "pairs", "guidance", "latent_map", "latent_map_by_class", "students", "per_class"}
    assert set(os.listdir(page.parent)) == {"report.html"} | {f"{stem}.png" for stem in stems}
    _, found = _read(page)
    text = found.text.replace("\u00a0", " ")
    assert re.search(
        r"Test accuracy, last epoch\s*72.0 ± 2.8 %\s*mean ± std over 2 student seeds; 95 % interval ± 5.0", text
    )
    assert text.index("72.0 ± 2.8 %") < text.index("Best epoch")
    assert re.search(r"Guidance vector kept\s*50 %", text)
    assert "5.0 s" in text
    assert "scale: 0.1 # <b>" in text
    assert len(found.alts) == len(stems)
    assert all(found.alts)
    assert "No guidance" not in text


def test_run_report_says_what_is_missing(tmp_path):
    result = _result(source="random", accuracy=None, students=[], student_seeds=[], set_metrics=None, seconds=None)
    page = write_run_report(
        tmp_path,
        result=result,
        distilled=_set(),
        prototypes_images=None,
        step_records=None,
        latents=None,
        config_text="",
    )
    text = _read(page)[1].text
    for sentence in ("No prototypes", "no image of this set was sampled", "no map", "No student", "No measures"):
        assert sentence in text
    assert "last epoch" not in text
    assert sorted(os.listdir(tmp_path)) == ["grid.png", "report.html"]


def test_one_student_has_no_spread(tmp_path):
    result = _result(last=(0.7,), best=(0.9,))
    result["accuracy"]["last"] |= {"std": 0.0, "ci95": None}
    page = write_run_report(
        tmp_path, result=result, distilled=_set(), prototypes_images=None, step_records=[], latents=None, config_text=""
    )
    text = _read(page)[1].text
    assert "one student seed, so no spread" in text
    assert "±" not in text
    assert "sampling was not guided" in text


def test_large_sets_are_cut_and_say_so(tmp_path):
    count = 25
    labels = torch.arange(count).repeat_interleave(12)
    ranks = torch.arange(12).repeat(count)
    distilled = DistilledSet(_solid([0] * 12 * count), labels, ranks, tuple(map(str, range(count))))
    page = write_run_report(
        tmp_path, result=_result(accuracy=None, students=[]), distilled=distilled, prototypes_images=None,
        step_records=None, latents=None, config_text="",
    )  # fmt: skip
    assert "Shown: the first 10 of 12 a class and the first 20 of 25 classes." in _read(page)[1].text


def test_other_formats_are_refused(tmp_path):
    nothing = {"prototypes_images": None, "step_records": None, "latents": None, "config_text": ""}
    with pytest.raises(UserError, match="expected format 1, got 2"):
        write_run_report(tmp_path, result=_result(format=2), distilled=_set(), **nothing)
    with pytest.raises(UserError, match="expected format 1"):
        sweep_tables([({}, _result(format=None))])


def _cells(table, key):
    position = [column.key for column in table.columns].index(key)
    return [row[position] for row in table.rows]


def test_sweep_ranks_by_last_epoch_and_never_by_best():
    jobs = [
        ({"guidance": "a", "ipc": "1"}, _result("a", last=(0.6, 0.6), best=(0.99, 0.99))),
        ({"guidance": "b", "ipc": "1"}, _result("b", last=(0.8, 0.8), best=(0.81, 0.81))),
        ({"guidance": "c", "ipc": "1"}, _result("c", accuracy=None, students=[], student_seeds=[])),
        ({"guidance": "d", "ipc": "1"}, _result("d", last=(0.7, 0.7), best=(0.9, 0.9))),
    ]
    (table,) = sweep_tables(jobs)
    assert _cells(table, "guidance") == ["b", "d", "a", "c"]
    keys = [column.key for column in table.columns]
    assert "ipc" not in keys
    assert table.best_cells() == {(0, keys.index("last_top1"))}


def test_sweep_takes_mean_and_deviation_over_the_sets_of_a_row():
    jobs = [
        ({"g": g, "seed": str(seed)}, _result(g, last=(0.5 + seed / 10, 0.6 + seed / 10), seed=seed))
        for g in ("a", "b")
        for seed in (0, 1, 2)
    ]
    table = sweep_tables(jobs)[0]
    assert len(table.rows) == 2
    of_sets = _cells(table, "last_top1")[0]
    means = [0.55, 0.65, 0.75]
    assert of_sets.mean == pytest.approx(np.mean(means))
    assert of_sets.std == pytest.approx(np.std(means, ddof=1))
    assert _cells(table, "distillation_seeds") == [3, 3]
    assert _cells(table, "students") == [6, 6]
    assert len(sweep_tables(jobs, seed_key=None)[0].rows) == 6


def test_what_may_not_be_compared_gets_tables_of_its_own():
    jobs = [
        ({"dataset": "x"}, _result(dataset="x")),
        ({"dataset": "y"}, _result(dataset="y")),
        ({"dataset": "x"}, _result(dataset="x", label_protocol="soft")),
        ({"dataset": "x"}, _result(dataset="x", student="resnet18")),
    ]
    tables = sweep_tables(jobs, [({"dataset": "z"}, "unknown dataset")])
    assert [table.caption for table in tables][:2] == ["x · hard_small · convnet3", "y · hard_small · convnet3"]
    assert [len(table.failed) for table in tables] == [0, 0, 0, 1]


def test_sweep_files(tmp_path):
    jobs = [({"g": g}, _result(g, last=(v, v))) for g, v in (("a", 0.5), ("b", 0.7))]
    jobs.append(({"h": "1"}, _result(dataset="other", last=(0.9, 0.9), set_metrics={"kid": 0.1})))
    failed = [({"g": "c", "ipc": "0"}, "ipc: needs to be positive, got 0 <b>")]
    report = write_sweep_report(tmp_path, jobs=jobs, failed=failed, title=NASTY)
    names = {"sweep.csv", "sweep.md", "sweep.html", "failed.csv"}
    assert {path.name for path in report.files} == set(os.listdir(tmp_path)) == names
    assert "failed (1):\n  g=c ipc=0: ipc: needs to be positive, got 0 <b>" in report.text
    assert re.search(r"^b +b +70 ± 0\*", report.text, re.MULTILINE)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    columns = ("dataset", "label_protocol", "g", "last_top1", "set_kid")
    found = [" ".join(row[key] for key in columns) for row in rows]
    assert found == ["toy hard_small b 0.7 ", "toy hard_small a 0.5 ", "other hard_small  0.9 0.1"]
    assert next(csv.reader((tmp_path / "failed.csv").open().readlines()[1:])) == ["g=c ipc=0", failed[0][1]]
    _, found = _read(tmp_path / "sweep.html")
    assert failed[0][1] in found.text
    assert "3 finished, 1 failed" in found.text


def test_a_sweep_in_which_all_failed_still_reports(tmp_path):
    report = write_sweep_report(tmp_path, jobs=[], failed=[({"g": "c"}, "no")], title="t")
    assert "no job finished" in report.text
    assert "g=c: no" in report.text


def test_report_never_touches_global_plotting():
    code = (
        "import sys, manifoldgd.report.run, manifoldgd.report.sweep as s; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prototypes_that_are_not_drawn_are_not_denied():
    drawn = replace(_set(), manifest={"images": [{"prototype": {"kind": "nearest"}}]})
    for distilled, said in ((drawn, "Not drawn"), (_set(), "No prototypes")):
        (block,) = pairs_section(distilled, None).blocks
        assert block.startswith(said)
