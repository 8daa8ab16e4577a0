"""README and documentation: their commands work, their files are there, their numbers are those of the records."""

import csv
import re
import shlex
import sys
import tomllib
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra

from manifoldgd.cli.arguments import parse, read_arguments, with_own_priors
from manifoldgd.cli.components import build
from manifoldgd.cli.compose import conf_dir
from manifoldgd.cli.main import COMMANDS
from manifoldgd.cli.plan import plan_table
from manifoldgd.cli.table import read_options
from manifoldgd.cli.used import USED_KEYS
from manifoldgd.diffusion.protocol import Anchors, Step
from manifoldgd.study.definition import find_table, read_definition
from manifoldgd.study.published import published_results

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECORDS = sorted((ROOT / "experiments").glob("*/README.md"))
TUNING = find_spec("hydra_plugins.hydra_optuna_sweeper") is not None


def commands(pages):
    """Command lines of the fenced shell blocks, whole: (page, words behind ``manifoldgd``)."""
    for page in pages:
        for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r'^eval "\$\((.*?)\)".*', r"\1", line)
                if line.startswith("manifoldgd "):
                    yield page, tuple(shlex.split(line, comments=True)[1:])


# Each once, under the first page that has it.
COMMAND_LINES = {words: str(page.relative_to(ROOT)) for page, words in reversed(list(commands([*PAGES, *RECORDS])))}


@pytest.fixture
def hydra():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


@pytest.mark.parametrize("words", COMMAND_LINES, ids=lambda words: f"{COMMAND_LINES[words]}: {' '.join(words)}")
def test_commands_of_the_pages_compose(words, hydra, tmp_path, monkeypatch):
    if not TUNING and "experiment=tuning_optuna" in words:
        pytest.skip("needs the extra `tuning`")
    if words[0] in ("-sc", "--version", "--help"):
        return
    command = words[0]
    if words[:2] == ("prior", "import"):  # no job: it takes a file and its own keys
        assert {word.partition("=")[0] for word in words[3:]} <= {"output", "path", "heads"}
        return
    assert command in COMMANDS
    if command == "table":
        overrides = [word for word in words[1:] if not word.startswith("-") and word != "job"]
        # A table may name others that were measured; here it is enough that they could be.
        (tmp_path / "outputs/tables/fashion_mnist/sets").mkdir(parents=True)
        (tmp_path / "experiments").symlink_to(ROOT / "experiments")
        monkeypatch.chdir(tmp_path)
        check_table(read_options(overrides))
    else:
        given = read_arguments(with_own_priors(words[1:], conf_dir()))  # refuses options that there are not
        extra = given.value("--config-dir")
        search = [] if extra is None else [f"hydra.searchpath=[file://{ROOT / extra}]"]
        parsed = parse(given.overrides)
        tops = {each.key_or_group.replace("/", ".").split(".")[0] for each in parsed}
        assert tops <= USED_KEYS[command] | {"hydra"}
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        assert len(jobs) == 1 or "--multirun" in words
        for job in {0: jobs[0], len(jobs) - 1: jobs[-1]}.values():
            compose("config", [*job, *search])


def check_table(options):
    """The first cell composes with what the command line gives to every cell."""
    if options.table:
        definition = read_definition(find_table(options.table)).chosen(
            methods=options.methods, columns=options.columns, seeds=options.seeds, student_seeds=options.student_seeds
        )
        method = next(iter(definition.methods.values()))
        choices = {**definition.columns[0].choices, **definition.overrides, **method, **options.overrides}
        compose("config", [f"{key}={value}" for key, value in choices.items()])
    launcher = [f"hydra/launcher={options.launcher}"] if options.launcher else []
    compose("cells", [*launcher, *options.launcher_overrides], return_hydra_config=True)


EXAMPLES = re.compile("capped|NAME")  # what a reader would add


