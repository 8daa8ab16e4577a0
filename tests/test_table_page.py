"""The page of a table: self-contained, complete, and whole where pictures or numbers are missing."""

import html
import re

import pytest
from fake_tables import NASTY, Page, column, set_result, table
from PIL import Image

from manifoldgd.report.numbers import Spread
from manifoldgd.report.table_figures import heat_map, line_plot
from manifoldgd.study.layout import run_link
from manifoldgd.study.rendering import write_table


def test_page_fetches_nothing_and_escapes_everything(rich, tmp_path):
    folder, _ = rich
    page = Page(folder / "report.html")
    assert all(load.startswith("data:") for load in page.loads)
    assert not re.search(r"url\(|@import", page.source)
    assert "{{" not in page.source
    write_table(tmp_path, table([set_result(NASTY, 0)], methods=("unguided", NASTY), title=NASTY, question=NASTY))
    nasty = Page(tmp_path / "report.html")
    assert "<script>alert" not in nasty.source
    assert NASTY in html.unescape(nasty.text)


def test_rich_page_holds_every_section(rich):
    folder, _ = rich
    page = Page(folder / "report.html")
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page.source)
    assert titles == [
        "The table",
        "Accuracy",
        "Difference to unguided",
        "Accuracy against images a class",
        "Accuracy against guidance scale",
        "The images",
        "Accuracy by class",
        "Details",
        "Published, not run here",
        "How it was measured",
        "Runs",
    ]
    assert "3 of 120 sets are missing, 1 of them failed" in page.text
    names = {file.name for file in (folder / "figures").iterdir()}
    for ipc in (1, 10, 50):
        for kind in ("accuracy", "difference", "scale", "per_class"):
            assert f"{kind}_ipc{ipc}-convnet3.png" in names
    assert "ipc_accuracy_fashion_mnist_ConvNet-3.png" in names
    with Image.open(folder / "figures" / "accuracy_ipc10-convnet3.png") as image:
        assert image.width > 900
    assert not list(folder.glob(".*"))


def test_missing_and_broken_pictures_are_named(rich, tmp_path):
    assert "No picture of herding." in Page(rich[0] / "report.html").text
    good, bad = tmp_path / "a" / "grid.png", tmp_path / "b" / "grid.png"
    for file in (good, bad):
        file.parent.mkdir()
        file.write_bytes(b"no picture")
    Image.new("RGB", (2000, 1000)).save(good)
    sets = [set_result("unguided", 0, grid="a/grid.png"), set_result("mode", 0, grid="b/grid.png")]
    write_table(tmp_path, table(sets))
    assert "No picture of mode." in Page(tmp_path / "report.html").text
    assert 'width="260" height="130"' in (tmp_path / "report.html").read_text()


def test_runs_are_linked_to_where_they_can_be_seen(tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "report.html").touch()
    assert run_link(set_result(run="https://wandb.ai/x"), tmp_path).url == "https://wandb.ai/x"
    assert run_link(set_result(grid="a b/grid.png"), tmp_path).url == "a%20b/report.html"
    assert run_link(set_result(grid="c/grid.png"), tmp_path).url == "c"
    assert run_link(set_result(run="javascript:alert(1)"), tmp_path) is None
    assert run_link(set_result(grid="/etc/grid.png"), tmp_path) is None
    write_table(tmp_path, table([set_result(run="https://wandb.ai/x"), set_result(seed=1, grid="a b/grid.png")]))
    assert Page(tmp_path / "report.html").links == ["https://wandb.ai/x", "a%20b/report.html"]


def test_students_tables_show_each_set_once(tmp_path):
    """Two students judge the same images."""
    Image.new("RGB", (20, 20)).save(tmp_path / "grid.png")
    columns = (column(), column(key="resnet", student="ResNet-18"))
    sets = [set_result("mode", 0, column=each.key, grid="grid.png") for each in columns]
    write_table(tmp_path, table(sets, columns=columns))
    assert Page(tmp_path / "report.html").source.count('<figure class="narrow">') == 1


def test_plots_refuse_nothing_to_draw():
    with pytest.raises(ValueError, match="at least one point"):
        line_plot({"a": [(1.0, Spread(None))]}, title="t", x_title="x")
    with pytest.raises(ValueError, match="expected 1 x 2 numbers"):
        heat_map([[1.0]], [0.0], rows=["a"], columns=["b", "c"], title="t")
