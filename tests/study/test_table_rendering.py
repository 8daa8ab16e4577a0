"""The files of a table: exact numbers, honest marks, nothing that must be fetched, nothing that breaks on gaps."""

import re
from pathlib import Path

import pytest
from fake_tables import METHODS, NASTY, Page, column, rich_table, rows_of, set_result, table

from manifoldgd.errors import UserError
from manifoldgd.report.text import latex, markdown, terminal
from manifoldgd.store.keys import read_json, write_json
from manifoldgd.study.page import (
    accuracy_table,
    blocks,
    detail_table,
    foreign_signs,
    notices,
    published_text,
    study_page,
)
from manifoldgd.study.rendering import write_table
from manifoldgd.study.results import FailedSet, TableResult
from manifoldgd.study.statistics import Summary, cells_csv

PAIRED = [
    set_result("unguided", 0, (0.70, 0.72)),
    set_result("unguided", 1, (0.74, 0.76)),
    set_result("mode", 0, (0.72, 0.74)),
    set_result("mode", 1, (0.765, 0.785)),
]
TWO_SEEDS = {"seeds": (0, 1)}


def main_table(summary):
    return accuracy_table(summary, summary.result.columns, Path())


def markdown_text(summary):
    return markdown(study_page(summary, Path()))


def latex_text(summary):
    return latex(study_page(summary, Path()), summary.result.name)


def cell_texts(result):
    """The accuracy of each method, as it is printed."""
    return {row[0]: row[1:2] for row in main_table(Summary(result)).texts()}


def test_numbers_of_a_small_table(tmp_path):
    """By hand: means 0.73 and 0.7525; differences 0.02 and 0.025; t(0.975, 1) = 12.7062."""
    write_table(tmp_path, table(PAIRED, **TWO_SEEDS))
    base, mode = rows_of(tmp_path / "table.csv")
    assert (base["method"], mode["method"], mode["sets"], mode["students"]) == ("unguided", "mode", "2", "4")
    assert float(base["last_top1"]) == pytest.approx(0.73)
    assert float(base["last_top1_between_sets"]) == pytest.approx(0.04 / 2**0.5)
    assert float(base["last_top1_within_set"]) == pytest.approx(0.02 / 2**0.5)
    assert float(base["last_top1_high"]) - 0.73 == pytest.approx(12.7062 * 0.02, rel=1e-4)
    assert float(mode["difference"]) == pytest.approx(0.0225)
    assert float(mode["difference_low"]) == pytest.approx(0.0225 - 12.7062 * 0.0025, rel=1e-4)
    assert (mode["difference_pairs"], mode["verdict"], base["difference"]) == ("2", "", "")
    assert float(mode["best_top1"]) == pytest.approx(0.7625)
    assert float(mode["seconds_students"]) == 20


def test_one_row_a_student(tmp_path):
    write_table(tmp_path, table(PAIRED, **TWO_SEEDS))
    rows = rows_of(tmp_path / "results.csv")
    assert len(rows) == 8
    assert rows[-1] == {
        "method": "mode",
        "column": "ipc10-convnet3",
        "dataset": "fashion_mnist",
        "ipc": "10",
        "student": "ConvNet-3",
        "label_protocol": "hard_small",
        "split": "test",
        "seed": "1",
        "student_seed": "1",
        "last_top1": "0.785",
        "best_top1": "0.795",
        "key": "mode-1",
        "fingerprint": "",
        "code_version": "0123abc",
    }


def steady(method, gain):
    return [set_result(method, seed, (0.70 + 0.02 * seed + gain + 0.001 * (seed % 2),)) for seed in range(3)]


def test_verdicts_are_marked_and_others_are_not():
    sets = [*steady("unguided", 0), *steady("mode", 0.01), *steady("worse", -0.01), *steady("same", 0)]
    texts = cell_texts(table(sets, methods=("unguided", "mode", "worse", "same"), student_seeds=(0,)))
    assert {method: cells[0][-1] if cells[0][-1] in "▲▼" else "" for method, cells in texts.items()} == {
        "unguided": "",
        "mode": "▲",
        "worse": "▼",
        "same": "",
    }


