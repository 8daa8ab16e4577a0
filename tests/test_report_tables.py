"""Numbers carry the digits their spread supports; tables mark the best and escape the rest."""

import csv
import html
import io
import math
import re

import numpy as np
import pytest

from manifoldgd.report.numbers import Spread, number_format, number_text, seconds_text, spread_of, spread_text
from manifoldgd.report.tables import Column, Failure, Table

NASTY = """<script>alert("1")</script> & 'q' {{ 7 * 7 }}"""


@pytest.mark.parametrize(
    ("spreads", "spec"),
    [
        ([Spread(74.3, 2.3), Spread(70.0, 1.1)], ".1f"),
        ([Spread(74.3, 0.41)], ".2f"),
        ([Spread(74.3, 12.0)], ".0f"),
        ([Spread(0.01234)], ".4f"),
        ([Spread(12.345), Spread(3.0)], ".1f"),
        ([Spread(100.0), Spread(300.0)], ".0f"),
        ([Spread(1.2e-7)], ".2e"),
        ([Spread(2.5e7, 1.5e5)], ".2e"),
        ([Spread(None), Spread(math.nan, math.nan)], ".0f"),
        ([Spread(0.0, 0.0)], ".0f"),
    ],
)
def test_digits_follow_the_spread(spreads, spec):
    assert number_format(spreads) == spec


def test_number_texts():
    assert spread_text(Spread(74.26, 2.31), ".1f") == "74.3 ± 2.3"
    assert spread_text(Spread(74.26, None), ".1f") == "74.3"
    assert spread_text(Spread(74.26, math.nan), ".1f") == "74.3"
    assert spread_text(Spread(None, 1.0), ".1f") == "–"
    assert number_text(math.nan, ".1f") == "–"
    assert number_text(-math.inf, ".1f") == "−∞"
    assert number_text(-0.001, ".1f") == "0.0"
    assert number_text(-0.1, ".1f") == "-0.1"
    assert [seconds_text(s) for s in (0.44, 9.96, 59.6, 185, 3599.7, 7810, None)] == [
        "0.4 s", "10 s", "1 min 00 s", "3 min 05 s", "1 h 00 min", "2 h 10 min", "–",
    ]  # fmt: skip


def test_spread_is_the_sample_deviation():
    values = [0.1, 0.4, 0.2]
    assert spread_of(values).mean == pytest.approx(np.mean(values))
    assert spread_of(values).std == pytest.approx(np.std(values, ddof=1))
    assert spread_of([0.3]) == Spread(0.3, None)
    assert spread_of([]) == Spread(None, None)


COLUMNS = [
    Column("name", "name", "setting"),
    Column("top1", "top-1, %", better="high", percent=True),
    Column("fid", "FID", better="low"),
    Column("n", "n"),
]


def _table(*rows, **kw):
    return Table(COLUMNS, rows, **kw)


def test_best_is_marked_by_direction_with_ties_and_never_for_missing_numbers():
    table = _table(
        ["a", Spread(0.70, 0.01), 5.0, 9],
        ["b", Spread(0.72, 0.20), math.nan, 1],
        ["c", Spread(0.72, None), 7.0, 5],
        ["d", Spread(math.nan), math.inf, 2],
        ["e", None, -math.inf, 3],
    )
    assert table.best_cells() == {(1, 1), (2, 1), (0, 2)}
    assert table.texts()[1] == ["b", "72.0 ± 20.0", "–", "1"]
    assert table.texts()[3][1] == "–"


def test_nothing_is_best_alone_or_among_equals():
    assert not _table(["a", 0.5, 1.0, 1]).best_cells()
    assert not _table(["a", 0.5, 1.0, 1], ["b", 0.5, 1.0, 2]).best_cells()
    assert not _table(["a", 0.5, None, 1], ["b", math.nan, 1.0, 2]).best_cells()


def test_table_checks_its_shape():
    with pytest.raises(ValueError, match=r"rows\[1\]: expected 4 cells, got 1"):
        _table(["a", 1, 1, 1], ["b"])
    with pytest.raises(ValueError, match="distinct"):
        Table([Column("a", "x"), Column("a", "y")], [])


def test_csv_holds_raw_values_and_no_failures():
    table = _table(["a,\n1", Spread(1 / 3, 0.01), None, 9], ["b", Spread(0.5), math.nan, 1], failed=[Failure("j", "r")])
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert list(rows[0]) == ["name", "top1", "top1_std", "fid", "n"]
    assert float(rows[0]["top1"]) == 1 / 3
    assert rows[0] | {"top1": ""} == {"name": "a,\n1", "top1": "", "top1_std": "0.01", "fid": "", "n": "9"}
    assert rows[1]["fid"] == rows[1]["top1_std"] == ""
    assert len(rows) == 2


def test_markdown_latex_and_text_mark_and_escape():
    table = _table(
        ["a|b_%", 0.5, 1.0, 1], ["b", 0.75, 2.0, 2], failed=[Failure("k=1", "no | such\nfile")], caption="C_1"
    )
    markdown = table.to_markdown()
    assert r"| a\|b\_% | 50 | **1** | 1 |" in markdown
    assert "| b | **75** | 2 | 2 |" in markdown
    assert r"- k=1: no \| such file" in markdown
    latex = table.to_latex()
    assert r"a\textbar{}b\_\% & 50 & \textbf{1} & 1 \\" in latex
    assert r"\begin{tabular}{lrrr}" in latex
    assert "% failed: k=1: no | such file\n" in latex
    lines = table.to_text().splitlines()
    assert [line.split() for line in lines[3:5]] == [["a|b_%", "50", "1*", "1"], ["b", "75*", "2", "2"]]
    assert lines[-2:] == ["failed (1):", "  k=1: no | such file"]
    assert "\x1b[1m" not in table.to_text()
    assert "\x1b[1m" in table.to_text(colour=True)
    assert r"$\pm$" in _table(["a", Spread(0.5, 0.01), 1.0, 1]).to_latex()


def test_text_columns_line_up():
    lines = _table(["short", 0.5, 100.0, 1], ["a much longer name", 0.755, 2.25, 2]).to_text().splitlines()
    assert lines[2].index("50.0") == lines[3].index("75.5")
    assert len(lines[1]) >= max(map(len, lines[2:4]))


def test_html_sorts_by_value_and_marks_best():
    page = str(_table(["10", Spread(0.5, 0.1), math.nan, 1], [NASTY, Spread(0.6, 0.1), 3.0, 2]).to_html())
    keys = re.findall(r'data-sort="([^"]*)"', page)
    assert keys[:4] == ["10", "0.5", "", "1.0"]
    assert html.unescape(keys[4]) == NASTY
    assert page.count(" best") == 1
    assert "<script>" not in page
