"""Numbers carry the digits their spread supports; tables mark the best and escape the rest."""

import html
import math
import re

import pytest
from PIL import Image

from manifoldgd.estimates import Estimate
from manifoldgd.report.content import Column, Figure, Marked, Notes, Page, Section, Table
from manifoldgd.report.html import table_html
from manifoldgd.report.numbers import number_format, number_text, plus_minus, seconds_text
from manifoldgd.report.text import latex, markdown, table_latex, table_markdown, table_text, terminal


def about(mean, half=None, count=3, of="sets"):
    return Estimate(mean, half, count, of)


NASTY = """<script>alert("1")</script> & 'q' {{ 7 * 7 }}"""


@pytest.mark.parametrize(
    ("spreads", "spec"),
    [
        ([about(74.3, 2.3), about(70.0, 1.1)], ".1f"),
        ([about(74.3, 0.41)], ".2f"),
        ([about(74.3, 12.0)], ".0f"),
        ([about(0.01234)], ".4f"),
        ([about(12.345), about(3.0)], ".1f"),
        ([about(100.0), about(300.0)], ".0f"),
        ([about(1.2e-7)], ".2e"),
        ([about(2.5e7, 1.5e5)], ".2e"),
        ([None, about(math.nan, math.nan)], ".0f"),
        ([about(0.0, 0.0)], ".0f"),
    ],
)
def test_digits_follow_the_spread(spreads, spec):
    assert number_format(spreads) == spec


def test_number_texts():
    assert number_text(about(74.26, 2.31), ".1f") == "74.3 ± 2.3"
    assert number_text(about(-4.26, 2.31), "+.1f") == "-4.3 ± 2.3"
    assert number_text(about(74.26), ".1f") == number_text(74.26, ".1f") == "74.3"
    assert number_text(about(74.26, math.nan), ".1f") == "74.3"
    assert number_text(None, ".1f") == number_text(math.nan, ".1f") == "–"
    assert number_text(-math.inf, ".1f") == "−∞"
    assert number_text(-0.001, ".1f") == "0.0"
    assert number_text(-0.1, ".1f") == "-0.1"
    assert [seconds_text(s) for s in (0.44, 9.96, 59.6, 185, 3599.7, 7810, None)] == [
        "0.4 s", "10 s", "1 min 00 s", "3 min 05 s", "1 h 00 min", "2 h 10 min", "–",
    ]  # fmt: skip


def test_what_stands_behind_plus_minus_is_said_wherever_it_is_printed():
    assert plus_minus([about(1.0), None, 0.5]) == ""
    table = Table([Column("a", "a")], [[Marked(about(1.0, 0.1, of="students"), "▲")], [about(2.0, 0.1)]])
    said = plus_minus([about(1.0, 0.1, of="students"), about(2.0, 0.1)])
    assert "interval of the mean over sets or students" in said
    for text in (table_markdown(table), table_text(table), html.unescape(str(table_html(table)))):
        assert "1.00 ± 0.10 ▲" in text
        assert said in text
    page = Page(title="t", sections=[Section("s", [table])])
    assert "interval of the mean over sets or students" in latex(page, "x")


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
        ["a", about(0.70, 0.01), 5.0, 9],
        ["b", about(0.72, 0.20), math.nan, 1],
        ["c", about(0.72, None), 7.0, 5],
        ["d", about(math.nan), math.inf, 2],
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


def test_markdown_latex_and_text_mark_and_escape():
    table = _table(["a|b_%", 0.5, 1.0, 1], ["b", 0.75, 2.0, 2], caption="C_1")
    lines = table_markdown(table)
    assert r"| a\|b\_% | 50.0 | **1** | 1 |" in lines
    assert "| b | **75.0** | 2 | 2 |" in lines
    tabular = table_latex(table)
    assert r"a\textbar{}b\_\% & 50.0 & \textbf{1} & 1 \\" in tabular
    assert r"\begin{tabular}{lrrr}" in tabular
    lines = table_text(table).splitlines()
    assert [line.split() for line in lines[3:5]] == [["a|b_%", "50.0", "1*", "1"], ["b", "75.0*", "2", "2"]]
    assert r"$\pm$" in table_latex(_table(["a", about(0.5, 0.01), 1.0, 1]))


def test_columns_without_a_cell_are_left_out():
    table = Table.of([(Column("a", "a"), [1, 2]), (Column("b", "b"), [None, None]), (Column("c", "c"), [None, 0])])
    assert [column.key for column in table.columns] == ["a", "c"]
    assert table.rows == [[1, None], [2, 0]]


def test_every_format_has_the_page_s_content():
    """Folded parts are opened in documents, left out of a terminal but for their notes; pictures stay on the page."""
    table, hidden = _table(["one", 0.5, 1.0, 1]), _table(["other", 0.5, 1.0, 1])
    page = Page(
        title="The title",
        subtitle="The question?",
        notices=["Look out."],
        sections=[
            Section("First", ["Said.", table, Figure(Image.new("RGB", (2, 2)), "caption", "alt")]),
            Section("Folded", [hidden, Notes(["small_print"])], folded=True),
            Section("Led to", [hidden], folded=True, links=True),
            Section("Seen", [Figure(Image.new("RGB", (2, 2)), "caption", "alt")]),
        ],
    )
    document = markdown(page)
    assert document.startswith("# The title\n\nThe question?\n\n**Look out.**\n\n## First\n\nSaid.\n\n| name |")
    assert r"- small\_print" in document
    assert "| other |" in document
    assert "Seen" not in document
    assert "Led to" not in document
    shown = terminal(page)
    assert shown.startswith("The title\n!! Look out.\n\nFirst\nSaid.\n")
    assert "- small_print" in shown
    assert "other" not in shown
    printed = latex(page, "a_b")
    assert printed.count(r"\begin{table}") == 1
    assert r"\label{tab:a-b}" in printed
    assert r"\caption{Look out. The title. First. small\_print}" in printed


def test_text_columns_line_up():
    lines = table_text(_table(["short", 0.5, 100.0, 1], ["a much longer name", 0.755, 2.25, 2])).splitlines()
    assert lines[2].index("50.0") == lines[3].index("75.5")
    assert len(lines[1]) >= max(map(len, lines[2:4]))


def test_html_sorts_by_value_and_marks_best():
    page = str(table_html(_table(["10", about(0.5, 0.1), math.nan, 1], [NASTY, about(0.6, 0.1), 3.0, 2])))
    keys = re.findall(r'data-sort="([^"]*)"', page)
    assert keys[:4] == ["10", "0.5", "", "1"]
    assert html.unescape(keys[4]) == NASTY
    assert page.count(" best") == 1
    assert "<script>" not in page
