"""What a table no longer has leaves no pictures, and what the table did not write stays."""

from fake_tables import column, set_result, table
from PIL import Image

from manifoldgd.study.rendering import write_table

COLUMNS = tuple(column(ipc) for ipc in (1, 10))


def sets(columns=COLUMNS, methods=("unguided", "mode")):
    return [set_result(method, seed, column=each.key) for each in columns for method in methods for seed in (0, 1)]


def small(columns=COLUMNS, methods=("unguided", "mode"), **changes):
    return table(sets(columns, methods), columns=columns, methods=methods, seeds=(0, 1), **changes)


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_figures_of_columns_that_are_gone_go(tmp_path):
    write_table(tmp_path, small())
    figures = tmp_path / "figures"
    assert names(figures) == {
        *(f"{kind}_ipc{ipc}-convnet3.png" for kind in ("accuracy", "per_class") for ipc in (1, 10)),
        *(f"ipc_{kind}_fashion_mnist_ConvNet-3.png" for kind in ("accuracy", "difference")),
    }
    foreign = {"accuracy_mine.png", "accuracy_ipc1-convnet3.svg", "notes.txt"}
    for name in foreign:
        (figures / name).touch()
    Image.new("RGB", (2, 2)).save(figures / "drawn_elsewhere.png")
    foreign.add("drawn_elsewhere.png")
    (tmp_path / "accuracy_ipc1-convnet3.png").touch()
    write_table(tmp_path, small(COLUMNS[1:]))
    kept = {f"{kind}_ipc10-convnet3.png" for kind in ("accuracy", "per_class")}
    assert names(figures) == kept | foreign
    assert (tmp_path / "accuracy_ipc1-convnet3.png").is_file()


def test_a_plot_that_is_no_longer_drawn_goes(tmp_path):
    methods = ("unguided", "weak", "mid", "strong")
    scales = {"weak": 0.1, "mid": 0.2, "strong": 0.3}
    write_table(tmp_path, small(COLUMNS[:1], methods, parameters=scales))
    assert "scale_ipc1-convnet3.png" in names(tmp_path / "figures")
    write_table(tmp_path, small(COLUMNS[:1], methods))
    assert "scale_ipc1-convnet3.png" not in names(tmp_path / "figures")
