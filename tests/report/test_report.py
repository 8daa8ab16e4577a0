"""Pages are self-contained and escaped, have no empty sections, and say what their numbers mean."""

import base64
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
from scipy import stats

from manifoldgd.artifacts import DistilledSet
from manifoldgd.errors import UserError
from manifoldgd.estimates import Estimate
from manifoldgd.report.content import Column, Figure, Notes, Page, Section, Table
from manifoldgd.report.figures import line_plot
from manifoldgd.report.html import html
from manifoldgd.report.palette import DARK, LIGHT, LINE_COLOURS, VARIABLES
from manifoldgd.report.run import write_run_report

pytestmark = pytest.mark.usefixtures("plots")
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
            # A picture may lead to a page; inside a drawing a reference leads to a part of it.
            inside = tag == "a" or (name == "xlink:href" and value.startswith("#"))
            if name in ("src", "srcset", "href", "xlink:href", "data", "poster", "action") and not inside:
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
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in styles
    assert page.count("<script") == 1
    assert "{{" not in page.replace("{{ 7 * 7 }}", "")
    return page, found


def curve(series, **how):
    return line_plot(series, title="accuracy, %", x_title="epoch", **how)


def written(folder, page):
    (folder / "p.html").write_text(html(page), encoding="utf-8")
    return _read(folder / "p.html")


def test_page_is_self_contained_and_escapes_everything(tmp_path):
    picture = Image.new("RGB", (40, 20), "red")
    table = Table([Column("a", NASTY, "setting")], [[NASTY]], NASTY)
    figures = [
        Figure(picture, NASTY, NASTY, dark=picture, min_width=30, url="a.html"),
        Figure(curve({NASTY: [(1, Estimate(50, None, 1))]}, references={NASTY: Estimate(1, None, 1)}), NASTY, NASTY),
    ]
    page = Page(
        title=NASTY,
        subtitle=NASTY,
        notices=[NASTY],
        key_figures=[(NASTY, NASTY, NASTY), ("b", "1", "")],
        sections=[Section(NASTY, [NASTY, Notes([NASTY]), *figures, table], folded=True)],
        config=NASTY + "\nurl: https://example.org",
    )
    _, found = written(tmp_path, page)
    assert found.tags.count("script") == 1
    assert found.tags.count("h1") == 1
    assert {"details", "figure", "figcaption", "source", "svg"} <= set(found.tags)
    assert found.alts == [NASTY]
    assert found.text.count(NASTY) == 16  # every place a string can stand in but the ends of lines, where it is cut


def test_page_embeds_the_very_picture(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8))
    figure = Figure(picture, "c", "a", pixels_per_point=2)
    page, found = written(tmp_path, Page(title="t", sections=[Section("s", [figure])]))
    uri = next(load for load in found.loads if load.startswith("data:image"))
    embedded = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert (np.asarray(embedded) == np.asarray(picture)).all()
    assert (np.asarray(Image.open(io.BytesIO(figure.png()))) == np.asarray(picture)).all()
    assert 'width="2" height="3"' in page
    assert "<details>" not in page