def test_the_best_epoch_never_ranks():
    high_best = set_result("mode", 0, (0.60,), best=(0.99,))
    face = main_table(Summary(table([set_result("unguided", 0, (0.70,)), high_best])))
    assert face.best_cells() == {(0, 1)}
    details = detail_table(Summary(table([high_best])), column())
    best = next(each for each in details.columns if each.key == "best_top1")
    assert best.better is None
    assert "not the result" in best.title


def test_unfinished_cells_say_how_many_sets_they_have():
    texts = cell_texts(table(PAIRED[:3]))
    assert texts["unguided"] == ["73.0 ± 25.4 (2 of 3 sets)"]
    assert texts["mode"] == ["73.0 (1 of 3 sets)"]
    assert cell_texts(table())["mode"] == ["– (0 of 3 sets)"]


def test_cells_with_fewer_students_than_asked_for_say_so():
    sets = [set_result("unguided", seed, (0.7, 0.8)) for seed in (0, 1)] + [set_result("mode", 0, (0.9,))]
    half = table(sets, seeds=(0, 1))
    assert cell_texts(half)["unguided"] == ["75.0 ± 0.0"]
    assert cell_texts(half)["mode"] == ["90.0 (1 of 2 sets, 1 of 2 students)"]
    assert notices(Summary(half))[-1].startswith("Unfinished: 1 of 4 sets are missing, fewer students than")


def test_one_set_has_no_interval_and_no_verdict(tmp_path):
    sets = [set_result("unguided", 0, (0.7012,)), set_result("mode", 0, (0.9034,))]
    text = write_table(tmp_path, table(sets, seeds=(0,), student_seeds=(0,)))
    assert cell_texts(table(sets, seeds=(0,), student_seeds=(0,)))["mode"] == ["90.3"]
    assert "none is called better or worse" in text
    assert "A cell with one set has no interval" in text
    row = rows_of(tmp_path / "table.csv")[1]
    assert (row["last_top1_low"], row["difference_low"], row["verdict"]) == ("", "", "")


def woof(**changes):
    place = column(dataset="imagewoof", student="ResNet-18")
    sets = [set_result(method, seed) for method in ("unguided", "mode") for seed in range(3)]
    return Summary(table(sets, columns=(place,), **changes))


def test_published_numbers_of_the_own_family_stand_unmarked_beside_the_measured():
    summary = woof(number_family="minimax", published_as={"unguided": "DiT", "mode": "MGD3"})
    position = [each.key for each in main_table(summary).columns].index("ipc10-convnet3 published")
    assert main_table(summary).texts()[0][position] == "34.7 ± 0.4"
    assert foreign_signs(summary) == {}
    assert {row.method for _, row in summary.not_run} >= {"Minimax", "Full", "Herding"}
    assert not {row.method for _, row in summary.not_run} & {"DiT", "MGD3"}


def test_other_families_carry_a_mark_with_a_footnote(tmp_path):
    summary = woof(number_family="minimax", published_as={"mode": "IGD"})
    text = published_text(summary.cells.at[("mode", "ipc10-convnet3"), "published"], foreign_signs(summary))
    assert re.fullmatch(r"\d\d\.\d ± \d\.\d †", text)
    for page in (markdown_text(summary), latex_text(summary), write_table(tmp_path, summary.result)):
        assert "another number family (“igd”): absolute values of different families do not compare" in page
    assert " †" in markdown_text(summary)
    assert r"\dag{}" in latex_text(summary)
    assert "†" in Page(tmp_path / "report.html").text


def test_methods_without_a_published_name_have_no_published_column():
    titles = [each.title for each in main_table(woof(number_family="minimax")).columns]
    assert titles == ["method", "accuracy, %", "to unguided, points", "sets × students"]