@pytest.mark.parametrize("page", [*PAGES, *RECORDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_pages_name_is_there(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set().union(
        *re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)(?=$| +#| [A-Z_]+=)", text, re.MULTILINE)
    ) <= targets | {""}
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)(?:#[\w-]+)?\)", text)
    named = re.findall(r"`((?:manifoldgd|conf|tests|experiments|docs)/[\w./-]+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists() and not EXAMPLES.search(name)]
    assert not missing


# Results


def rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def readme_table():
    """First cells of a row of the README's results -> its other cells."""
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    return {
        cells[0].strip("* "): cells[1:]
        for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    }


AS_CALLED = {
    "random real images": "random",
    "herding, real images (one set)": "herding",
    "k-means medoids, real images": "kmeans_nearest",
    "unguided": "unguided",
    "mode guidance": "mode",
    "manifold guidance (posterior)": "manifold",
    "`manifold_released`": "manifold_released",
    "matching guidance": "matching",
    "regression guidance": "regression",
    "the same with augmented copies": "regression_augmented",
}


def test_the_numbers_of_the_readme_are_those_of_the_record():
    """Mean and half of the interval, rounded to one digit; a cell of one set says so and has no interval."""
    written = readme_table()
    found = {}
    for row in rows(ROOT / "experiments" / "fashion_mnist" / "table.csv"):
        mean = f"{100 * float(row['last_top1']):.1f}"
        if row["last_top1_low"]:
            mean += f" ± {50 * (float(row['last_top1_high']) - float(row['last_top1_low'])):.1f}"
        else:
            mean += " (one set)"
        found.setdefault(row["method"], {})[int(row["ipc"])] = mean
    for name, method in AS_CALLED.items():
        expected = [found[method][ipc] for ipc in (1, 10, 50)]
        if name.endswith(" (one set)"):
            assert all(cell.endswith(" (one set)") for cell in expected)
            expected = [cell.removesuffix(" (one set)") for cell in expected]
        assert [cell.strip("*") for cell in written[name]] == expected, name


def test_the_published_numbers_of_the_readme_are_those_of_the_package():
    known = {
        (each.method, each.ipc): f"{100 * each.top1:.1f}"
        for each in published_results()
        if (each.dataset, each.number_family) == ("fashion_mnist", "dc")
    }
    (row,) = (cells for name, cells in readme_table().items() if name.startswith("published"))
    for ipc, cell in zip((1, 10, 50), row, strict=True):
        assert cell.split("; ") == [known[method, ipc] for method in ("DC", "DSA", "IDC-I")]


def test_every_recorded_table_has_its_place_among_the_results():
    recorded = {file.parent.name for file in (ROOT / "experiments").glob("*/table.csv")}
    assert recorded == set(re.findall(r"<!-- record: (\w+) -->", (ROOT / "docs" / "results.md").read_text()))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


# The examples of docs/extending.md


def example(language, start):
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (found,) = (block for block in blocks if block.startswith(start))
    return found


def test_the_guidance_of_the_documentation_guides(monkeypatch):
    numbers = yaml.safe_load(example("yaml", "_target_"))
    module = types.ModuleType("capped")
    monkeypatch.setitem(sys.modules, "capped", module)  # dataclasses look their module up
    exec(example("python", '"""Capped'), vars(module))
    cls = getattr(module, numbers.pop("_target_").rpartition(".")[2])
    anchors = Anchors(prototypes=torch.tensor([[3.0, 4.0], [300.0, 400.0]]).view(2, 2, 1, 1), neighbourhoods=None)
    zeros = torch.zeros(2, 2, 1, 1)
    step = Step(index=40, num_steps=50, x_t=zeros, x0=zeros, alpha_bar=0.5, noise=None)
    pull = cls(**numbers).bind(anchors)(step)
    torch.testing.assert_close(pull.scaled.flatten(1), torch.tensor([[0.3, 0.4], [3.0, 4.0]]))
    assert cls(**numbers | {"scale": 0}).bind(anchors)(step) is None
    assert cls(**numbers).bind(anchors)(Step(5, 50, zeros, zeros, 0.5, None)) is None


def test_the_table_of_the_documentation_is_one(tmp_path):
    file = tmp_path / "table.yaml"
    file.write_text(example("yaml", "title"))
    definition = read_definition(file)
    rows = plan_table(definition, {}).rows
    assert [row.method for row in rows] == [*definition.methods] * len(definition.columns)
    for row in rows:
        for group in ("guidance", "sampler", "clusterer", "student"):
            build(row.config, group)


# Versions


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(file):
    """Name -> version."""
    lines = [line.split("==", 1) for line in (ROOT / file).read_text().split("\n") if line[:1].isalnum()]
    return {normalised(name): re.match(r"[\w.+!-]+", version)[0] for name, version in lines}


def test_every_dependency_has_a_pinned_version():
    pins = set(pinned("constraints.txt"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)}
    names = {normalised(re.match(r"[\w.-]+", each)[0]) for each in asked} - {"manifoldgd"}
    # They bring an Optuna and a cloudpickle of their own, older than what others here take.
    assert names - pins <= {"hydra-optuna-sweeper", "hydra-ray-launcher"}


def test_the_lock_has_the_pinned_versions_and_a_hash_of_each_and_names_no_registry():
    pins, locked = pinned("constraints.txt"), pinned("requirements.lock")
    assert {name: pins.get(name, version) for name, version in locked.items()} == locked
    assert set(pins) - set(locked) == {"faiss-gpu", "timm"}  # of extras outside dev
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=\w)", text)
    assert len(entries) == len(locked)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}(\s|$)", each) for each in entries)
    assert "://" not in text


def test_the_configuration_page_has_every_group():
    page = (ROOT / "docs" / "configuration.md").read_text()
    groups = {file.parent.relative_to(ROOT / "conf").as_posix() for file in (ROOT / "conf").rglob("*.yaml")} - {"."}
    assert groups - set(re.findall(r"^<!-- keys: (.+) -->$", page, re.MULTILINE)) == {"experiment/held_out"}
