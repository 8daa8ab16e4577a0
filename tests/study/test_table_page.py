"""The page of a table: self-contained, complete, and whole where pictures or numbers are missing."""

import html
import re

import pytest
from fake_tables import NASTY, Page, column, rich_table, set_result, table
from PIL import Image

from manifoldgd.study.page import run_link, swept_numbers
from manifoldgd.study.rendering import write_table


def check_self_contained(page):
    assert all(load.startswith("data:") for load in page.loads)
    assert not re.search(r"url\((?!#)|@import", page.source)
    assert "{{" not in page.source


def test_page_fetches_nothing_and_escapes_everything(plots, rich, tmp_path):
    check_self_contained(Page(rich[0] / "report.html"))
    write_table(tmp_path, table([set_result(NASTY, 0)], methods=("unguided", NASTY), title=NASTY, question=NASTY))
    nasty = Page(tmp_path / "report.html")
    check_self_contained(nasty)
    drawn = list((tmp_path / "figures").iterdir())
    assert drawn
    for file in drawn:
        with Image.open(file) as image:
            assert image.width > 800
    assert "<script>alert" not in nasty.source
    assert NASTY in html.unescape(nasty.text)


def test_rich_page_holds_every_section(rich):
    folder, _ = rich
    page = Page(folder / "report.html")
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page.source)
    assert titles == [
        "Failed (1)",
        "1 image a class",
        "10 images a class",
        "50 images a class",
        "Accuracy against images a class",
        "Accuracy against guidance scale",
        "Published, not run here",
        "Accuracy by class",
        "More numbers",
        "How to read the numbers",
        "How it was measured",
        "Runs",
    ]
    assert page.source.count("<details>") == 5
    assert "3 of 120 sets are missing, 1 of them failed" in page.text
    names = {file.name for file in (folder / "figures").iterdir()}
    for ipc in (1, 10, 50):
        for kind in ("accuracy", "scale", "per_class"):
            assert f"{kind}_ipc{ipc}-convnet3.png" in names
    assert {f"ipc_{kind}_fashion_mnist_ConvNet-3.png" for kind in ("accuracy", "difference")} <= names
    assert not list(folder.glob(".*"))


def test_missing_and_broken_pictures_are_named(rich, tmp_path):
    assert "manifold_released; no picture of herding" in Page(rich[0] / "report.html").text
    good, bad = tmp_path / "a" / "grid.png", tmp_path / "b" / "grid.png"
    for file in (good, bad):
        file.parent.mkdir()
        file.write_bytes(b"no picture")
    Image.new("RGB", (2000, 1000)).save(good)
    sets = [set_result("unguided", 0, grid="a/grid.png"), set_result("mode", 0, grid="b/grid.png")]
    write_table(tmp_path, table(sets))
    assert "unguided; no picture of mode" in Page(tmp_path / "report.html").text
    assert 'width="180" height="90"' in (tmp_path / "report.html").read_text()


def test_runs_are_linked_to_where_they_can_be_seen(tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "report.html").touch()
    Image.new("RGB", (20, 20)).save(tmp_path / "a b" / "grid.png")

    def link(run=None, grid=None):
        return run_link({"run": run, "grid": grid}, tmp_path)

    assert link("https://wandb.ai/x").url == "https://wandb.ai/x"
    assert link(grid="a b/grid.png").url == "a%20b/report.html"
    assert link(grid="c/grid.png").url == "c"
    assert link("javascript:alert(1)") is None
    assert link(grid="/etc/grid.png") is None
    write_table(tmp_path, table([set_result(run="https://wandb.ai/x"), set_result(seed=1, grid="a b/grid.png")]))
    # A method leads to its first run, its picture to its own, and the list of runs to every one.
    links = Page(tmp_path / "report.html").links
    assert links == ["https://wandb.ai/x", "a%20b/report.html", "https://wandb.ai/x", "a%20b/report.html"]


def test_students_tables_show_each_set_once(tmp_path):
    """Two students judge the same images."""
    Image.new("RGB", (20, 20)).save(tmp_path / "grid.png")
    columns = (column(), column(key="resnet", student="ResNet-18"))
    sets = [set_result("mode", 0, column=each.key, grid="grid.png") for each in columns]
    write_table(tmp_path, table(sets, columns=columns))
    assert Page(tmp_path / "report.html").source.count('<figure class="narrow">') == 1


def test_a_number_in_the_names_of_methods_makes_lines():
    scales = {"mode-0.1": 0.1, "mode-0.2": 0.2, "mode-0.4": 0.4, "manifold-0.1": 0.1}
    held = table(methods=("unguided", *scales), parameters=scales | {"gone": 9.0})
    assert swept_numbers(held) == {
        "guidance scale": {name: (name.split("-")[0], scale) for name, scale in scales.items()}
    }
    assert swept_numbers(table(methods=("unguided", "mode"), parameters={"mode": 0.1})) == {}


@pytest.mark.slow  # the drawings of 120 sets; a page of one set is drawn above
def test_the_page_of_a_large_study_stays_small(tmp_path):
    write_table(tmp_path, rich_table(tmp_path))
    check_self_contained(Page(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