def test_published_but_not_run_is_a_block_of_its_own_with_sources(rich):
    folder, text = rich
    assert [row[0] for row in re.findall(r"^(DSA|DC) .*training-based", text, re.MULTILINE)] == ["D", "D"]
    page = Page(folder / "report.html")
    assert "Published, not run here" in page.text
    assert "88.7 ± 0.2" in page.text
    assert "KIP paper Table 1" in page.text
    assert "training-based" in (folder / "table.md").read_text()


def test_validation_tables_say_so_everywhere_and_show_no_published_test_numbers(tmp_path):
    text = write_table(tmp_path, table(PAIRED, split="validation", **TWO_SEEDS))
    page = Page(tmp_path / "report.html")
    for where in (text, page.text, (tmp_path / "table.md").read_text(), (tmp_path / "table.tex").read_text()):
        assert "VALIDATION accuracies, not test results" in where
        assert "DSA" not in where
    assert "validation split" in page.text
    assert "last-epoch validation accuracy" in text
    assert {row["split"] for row in rows_of(tmp_path / "results.csv")} == {"validation"}


def test_the_labels_of_earlier_records_are_told_by_the_protocol_s_name(tmp_path):
    for name, labels in (("hard_small", "hard"), ("soft_small", "soft")):
        table(columns=(column(label_protocol=name, labels=labels),)).save(tmp_path / "results.json")
        held = read_json(tmp_path / "results.json")
        del held["columns"][0]["labels"]
        write_json(tmp_path / "results.json", held)
        assert TableResult.load(tmp_path / "results.json").columns[0].labels == labels


def test_soft_labels_are_in_the_caption_and_never_beside_hard_ones(tmp_path):
    soft = column(label_protocol="soft_small", labels="soft")
    assert "soft labels" in write_table(tmp_path, table(PAIRED, columns=(soft,)))
    with pytest.raises(UserError, match="hard and soft labels in one table"):
        Summary(table(columns=(soft, column(key="other"))))
    with pytest.raises(UserError, match="no columns"):
        Summary(table(columns=()))


def test_failures_and_notes_are_printed(tmp_path):
    failed = FailedSet(method="mode", column="ipc10-convnet3", seed=2, reason="disk full")
    text = write_table(tmp_path, table(PAIRED, failed=(failed,), notes=("tuned elsewhere",)))
    for where in (text, (tmp_path / "table.md").read_text(), Page(tmp_path / "report.html").text):
        assert "disk full" in where
        assert "tuned elsewhere" in where
        assert "2 of 6 sets are missing" in where