def test_large_pictures_are_compressed(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    _, found = written(tmp_path, Page(title="t", sections=[Section("s", [Figure(noise, "c", "a")])]))
    assert sum(load.startswith("data:image/webp") for load in found.loads) == 1


def test_plots_take_the_page_s_colours_and_font(tmp_path):
    plot = curve({"seed 0": [(1, Estimate(50, None, 1)), (2, Estimate(60, None, 1))]})
    page, _ = written(tmp_path, Page(title="t", sections=[Section("s", [Figure(plot, "c", "a <b>")])]))
    drawn = page[page.index("<svg") : page.index("</svg>")]
    assert 'aria-label="a &lt;b&gt;"' in drawn
    assert "var(--ink)" in drawn
    assert "var(--line-0)" in drawn
    assert "var(--font)" in drawn
    assert "seed 0" in drawn
    assert not {colour for colour in (*vars(LIGHT).values(), *LINE_COLOURS) if colour in drawn}
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    for colour, variable in VARIABLES.items():
        assert f"--{variable}: {colour}" in light
        assert f"--{variable}: #" in dark
    assert all(f": {colour}" in dark for colour in vars(DARK).values())


def _result(method="mode", last=(0.70, 0.74), best=(0.9, 0.9), seed=0, **changes):
    def summary(values):
        return {"mean": float(np.mean(values)), "std": 0.01, "ci95": 0.05, "values": list(values)}

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
        full_data=0.9876,
    )
    assert page == tmp_path / "run" / "report.html"
    stems = {"grid", "pairs", "guidance", "latent_map", "latent_map_by_class", "students", "per_class"}
    assert set(os.listdir(page.parent)) == {"report.html"} | {f"{stem}.png" for stem in stems}
    _, found = _read(page)
    text = found.text.replace("\u00a0", " ")
    half = stats.t.ppf(0.975, 1) * 0.02  # of 0.70 and 0.74
    headline = f"72.0 ± {100 * half:.1f} %"
    assert re.search(rf"Test accuracy, last epoch\s*{headline}\s*2 students; ± half the 95 % interval", text)
    assert "over students (Student's t); chance: 50.0 %; convnet3 on all real images: 98.8 %" in text
    assert "all real images (98.8 %)" in text
    assert "Bars: means over 2 students; dots: each of them." in text
    assert text.index(headline) < text.index("Best epoch")
    assert re.search(r"Guidance vector kept\s*50.0 %", text)
    assert "5.0 s" in text
    assert "scale: 0.1 # <b>" in text
    assert len(found.alts) + found.tags.count("svg") == len(stems)
    assert all(found.alts)


def titles(page):
    return re.findall(r"<h2[^>]*>(.*?)</h2>", page)


def test_a_run_without_more_than_a_set_has_no_empty_sections(tmp_path):
    result = _result(source="random", accuracy=None, students=[], student_seeds=[], set_metrics=None, seconds=None)
    page = write_run_report(
        tmp_path,
        result=result,
        distilled=_set(),
        prototypes_images=None,
        step_records=[{"index": 0, "ratio_mean": None}],
        latents=None,
        config_text="",
    )
    source, found = _read(page)
    assert titles(source) == ["The distilled set"]
    assert "last epoch" not in found.text
    assert sorted(os.listdir(tmp_path)) == ["grid.png", "report.html"]


def test_one_student_has_no_interval_and_unknown_levels_no_line(tmp_path):
    result = _result(last=(0.7,), best=(0.9,))
    page = write_run_report(
        tmp_path, result=result, distilled=_set(), prototypes_images=None, step_records=[], latents=None, config_text=""
    )
    source, found = _read(page)
    assert "one student, so no interval; chance: 50.0 %" in found.text
    assert "all real images" not in found.text
    assert "±" not in found.text
    assert titles(source) == ["The distilled set", "Students", "Measures of the set"]


def test_percentages_of_a_run_have_one_precision(tmp_path):
    result = _result(last=(0.7, 0.712345))
    page = write_run_report(
        tmp_path, result=result, distilled=_set(), prototypes_images=None, step_records=[], latents=None, config_text=""
    )
    numbers = re.findall(r"(\d+(?:\.\d+)?)(?:\u00a0| )%", _read(page)[1].text)
    assert {len(number.partition(".")[2]) for number in numbers if number != "95"} == {1}
    assert "71.2" in _read(page)[1].text


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


def test_report_never_touches_global_plotting():
    code = "import sys, manifoldgd.report.run, manifoldgd.study.rendering; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prototypes_that_are_not_drawn_are_not_denied(tmp_path):
    nothing = {"prototypes_images": None, "step_records": None, "latents": None, "config_text": ""}
    drawn = replace(_set(), manifest={"images": [{"prototype": {"kind": "nearest"}}]})
    for distilled, said in ((drawn, True), (_set(), False)):
        page = write_run_report(tmp_path, result=_result(), distilled=distilled, **nothing)
        assert ("with measures=true" in _read(page)[1].text) == said
