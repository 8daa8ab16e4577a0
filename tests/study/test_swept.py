"""A sweep is a study: its jobs' records become the rows, columns and page that a table has."""

import os
from pathlib import Path

import pytest
from fake_tables import Page, rows_of
from PIL import Image

from manifoldgd.errors import UserError
from manifoldgd.study.page import blocks, number_sections, study_page, swept_numbers
from manifoldgd.study.rendering import write_sweep
from manifoldgd.study.statistics import Summary
from manifoldgd.study.swept import swept_result


def record(method="mode", last=(0.70, 0.74), seed=0, **changes):
    students = [
        {"seed": i, "last_top1": value, "best_top1": 0.99, "per_class": [value, value], "seconds": 1.5}
        for i, value in enumerate(last)
    ]
    return {
        "format": 1, "dataset": "toy", "method": method, "ipc": 2, "student": "ConvNet-3",
        "label_protocol": "hard_small", "distillation_seed": seed, "student_seeds": list(range(len(last))),
        "students": students, "set_metrics": {"frechet_distance": 3.0}, "guidance": None,
        "seconds": {"distill": 2.0, "students": 3.0}, "fingerprint": f"{method}{seed}",
    } | changes  # fmt: skip


def swept(*jobs, folder=Path()):
    return Summary(swept_result(folder / "run-1", jobs, title="Sweep run-1"))


def rows(summary, position=0):
    """The first column of a block, by row, as it is printed."""
    heading = list(blocks(summary))[position]
    section = next(each for each in study_page(summary, Path()).sections if each.title == heading)
    return {str(row[0]): row[1] for row in section.blocks[0].texts()}


def test_rows_are_ranked_by_the_last_epoch_and_never_by_the_best():
    summary = swept(
        ({"guidance": "a", "ipc": "2"}, record("a", (0.6, 0.6))),
        ({"guidance": "b", "ipc": "2"}, record("b", (0.8, 0.8))),
        ({"guidance": "d", "ipc": "2"}, record("d", (0.7, 0.7))),
    )
    assert list(rows(summary)) == ["b", "d", "a"]


def test_nothing_is_ranked_across_numbers_of_images():
    summary = swept(*(({"g": g, "ipc": str(ipc)}, record(g, ipc=ipc)) for g in ("a", "b") for ipc in (1, 10)))
    assert list(blocks(summary)) == ["1 image a class", "10 images a class"]
    assert [set(rows(summary, position)) for position in (0, 1)] == [{"a", "b"}, {"a", "b"}]


def test_seeds_are_sets_of_one_row():
    jobs = [
        ({"g": g, "seed": str(seed)}, record(g, (0.5 + seed / 10, 0.6 + seed / 10), seed))
        for g in ("a", "b")
        for seed in (0, 1, 2)
    ]
    summary = swept(*jobs)
    cell = summary.of(summary.result.columns[0]).loc["a"]
    assert cell["last_top1"].mean == pytest.approx(0.65)
    assert (cell["last_top1"].count, cell["last_top1"].of, cell["shape"]) == (3, "sets", "3 × 2")


def test_a_sweep_over_seeds_counts_equal_sets_once():
    def cell(*results):
        summary = swept(*(({"seed": str(seed)}, each) for seed, each in enumerate(results)))
        return summary.of(summary.result.columns[0]).loc["mode"]

    copies = [record(seed=seed, last=(0.5, 0.6), fingerprint="f") for seed in (0, 1, 2)]
    assert (cell(*copies)["shape"], cell(*copies)["last_top1"].half) == ("1 × 2", None)
    assert cell(*copies, record(seed=3, fingerprint="g"))["shape"] == "2 × 2"
    old = [record(seed=seed, fingerprint="") for seed in (0, 1)]  # without fingerprints
    assert cell(*old)["shape"] == "2 × 2"


def test_what_may_not_be_compared_gets_columns_and_blocks_of_its_own():
    summary = swept(
        ({"dataset": "x"}, record(dataset="x")),
        ({"dataset": "y"}, record(dataset="y")),
        ({"dataset": "x"}, record(label_protocol="soft_small", dataset="x")),
        ({"dataset": "x"}, record(student="ResNet-18", dataset="x")),
    )
    assert list(blocks(summary)) == [
        "x, 2 images a class, hard labels",
        "y, 2 images a class, hard labels",
        "x, 2 images a class, soft labels",
    ]
    assert [len(columns) for columns in blocks(summary).values()] == [2, 1, 1]


def test_accuracy_is_drawn_against_each_swept_number_a_line_for_each_guidance():
    summary = swept(
        *(
            ({"guidance": g, "guidance.scale": str(scale)}, record(g, (0.7 + scale,)))
            for g in ("mode", "manifold")
            for scale in (0.05, 0.1, 0.2)
        )
    )
    (name, lines), *others = swept_numbers(summary.result).items()
    assert (name, others) == ("guidance.scale", [])
    assert lines["manifold guidance.scale=0.2"] == ("manifold", 0.2)
    (section,) = number_sections(summary)
    labels = {text.get_text() for text in section.blocks[0].drawn.figure.axes[0].texts}
    assert labels == {"mode", "manifold"}


def test_rows_that_values_alone_do_not_tell_apart_are_named_by_their_keys():
    summary = swept(({"a": "x", "b": "y"}, record("p")), ({"a": "x"}, record("q")), ({"b": "x"}, record("r")))
    assert set(summary.result.methods) == {"x y", "x", "b=x"}


def test_files(tmp_path):
    home = tmp_path / "job"
    home.mkdir()
    Image.new("RGB", (8, 8)).save(home / "grid.png")
    (home / "report.html").touch()
    sweep = tmp_path / "sweeps" / "run-1"
    jobs = [({"g": g}, record(g, (value, value), folder=str(home))) for g, value in (("a", 0.5), ("b", 0.7))]
    failed = [("g=c ipc=0", "ipc: needs to be positive, got 0 <b>")]
    text = write_sweep(sweep, jobs, failed, title="<i>")
    assert set(os.listdir(sweep)) == {"sweep.csv", "sweep.md", "sweep.html", "results.csv", "failed.csv"}
    assert "Failed (1)\n- g=c ipc=0: ipc: needs to be positive, got 0 <b>" in text
    found = [
        (row["g"], row["method"], row["last_top1"], row["measure_frechet_distance"])
        for row in rows_of(sweep / "sweep.csv")
    ]
    assert found == [("a", "a", "0.5", "3.0"), ("b", "b", "0.7", "3.0")]
    assert len(rows_of(sweep / "results.csv")) == 4
    assert rows_of(sweep / "failed.csv") == [{"job": "g=c ipc=0", "reason": failed[0][1]}]
    page = Page(sweep / "sweep.html")
    assert failed[0][1] in page.text
    assert page.links[:2] == ["../../job/report.html"] * 2


def test_a_sweep_in_which_all_failed_still_reports(tmp_path):
    text = write_sweep(tmp_path, [], [("g=c", "no")], title="t")
    assert "g=c: no" in text
    assert rows_of(tmp_path / "results.csv") == []


def test_other_formats_are_refused():
    with pytest.raises(UserError, match="expected format 1"):
        swept(({}, record(format=None)))