def test_latex_is_balanced_and_escaped():
    sets = [set_result(NASTY, seed, (0.7, 0.72)) for seed in (0, 1)]
    text = latex_text(Summary(table(sets, methods=("unguided", NASTY), title=NASTY, notes=(NASTY,), name="a_b")))
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[\\{}&%$#_]", "", body)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert not re.search(r"[#_~^<>|]", re.sub(r"\$[^$]*\$", "", plain))
    begun = re.findall(r"\\begin\{(\w+)\}", body)
    assert begun == ["table", "tabular", "table", "tabular"]  # the block, and what was published
    assert re.findall(r"\\end\{(\w+)\}", body) == ["tabular", "table", "tabular", "table"]
    assert r"\label{tab:a-b}" in body
    assert r"\label{tab:a-b-2}" in body
    tabular = body[body.index(r"\toprule") : body.index(r"\bottomrule")]
    lines = [line for line in tabular.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {2}
    assert not re.search(r"\\\\\s*\[", body)


def test_latex_knows_every_sign_that_tables_print(rich):
    folder, _ = rich
    text = (folder / "table.tex").read_text(encoding="utf-8")
    assert r"$\uparrow$" in text
    # What is left beyond ASCII are letters and quotes, which LaTeX reads as UTF-8.
    assert set(re.findall(r"[^\x00-\x7f]", text)) <= set("“”é")


def test_nothing_is_measured_yet(tmp_path):
    text = write_table(tmp_path, table())
    assert "6 of 6 sets are missing" in text
    assert "– (0 of 3 sets)" in Page(tmp_path / "report.html").text
    assert not (tmp_path / "figures").exists()
    assert [row["sets"] for row in rows_of(tmp_path / "table.csv")] == ["0", "0"]
    assert rows_of(tmp_path / "results.csv") == []


def test_gaps_in_the_record_do_not_stop_the_pages(tmp_path):
    """A baseline that is no row, students of unequal number, classes without a value, no times."""
    sets = [
        set_result("mode", 0, (0.7,), per_class=((None, 0.7),), seconds={}, hardware="", code_version=""),
        set_result("mode", 1, (0.7, 0.8), measures={"frechet_distance": None}, guidance={"kept": None}),
    ]
    text = write_table(tmp_path, table(sets, methods=("mode", "other"), baseline="unguided"))
    assert "2 sets, 3 students" in (tmp_path / "table.md").read_text()
    assert "none is called better or worse" in text


def test_a_table_read_back_gives_the_same_files(rich, tmp_path):
    folder, text = rich
    rich_table().save(tmp_path / "results.json")
    again = TableResult.load(tmp_path / "results.json")
    assert cells_csv(Summary(again)) == (folder / "table.csv").read_text()
    assert terminal(study_page(Summary(again), tmp_path)) == text


def test_titles_hold_only_what_tells_columns_apart():
    shared, own = Summary(rich_table()).titles
    assert shared == "fashion_mnist, ConvNet-3, hard_small"
    assert own["ipc10-convnet3"] == "ipc 10"
    mixed = (column(), column(key="b", student="ResNet-18"), column(key="c", student="ResNet-18"))
    assert Summary(table(columns=mixed)).titles[1] == {"ipc10-convnet3": "ipc10-convnet3", "b": "b", "c": "c"}


def test_one_block_a_number_of_images_and_nothing_is_ranked_across():
    summary = Summary(rich_table())
    assert list(blocks(summary)) == ["1 image a class", "10 images a class", "50 images a class"]
    sections = [each for each in study_page(summary, Path()).sections if each.title in blocks(summary)]
    for section, place in zip(sections, summary.result.columns, strict=True):
        table = section.blocks[0]
        assert [each.key for each in table.columns if each.better] == [place.key]
    several = table_of_students()
    assert list(blocks(Summary(several))) == ["10 images a class"]
    titles = [each.title for each in main_table(Summary(several)).columns if each.better]
    assert titles == ["ConvNet-3: accuracy, %", "ResNet-18: accuracy, %"]


def table_of_students():
    columns = (column(), column(key="resnet", student="ResNet-18"))
    sets = [set_result(method, 0, column=each.key) for each in columns for method in ("unguided", "mode")]
    return table(sets, columns=columns)


def test_each_accuracy_is_said_once(rich):
    """In a document: in its block, and nowhere else."""
    folder, _ = rich
    text = (folder / "table.md").read_text()
    rows = re.findall(r"^\| mode \| (\d\d\.\d+ ± \d\.\d+)", text, re.MULTILINE)
    assert len(rows) == 3
    assert [text.count(cell) for cell in rows] == [1, 1, 1]


def test_scores_are_columns_on_request(tmp_path):
    held = Summary(table([set_result("mode", 0, measures={"hlr": 0.1, "lrs": 0.2})]))
    titles = [each.title for each in detail_table(held, column(), scores=True).columns]
    assert "HLR" in titles
    assert "IOR" not in titles
    assert "HLR" not in [each.title for each in detail_table(held, column()).columns]
    assert "do not compare" in write_table(tmp_path, held.result, scores=True)
    assert "no set holds one" in write_table(tmp_path, table(), scores=True)
    assert "DD-Ranking" not in write_table(tmp_path, held.result)


def test_every_method_is_a_row_in_the_order_of_the_table(rich):
    folder, _ = rich
    assert [row["method"] for row in rows_of(folder / "table.csv")][::3] == list(METHODS)
