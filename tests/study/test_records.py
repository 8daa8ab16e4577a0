"""Every recorded table says today what it said when it was recorded: its spreadsheets to the last character, its
documents to the last number.
"""

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from manifoldgd.report.text import latex, markdown
from manifoldgd.study.page import blocks, study_page
from manifoldgd.study.results import TableResult
from manifoldgd.study.statistics import RECORDED, Summary, cells_csv, frame_of, students_csv

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECORDS = sorted(file.parent for file in EXPERIMENTS.glob("*/results.json"))
NUMBER = r"([+-]?\d+(?:\.\d+)?)"
ESTIMATE = re.compile(rf"{NUMBER}(?: ± {NUMBER})?")


@pytest.fixture(scope="module", params=RECORDS, ids=lambda folder: folder.name)
def record(request):
    return request.param, Summary(TableResult.load(request.param / "results.json"))


def test_there_are_records():
    assert {folder.name for folder in RECORDS} >= {"ablation", "digits", "fashion_mnist", "fashion_mnist_students"}


def test_a_record_is_rendered_as_it_was(record):
    home, summary = record
    page = study_page(summary, home)
    texts = {
        "results.csv": students_csv(summary),
        "table.csv": cells_csv(summary),
        "table.md": markdown(page),
        "table.tex": latex(page, home.name),
    }
    for name, text in texts.items():
        assert text == (home / name).read_text(), f"{home.name}/{name}"


def test_the_frame_is_what_is_recorded_a_row_a_student(record):
    home, summary = record
    read = pd.read_csv(home / "results.csv", keep_default_na=False)
    frame = frame_of(summary.result)[list(RECORDED)]
    pd.testing.assert_frame_equal(frame, read, check_dtype=False)


def test_a_record_of_the_first_format_is_kept_as_rows(record, tmp_path):
    """A student a row where there was a list a quantity; what is written now is read as the same."""
    home, summary = record
    held = json.loads((home / "results.json").read_text())
    summary.result.save(tmp_path / "results.json")
    assert TableResult.load(tmp_path / "results.json") == summary.result
    for old, new in zip(held["sets"], json.loads((tmp_path / "results.json").read_text())["sets"], strict=True):
        rows = [list(student.values()) for student in new["students"]]
        lists = [old[name] for name in ("student_seeds", "last", "best", "per_class")] if "last" in old else None
        assert rows == [list(student) for student in zip(*lists, strict=True)] if lists else old == new


def test_every_number_of_a_document_is_that_of_the_record(record):
    """Mean, interval, difference and number of paired sets of every cell, at the digits that are printed."""
    home, summary = record
    with (home / "table.csv").open(newline="") as stream:
        cells = {(row["method"], row["column"]): row for row in csv.DictReader(stream)}
    document = (home / "table.md").read_text().replace("\\", "").replace("*", "")
    checked = 0
    for heading, columns in blocks(summary).items():
        lines = document.split(f"\n## {heading}\n")[1].split("\n## ")[0].splitlines()
        rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
        titles = rows["method"].removesuffix(" |").split(" | ")
        for method in summary.result.methods:
            texts = rows[method].removesuffix(" |").split(" | ")
            measured = [text for title, text in zip(titles, texts, strict=True) if title.endswith("accuracy, %")]
            compared = [text for title, text in zip(titles, texts, strict=True) if title.endswith("points")]
            for column, accuracy, difference in zip(columns, measured, compared, strict=True):
                cell = cells[method, column.key]
                _same(accuracy, cell["last_top1"], cell["last_top1_high"])
                _same(difference, cell["difference"], cell["difference_high"])
                if cell["difference"]:
                    assert f"(n {cell['difference_pairs']})" in difference
                checked += 1
    assert checked == len(cells)


def _same(text, mean, high):
    """A printed number against a recorded mean and upper end, as fractions; a dash where there is none."""
    if not mean:
        assert text.startswith("–")
        return
    printed, half = ESTIMATE.match(text).groups()
    digits = len(printed.partition(".")[2])
    assert float(printed) == pytest.approx(100 * float(mean), abs=0.5 * 10**-digits + 1e-9)
    assert (half is None) == (high == "")
    if half:
        assert float(half) == pytest.approx(100 * (float(high) - float(mean)), abs=0.5 * 10**-digits + 1e-9)
