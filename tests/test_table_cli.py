"""``manifoldgd table``: bad input before any work, dry runs, records; cells run as fakes, and once for real."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from command import manifoldgd
from fake_cells import NO_DISK, WRONG, fake_job, metrics_of
from PIL import Image

from manifoldgd.cli import table_work
from manifoldgd.tables.cells import runs
from manifoldgd.tables.definition import read_definition
from manifoldgd.tables.lock import locked
from manifoldgd.tables.results import TableResult
from manifoldgd.tables.runner import run_left

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
CONF = EXPERIMENTS.parent / "conf"
TOY = {
    "title": "Toy",
    "question": "Which?",
    "number_family": "none",
    "seeds": [0, 1],
    "student_seeds": [0],
    "baseline": "unguided",
    "methods": {"random": {"source": "random"}, "unguided": {"guidance": "none"}, "mode": {"guidance": "mode"}},
    "columns": [
        {"key": "one", "dataset": "digits", "ipc": 1, "student": "convnet3"},
        {"key": "two", "dataset": "digits", "ipc": 2, "student": "convnet3"},
    ],
    "overrides": {"logger": "none", "machine": "cpu", "student.width": 8},
}
OUTPUT = Path("outputs/tables/toy")
HOME = Path("experiments/toy")


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path, tiny_prior):
    monkeypatch.chdir(tmp_path)
    write(prior=tiny_prior)


def write(prior=None, **changes):
    table = {**TOY, **changes}
    if prior:
        table["overrides"] = {**table["overrides"], "prior.path": str(prior)}
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))


def change(**changes):
    table = yaml.safe_load((HOME / "table.yaml").read_text())
    (HOME / "table.yaml").write_text(yaml.safe_dump({**table, **changes}, sort_keys=False))


@pytest.fixture
def fakes(monkeypatch):
    """Replaces what is run for a cell; returns the function that says by what."""

    def use(scripts=None, **how):
        job = fake_job(scripts, **how)
        monkeypatch.setattr(table_work, "run_left", functools.partial(run_left, job=job))

    use()
    return use


def table(*arguments):
    return manifoldgd("table", "table=toy", *arguments)


def ran(output=OUTPUT):
    file = output / "order.txt"
    lines = file.read_text().split() if file.is_file() else []
    file.unlink(missing_ok=True)
    return lines


def complaint(capsys, code):
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("manifoldgd: error: ")
    assert err.count("\n") == 1, err
    assert not OUTPUT.exists() or not (OUTPUT / "logs").exists()  # nothing was run
    return err.removeprefix("manifoldgd: error: ").strip()


WRONG_INPUT = [
    (["table=toys"], ("no table 'toys'", "toy", "did you mean 'toy'")),
    (["table=toy", "methods=mood"], ("methods: no 'mood'", "random, unguided, mode", "did you mean 'mode'")),
    (["table=toy", "columns=[one,three]"], ("columns: no 'three'", "one, two")),
    (["table=toy", "seeds=[]"], ("seeds: expected different whole numbers", "got []")),
    (["table=toy", "student_seeds=[1,1]"], ("student_seeds: expected different whole numbers", "got [1, 1]")),
    (["table=toy", "seeds=many"], ("seeds: expected", "'many'")),
    (["table=toy", "jobs=0"], ("jobs: expected at least 1, got 0",)),
    (["table=toy", "jobs=two"], ("jobs: expected a whole number or null, got 'two'",)),
    (["table=toy", "jbos=2"], ("unknown key 'jbos'", "did you mean 'jobs'")),
    (["table=toy", "--fast"], ("unknown option --fast", "--help")),
    (["table=toy", "+seed=1"], ("+seed=1: expected key=value",)),
    (["table=toy", "ipc=3"], ("ipc is set by the columns",)),
    (["table=toy", "guidance.scale=1,2"], ("guidance.scale=1,2: a table takes one value for every cell",)),
    (
        ["table=toy", "sampler.stesp=2"],
        ("cell one/random: unknown key 'sampler.stesp'", "did you mean 'sampler.steps'"),
    ),
    (["table=toy", "columns=two", "sampler.steps=0"], ("cell two/random: sampler.steps", "got 0")),
    (["table=toy", "sampler=dpm"], ("cell one/random: sampler: no choice named 'dpm'", "ddim, ddpm")),
    (["table=toy", "launcher=rocket"], ("launcher: no Hydra launcher 'rocket'", "basic", "manifoldgd[launchers]")),
    (["table=toy", "hydra.launcher.x=1"], ("hydra.launcher.x=1: acts with launcher=NAME only",)),
    (
        ["table=toy", "record=true", "guidance.scale=1"],
        ("record: guidance.scale on the command line makes this another",),
    ),
]


@pytest.mark.parametrize(("arguments", "parts"), WRONG_INPUT, ids=lambda each: " ".join(map(str, each))[:50])
def test_bad_input_is_one_line(capsys, arguments, parts):
    text = complaint(capsys, manifoldgd("table", *arguments))
    assert [part for part in parts if part not in text] == []


WRONG_TABLES = [
    (
        {"methods": TOY["methods"] | {"big": {"guidance.neighbourhood": 5000}}},
        ("cell one/big: guidance.neighbourhood",),
    ),
    (
        {"methods": TOY["methods"] | {"wide": {"student.width": 9}}},
        ("methods: wide in column one is judged otherwise",),
    ),
    ({"split": "validation"}, ("cell one/random: split: the table says validation",)),
    ({"seeds": []}, ("experiments/toy/table.yaml: seeds: expected different",)),
]


@pytest.mark.parametrize(("changes", "parts"), WRONG_TABLES, ids=lambda each: str(each)[:50])
def test_tables_whose_cells_cannot_work(capsys, changes, parts):
    change(**changes)
    text = complaint(capsys, table())
    assert [part for part in parts if part not in text] == []


def test_help_and_the_list_of_tables(capsys):
    assert manifoldgd("table", "--help") == 0
    out = capsys.readouterr().out
    assert all(
        key in out for key in ("jobs=", "seeds=", "methods=", "columns=", "dry_run=", "record=", "extend=", "scores=")
    )
    assert manifoldgd("table") == 0
    out = capsys.readouterr().out
    assert "toy                      Toy" in out
    assert "fashion_mnist" in out


def test_a_table_from_start_to_end_and_again(capsys, fakes):
    assert table("jobs=1") == 0
    out = capsys.readouterr().out
    assert "[12/12] two/mode-seed1: 50.0 %" in out
    assert "table toy: 12 of 12 cells finished, 0 failed; outputs/tables/toy/report.html" in out
    lines = ran()
    assert lines[:3] == ["one/random-seed0", "one/unguided-seed0", "one/mode-seed0"]
    assert [line[-1] for line in lines] == ["0"] * 6 + ["1"] * 6  # half a table has whole seeds
    held = TableResult.load(OUTPUT / "results.json")
    assert (held.name, held.methods, held.seeds) == ("toy", ("random", "unguided", "mode"), (0, 1))
    assert [column.title for column in held.columns] == [f"digits, ipc {n}, ConvNet-3 (width 8)" for n in (1, 2)]
    assert held.parameters == {"mode": 0.1}
    assert held.class_names == tuple("0123456789")
    assert len({one.key for one in held.sets}) == 12
    assert table() == 0
    assert ran() == []


def test_parts_of_a_table_join_in_its_folder(fakes):
    assert table("methods=mode", "columns=two", "seeds=1", "student_seeds=[0]") == 0
    assert ran() == ["two/mode-seed1"]
    held = TableResult.load(OUTPUT / "results.json")
    assert (held.methods, [each.key for each in held.columns], held.seeds) == (("unguided", "mode"), ["two"], (1,))
    assert table("columns=two") == 0
    assert len(ran()) == 5
    fakes(seeds=(0, 7))
    assert table("columns=two", "student_seeds=[0,7]") == 0
    assert len(ran()) == 6
    assert TableResult.load(OUTPUT / "results.json").student_seeds == (0, 7)


def test_failed_cells_are_listed_and_the_exit_code_says_so(capsys, fakes):
    fakes({"mode": WRONG})
    assert table("columns=one") == 1
    out = capsys.readouterr().out
    assert "failed: one/mode-seed0: ipc: too many" in out
    assert "failed: one/mode-seed1: ipc: too many" in out
    assert "4 of 6 cells finished, 2 failed" in out
    assert (OUTPUT / "logs" / "one-mode-seed0.log").read_text().startswith("all well")
    fakes()
    assert table("columns=one") == 0
    assert sorted(set(ran())) == sorted(f"one/{name}-seed{k}" for name in TOY["methods"] for k in (0, 1))


def test_a_full_disk_is_said_and_the_table_continues(capsys, fakes):
    fakes({"unguided": NO_DISK})
    assert table("columns=one", "jobs=1") == 2
    out, err = capsys.readouterr()
    assert "failed: one/unguided-seed0: the disk is full" in out
    assert err.startswith("manifoldgd: error: output: the disk of outputs/tables/toy is full; finished cells are kept")
    assert [one.method for one in TableResult.load(OUTPUT / "results.json").sets] == ["random"]
    fakes()
    assert table("columns=one") == 0


def test_a_disk_that_fills_up_under_the_table_itself(capsys, fakes, monkeypatch):
    def full(self, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TableResult, "save", full)
    assert table("columns=one") == 2
    assert "output: the disk of outputs/tables/toy is full" in capsys.readouterr().err


def test_ctrl_c_says_how_to_continue_and_leaves_the_pages(capsys, fakes, monkeypatch):
    from manifoldgd.tables.watching import Watch

    def tick(watch):
        if len(watch.board.sets) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "tick", tick)
        assert table("jobs=1") == 130
    out, err = capsys.readouterr()
    assert err == "manifoldgd: stopped; 2 of 12 cells finished, 0 failed; the same command continues\n"
    assert "| random |" in out or "random" in out
    assert (OUTPUT / "table.md").is_file()
    assert table() == 0
    assert len(set(ran())) == 12


def test_two_tables_cannot_share_a_folder(capsys, fakes):
    with locked(OUTPUT):
        assert "is being worked on by process" in complaint(capsys, table())
    assert table("columns=one", "seeds=0") == 0
    capsys.readouterr()
    (Path("experiments") / "other").mkdir()
    (Path("experiments") / "other" / "table.yaml").write_text((HOME / "table.yaml").read_text())
    assert manifoldgd("table", "table=other", f"output={OUTPUT}", "columns=one") == 2
    assert "name is 'toy' there, 'other' here" in capsys.readouterr().err
    assert table("columns=one", "student.width=9") == 2
    assert "columns.one.student is 'ConvNet-3 (width 8)' there, 'ConvNet-3 (width 9)' here" in capsys.readouterr().err
    held = TableResult.load(OUTPUT / "results.json")
    replace(held, sets=(replace(held.sets[0], code_version="0.0.1"), *held.sets[1:])).save(OUTPUT / "results.json")
    assert table("columns=one") == 2
    assert "version is '0.0.1' there" in capsys.readouterr().err
    (OUTPUT / "results.json").write_text('{"format": 99}')
    assert table("columns=one") == 2
    assert "holds a table of format 99" in capsys.readouterr().err


def test_sets_of_other_numbers_are_not_mixed_in(capsys, fakes, tmp_path, tiny_prior, shared_cache):
    assert table("columns=one", "seeds=0", "methods=random") == 0
    made = OUTPUT / "sets" / "one" / "random-seed0"
    claim = {"format": 1, "set": {"ipc": 9}}
    (made / "result.json").write_text(json.dumps(claim))
    capsys.readouterr()
    assert table("columns=one") == 2
    assert "ipc is 9 there, 1 here" in capsys.readouterr().err


def test_a_record_is_written_and_grown(capsys, fakes):
    fakes(seeds=(0, 1))
    assert table("methods=mode,random", "seeds=0", "record=true") == 0
    assert "recorded: experiments/toy/results.json" in capsys.readouterr().out
    assert len(TableResult.load(HOME / "results.json").sets) == 4
    assert (HOME / "table.md").is_file()
    ran()
    elsewhere = Path("outputs/elsewhere")  # another machine: the record is all there is
    assert table(f"output={elsewhere}", "seeds=1", "extend=true", "record=true") == 0
    assert sorted(ran(elsewhere)) == sorted(f"{c}/{m}-seed1" for c in ("one", "two") for m in TOY["methods"])
    held = TableResult.load(HOME / "results.json")
    assert (len(held.sets), held.seeds, held.methods) == (10, (0, 1), ("random", "unguided", "mode"))
    assert table("output=outputs/third", "extend=true") == 0
    assert sorted(ran(Path("outputs/third"))) == ["one/unguided-seed0", "two/unguided-seed0"]


def test_a_record_counts_only_where_the_configuration_is_the_same(fakes):
    assert table("columns=one", "seeds=0", "record=true") == 0
    ran()
    change(methods=TOY["methods"] | {"mode": {"guidance": "mode", "guidance.scale": 0.7}})
    assert table("columns=one", "seeds=0", "extend=true", "output=outputs/new") == 0
    assert ran(Path("outputs/new")) == ["one/mode-seed0"]
    held = TableResult.load(Path("outputs/new/results.json"))
    assert (len(held.sets), held.parameters) == (3, {"mode": 0.7})


def test_a_record_is_not_shortened(capsys, fakes):
    assert table("columns=one", "record=true") == 0
    capsys.readouterr()
    assert table("columns=one", "seeds=0", "record=true") == 2
    assert "record: experiments/toy/results.json holds 3 sets" in capsys.readouterr().err
    fakes({"mode": WRONG})
    assert table("columns=two", "record=true", "extend=true") == 1  # what failed is not recorded
    assert {one.column for one in TableResult.load(HOME / "results.json").sets} == {"one"}


def test_a_dry_run_says_what_there_is_to_do(capsys, fakes):
    assert table("--dry-run", "jobs=2") == 0
    out = capsys.readouterr().out
    assert "one: digits, ipc 1, ConvNet-3 (width 8), hard_small: random, unguided, mode" in out
    assert "12 cells: 3 methods x 2 columns x 2 seeds, each judged by 1 student; 0 finished, 12 left" in out
    assert "everything is there" in out
    assert "time: unknown" in out
    assert not OUTPUT.exists()
    assert table("columns=one", "seeds=0", "record=true") == 0
    capsys.readouterr()
    assert table("dry_run=true", "jobs=2", "output=outputs/fresh") == 0
    assert "time: about 2 min 21 s with jobs=2" in capsys.readouterr().out  # 12 cells of 3.5 + 20 s
    assert table("dry_run=true", "jobs=1") == 0
    assert "3 finished, 9 left" in capsys.readouterr().out


def test_what_draws_nothing_is_one_cell_for_all_seeds(capsys, fakes):
    change(methods=TOY["methods"] | {"herding": {"source": "herding"}})
    assert table("columns=one", "--dry-run", "jobs=1") == 0
    out = capsys.readouterr().out
    assert "7 cells: 4 methods x 1 columns x 2 seeds (one cell for all of them where nothing is drawn)" in out
    assert "0 finished, 7 left" in out
    assert table("columns=one", "jobs=1", "record=true") == 0
    assert "[7/7] " in capsys.readouterr().out
    assert ran().count("one/herding") == 1
    held = TableResult.load(HOME / "results.json")
    assert [one.seed for one in held.of("herding", "one")] == [0, 1]
    assert [one.grid for one in held.of("herding", "one")] == [None, None]
    assert table("columns=one", "seeds=[1,0]", "record=true") == 0
    assert ran() == []


def test_scores_compare_with_random_images_and_with_all_of_them(capsys, fakes, monkeypatch):
    from manifoldgd.cli import table_scores

    trained = []

    def bound(dataset, student, recipe, machine, cache):
        trained.append((dataset.name, student.name, recipe.images_shown, ran()))
        return 0.9

    monkeypatch.setattr(table_scores, "full_data_accuracy", bound)
    assert table("columns=one", "scores=true", "record=true") == 0
    assert trained == [("digits", "ConvNet-3 (width 8)", 300_000, [])]  # before any cell
    held = TableResult.load(HOME / "results.json")
    assert [one.measures["hlr"] for one in held.sets] == pytest.approx([0.4] * 6)  # every fake student reaches 0.5
    assert [one.measures["ior"] for one in held.sets] == [0] * 6
    for folder in (OUTPUT, HOME):
        assert "| HLR" in (folder / "table.md").read_text()
    assert table("columns=one") == 0
    assert "HLR" not in (OUTPUT / "table.md").read_text()


def test_scores_without_what_they_compare_with_are_refused(capsys):
    assert "scores: no row of random real images" in complaint(capsys, table("scores=true", "methods=mode"))
    protocol = "student.protocol.name=hard_other"
    assert "scores: column one has the protocol hard_other" in complaint(capsys, table("scores=true", protocol))


def imagenette_lookalike(folder):
    """The table of the repository with the dataset that any images take."""
    text = (
        (EXPERIMENTS / "imagenette" / "table.yaml")
        .read_text()
        .replace("dataset: imagenette,", "dataset: image_folder,")
    )
    folder.mkdir(parents=True)
    (folder / "table.yaml").write_text(text)
    return read_definition(folder / "table.yaml")


def test_a_dry_run_of_large_images_names_what_is_missing(capsys, monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    definition = imagenette_lookalike(Path("experiments/nette"))
    classes = "dataset.classes=[a,b]"
    assert manifoldgd("table", "table=nette", "--dry-run", "dataset.folder=nowhere", classes, "machine=cpu") == 1
    out = capsys.readouterr().out
    assert f"135 cells: 5 methods x 9 columns x {len(definition.seeds)} seeds" in out
    listed = out.split("missing:\n")[1].splitlines()
    assert listed[0].startswith("  dataset.folder: expected a folder with")
    assert listed[0].endswith("(135 cells, the first is ipc10-convnet6/random)")
    assert listed[1].startswith("  prior.path: facebook/DiT-XL-2-256 is neither a folder nor cached")
    assert "hf download facebook/DiT-XL-2-256" in listed[1]
    assert "(108 cells, the first is ipc10-convnet6/unguided)" in listed[1]  # real images need no prior
    assert listed[2].startswith("GPU time: ")
    assert float(listed[2].split()[2]) > 1
    assert "TFLOP/s" in listed[2]


def test_a_dry_run_finds_large_images_that_are_there(capsys, dit_lookalike):
    for split in ("train", "val"):
        for name in ("tench", "goldfish"):
            (Path("photos") / split / name).mkdir(parents=True)
            for i in range(130):
                Image.new("RGB", (9, 8), (i, 0, 0)).save(Path("photos") / split / name / f"{i}.png")
    imagenette_lookalike(Path("experiments/nette"))
    data = ["dataset.folder=photos", "dataset.test=val", "dataset.image_size=8", f"prior.path={dit_lookalike}"]
    code = manifoldgd("table", "table=nette", "--dry-run", "machine=cpu", "columns=ipc10-resnet18", *data)
    out = capsys.readouterr().out
    assert "everything is there" in out, out
    assert code == 0


SHIPPED = sorted(EXPERIMENTS.glob("*/table.yaml"))
HERE = [
    file
    for file in SHIPPED
    if all((CONF / "dataset" / f"{c.dataset}.yaml").is_file() for c in read_definition(file).columns)
]


@pytest.mark.parametrize("file", HERE, ids=lambda file: file.parent.name)
def test_the_cells_of_the_repositorys_tables_compose(file):
    from manifoldgd.cli.table_plan import plan_table

    definition = read_definition(file)
    plan = plan_table(replace(definition, columns=definition.columns[::4]), {}, CONF)
    cells = runs(plan.cells)
    assert len({cell.key for cell in plan.cells}) == len({cell.key for cell in cells}) == len(cells)  # nothing twice


def test_a_launcher_runs_the_same_cells(capsys, monkeypatch):
    """Hydra's own launcher stands for joblib and submitit; each job is the process that would be started here."""
    from manifoldgd.cli import table_launch

    monkeypatch.setattr(table_launch, "job_of", fake_job({"mode": WRONG}))
    assert table("columns=one", "seeds=0", "launcher=basic") == 1
    out = capsys.readouterr().out
    assert "one/random-seed0: done" in out
    assert "failed: one/mode-seed0: ipc: too many" in out
    assert sorted(ran()) == ["one/random-seed0", "one/unguided-seed0"]
    monkeypatch.setattr(table_launch, "job_of", fake_job())
    assert table("columns=one", "seeds=0", "launcher=basic") == 0
    assert ran() == ["one/mode-seed0"]


