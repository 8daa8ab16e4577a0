"""``manifoldgd table --dry-run``, the cells it counts, and the tables of the repository."""

from dataclasses import replace
from pathlib import Path

import pytest
from command import manifoldgd
from PIL import Image
from toy_table import CONF, EXPERIMENTS, HOME, OUTPUT, STUDENTS, TOY, change, ran, table

from manifoldgd.cli import dry_run
from manifoldgd.cli.plan import plan_table
from manifoldgd.study.cells import runs
from manifoldgd.study.definition import read_definition
from manifoldgd.study.results import TableResult

pytestmark = pytest.mark.usefixtures("toy_table")


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
    herding = [one for one in held.sets if (one.method, one.column) == ("herding", "one")]
    assert [(one.seed, one.grid) for one in herding] == [(0, None), (1, None)]
    assert table("columns=one", "seeds=[1,0]", "record=true") == 0
    assert ran() == []


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
    chosen = "columns=ipc10-convnet6,ipc50-resnet18"
    assert (
        manifoldgd("table", "table=nette", "--dry-run", "dataset.folder=nowhere", classes, "machine=cpu", chosen) == 1
    )
    out = capsys.readouterr().out
    assert f"30 cells: 5 methods x 2 columns x {len(definition.seeds)} seeds" in out
    listed = out.split("missing:\n")[1].splitlines()
    assert listed[0].startswith("  dataset.folder: expected a folder with")
    assert listed[0].endswith("(30 cells, the first is ipc10-convnet6/random)")
    assert listed[1].startswith("  prior.path: facebook/DiT-XL-2-256 at ")
    assert "is not in the cache, or only a part of it; run `hf" in listed[1]
    assert "hf download facebook/DiT-XL-2-256" in listed[1]
    assert "(24 cells, the first is ipc10-convnet6/unguided)" in listed[1]  # real images need no prior
    assert listed[2].startswith("  prior.autoencoder: stabilityai/sd-vae-ft-mse is not in the cache")
    assert "autoencoder to a local folder (24 cells" in listed[2]
    assert listed[3].startswith("GPU time: ")
    assert float(listed[3].split()[2]) > 1
    assert "TFLOP/s" in listed[3]


def test_a_dry_run_finds_large_images_that_are_there(capsys, dit_lookalike):
    for split in ("train", "val"):
        for name in ("tench", "goldfish"):
            (Path("photos") / split / name).mkdir(parents=True)
            for i in range(130):
                Image.new("RGB", (9, 8), (i, 0, 0)).save(Path("photos") / split / name / f"{i}.png")
    imagenette_lookalike(Path("experiments/nette"))
    data = ["dataset.folder=photos", "dataset.test=val", "dataset.image_size=8", f"prior.path={dit_lookalike}",
            "prior.autoencoder=null"]  # fmt: skip
    code = manifoldgd("table", "table=nette", "--dry-run", "machine=cpu", "columns=ipc10-resnet18", *data)
    out = capsys.readouterr().out
    assert "everything is there" in out, out
    assert code == 0


def test_a_dry_run_names_a_guidance_of_sets_that_no_memory_holds(capsys, monkeypatch):
    change(methods={"unguided": {"guidance": "none"}, "repulsion": {"guidance": "repulsion"}})
    monkeypatch.setattr("manifoldgd.machine.memory", lambda: 1000)
    assert table("columns=one", "--dry-run", "jobs=1") == 1
    listed = capsys.readouterr().out.split("missing:\n")[1].splitlines()
    assert listed[0].startswith("  guidance: ")
    assert "and this machine has 1.0 kB; lower ipc" in listed[0]
    assert "(2 cells, the first is one/repulsion)" in listed[0]


def test_gpu_hours_count_the_making_of_a_shared_set_once(monkeypatch):
    change(columns=STUDENTS)
    plan = plan_table(read_definition(HOME / "table.yaml"), {})
    monkeypatch.setattr(dry_run, "LARGE_IMAGES", 1)
    monkeypatch.setattr(dry_run, "gpu_seconds", lambda row: (36_000.0, 360.0))
    _, *by_column = dry_run.time_needed(plan, plan.cells, [], 1).splitlines()
    assert by_column == ["  width8: 60.6 h", "  width9: 0.6 h"]


def test_gpu_seconds_are_those_of_the_operations():
    unguided = {"guidance": "none"}
    change(columns=STUDENTS[:1], methods={"unguided": unguided, "half": unguided | {"start.strength": 0.5}})
    whole, half = (dry_run.gpu_seconds(row) for row in plan_table(read_definition(HOME / "table.yaml"), {}).rows)
    assert whole[1] == half[1] > 0
    decoding = 10 * dry_run.DECODE_FLOPS / dry_run.SAMPLING_FLOPS_PER_SECOND
    assert whole[0] - decoding == pytest.approx(2 * (half[0] - decoding))


SHIPPED = sorted(EXPERIMENTS.glob("*/table.yaml"))


HERE = [
    file
    for file in SHIPPED
    if all((CONF / "dataset" / f"{c.dataset}.yaml").is_file() for c in read_definition(file).columns)
]


def check_cells(*parts):
    every = [cell for part in parts for cell in plan_table(part, {}).cells]
    cells = runs(every)
    assert len({cell.key for cell in every}) == len({cell.key for cell in cells}) == len(cells)  # nothing twice


def kinds(methods):
    """One method for all that differ in numbers alone."""
    found = {}
    for name, overrides in methods.items():
        choices = {key: None if "." in key else value for key, value in overrides.items()}
        found.setdefault(repr(sorted(choices.items())), name)
    return list(found.values())


@pytest.mark.parametrize("file", HERE, ids=lambda file: file.parent.name)
def test_the_cells_of_the_repositorys_tables_compose(file):
    """Each column, and in one of them each kind of method."""
    definition = read_definition(file)
    names, columns = kinds(definition.methods), definition.columns
    parts = []
    for number, column in enumerate(columns):
        chosen = names[number :: len(columns)] or [names[number % len(names)]]
        methods = {name: definition.methods[name] for name in chosen}
        parts.append(replace(definition, columns=(column,), methods=methods))
    check_cells(*parts)


@pytest.mark.slow
@pytest.mark.parametrize("file", HERE, ids=lambda file: file.parent.name)
def test_every_cell_of_the_repositorys_tables_composes(file):
    check_cells(read_definition(file))
