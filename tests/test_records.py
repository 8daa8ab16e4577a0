"""Every recorded table says today what it said when it was recorded, to the last character."""

from pathlib import Path

import pytest

from manifoldgd.study.rendering import latex_text, markdown_text
from manifoldgd.study.results import TableResult
from manifoldgd.study.spreadsheets import cells_csv, students_csv
from manifoldgd.study.summary import summarise

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
RECORDS = sorted(file.parent for file in EXPERIMENTS.glob("*/results.json"))
TEXTS = {"results.csv": students_csv, "table.csv": cells_csv, "table.md": markdown_text, "table.tex": latex_text}


def test_there_are_records():
    assert {folder.name for folder in RECORDS} >= {"ablation", "digits", "fashion_mnist", "fashion_mnist_students"}


@pytest.mark.parametrize("home", RECORDS, ids=lambda folder: folder.name)
def test_a_record_is_rendered_as_it_was(home):
    summary = summarise(TableResult.load(home / "results.json"))
    for name, text in TEXTS.items():
        assert text(summary) == (home / name).read_text(), f"{home.name}/{name}"