@pytest.mark.slow
def test_real_cells(capsys, shared_cache):
    assert table("columns=one", "seeds=0", "sampler.steps=3", "student.protocol.epochs=1", f"cache={shared_cache}") == 0
    capsys.readouterr()
    held = TableResult.load(OUTPUT / "results.json")
    assert [one.method for one in held.sets] == ["random", "unguided", "mode"]
    for one in held.sets:
        assert (OUTPUT / one.grid).is_file()
        assert set(one.seconds) >= {"students", "metrics"}
        assert one.hardware
    assert held.of("mode", "one")[0].guidance["ratio"] > 0
    again = ("columns=one", "seeds=0", "sampler.steps=3", "student.protocol.epochs=1", f"cache={shared_cache}")
    assert table(*again, "student_seeds=[0,1]") == 0
    grown = TableResult.load(OUTPUT / "results.json")
    assert [one.last[0] for one in grown.sets] == [one.last[0] for one in held.sets]
    assert all(len(one.last) == 2 for one in grown.sets)


@pytest.mark.slow
def test_the_digits_table_with_fewer_epochs(capsys, shared_cache):
    changes = ["student.protocol.epochs=5", "student.width=16", "sampler.steps=10", f"cache={shared_cache}"]
    assert manifoldgd("table", "table=digits", *changes) == 0
    held = TableResult.load(Path("outputs/tables/digits/results.json"))
    assert len(held.sets) == 24
    assert not held.failed


def test_metrics_have_what_a_table_reads():
    """The fakes hold the keys of real results that the table reads: see `check_metrics` in test_run."""
    assert set(metrics_of()) >= {"student_seeds", "students", "seconds", "set_metrics", "guidance", "hardware"}
