"""A configuration from elsewhere builds what is registered for its place; it starts, reads and imports nothing else."""

import os
import sys
from pathlib import Path

import joblib
import pytest
from command import manifoldgd
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from toy_table import TOY, change, complaint, table

from manifoldgd.cli.components import build
from manifoldgd.cli.compose import conf_dir
from manifoldgd.cli.targets import REGISTERED, allowing
from manifoldgd.errors import UserError
from manifoldgd.study.jobs import Job, importing, run
from manifoldgd.study.results import TableResult

OWN = """
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Mine:
    strength: float
    neighbourhood: ClassVar[int] = 0
    features: ClassVar[None] = None
"""


@pytest.fixture
def composed():
    def composed(*overrides):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", list(overrides))

    return composed


class Payload:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return Path("pwned").touch, ()


def test_what_is_registered_is_there():
    assert all(callable(get_object(name)) for names in REGISTERED.values() for name in names)


FOREIGN = [
    {"clusterer.representative": {"_target_": "joblib.load", "filename": "x.pkl"}},
    {"clusterer.space": {"_target_": "pathlib.Path.touch", "self": "pwned"}},
    {"guidance._target_": "os.mkdir", "guidance.scale": "pwned"},
    {"guidance": "mode", "guidance._target_": "manifoldgd.files.atomic_write_text"},
    {"dataset.train_per_class": {"_target_": "os.mkdir", "path": "pwned"}},
    {"student.protocol.augmentation.operations": [{"_target_": "os.mkdir", "path": "pwned"}]},
    {"student.protocol.epochs": {"1": {"_target_": "os.mkdir", "path": "pwned"}}},
    {"sampler.steps": {"_target_": "manifoldgd.guidance.NoGuidance"}},
    {"start": {"_target_": "os.mkdir", "_args_": ["pwned"]}},
    {"machine._target_": "os.mkdir"},
    {"logger._target_": "os.mkdir"},
    {"prior._target_": "joblib.load"},
]


@pytest.mark.usefixtures("toy_table")
@pytest.mark.parametrize("overrides", FOREIGN, ids=lambda each: "-".join(each))
@pytest.mark.parametrize("flags", [["--dry-run"], []], ids=["dry", "run"])
def test_a_table_builds_nothing_foreign(capsys, overrides, flags):
    joblib.dump(Payload(), "x.pkl")
    baseline = {"unguided": TOY["methods"]["unguided"]}
    own = {"methods": baseline | {"bad": overrides}}
    if next(iter(overrides)).split(".")[0] in ("machine", "student", "logger", "prior"):
        own = {"methods": baseline, "overrides": TOY["overrides"] | overrides}
    change(**own)
    if flags:  # says what is missing, and exits with 1
        code = table("columns=one", *flags)
        out, err = capsys.readouterr()
        assert code in (1, 2)
        assert "Traceback" not in out + err
    else:
        assert "Traceback" not in complaint(capsys, table("columns=one"))
    assert not Path("pwned").exists()


@pytest.mark.usefixtures("toy_table")
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hydra.callbacks.x", {"_target_": "os.mkdir"}, "expected a key of `manifoldgd run`"),
        ("hydra/launcher", "joblib", "expected a key of `manifoldgd run`"),
        ("hydra.job.env_set", {"LD_PRELOAD": "x.so"}, "expected a key of `manifoldgd run`"),
        ("hydra.searchpath", ["file:///tmp"], "expected a key of `manifoldgd run`"),
        ("allow_targets", ["os.mkdir"], "expected a key of `manifoldgd run`"),
        ("--config-dir", "/tmp", "expected a key of `manifoldgd run`"),
        ("+guidance.x", 1, "expected a key of `manifoldgd run`"),
        ("experiment", "../../elsewhere", "expected the name of a choice"),
        ("guidance", "/somewhere/mine", "expected the name of a choice"),
        ("student/protocol", "../x", "expected the name of a choice"),
        ("logger.project", "${oc.env:HOME}", "calls no resolvers"),
        ("logger.project", "${${seed}:x}", "calls no resolvers"),
        ("prior.autoencoder", "${oc.create:${x}}", "calls no resolvers"),
        ("student.protocol.epochs", {"1,x:2": 3}, "is no key"),
    ],
)
def test_a_table_says_nothing_to_hydra(capsys, key, value, said):
    change(methods=TOY["methods"] | {"bad": {key: value}})
    text = complaint(capsys, table())
    assert said in text
    assert "methods: bad" in text


@pytest.mark.parametrize(
    "value", ["os.system", "manifoldgd.guidance.Nothing", "manifoldgd.diffusion.DDPM", 3, None, []]
)
def test_the_command_line_builds_what_is_registered_for_the_place(composed, value):
    config = composed("guidance=mode")
    config.guidance._target_ = value
    with pytest.raises(UserError, match=r"guidance\._target_: expected one of manifoldgd\.guidance\."):
        build(config, "guidance")


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_recursive_", "_convert_"])
def test_hydra_s_ways_to_call_are_no_keys(composed, key):
    with pytest.raises(UserError, match=rf"unknown key 'guidance\.{key}'"):
        build(composed("guidance=mode", f"+guidance.{key}=[1]"), "guidance")


def test_a_class_of_one_s_own_is_allowed_by_name(composed, monkeypatch, tmp_path):
    (tmp_path / "own_guidance.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    mine = composed("guidance=mode", "~guidance.kernel", "~guidance.bandwidth", "~guidance.t_stop", "~guidance.scale")
    mine.guidance = {"_target_": "own_guidance.Mine", "strength": 0.5}
    with pytest.raises(UserError, match=r"allow_targets=\[my_package\.MyClass\]"):
        build(mine, "guidance")
    assert "own_guidance" not in sys.modules  # nothing is imported to find out
    with allowing(["own_guidance.Mine"]):
        assert build(mine, "guidance").strength == 0.5
        mine.guidance.strength = "much"
        with pytest.raises(UserError, match=r"guidance\.strength: expected a number, got 'much'"):
            build(mine, "guidance")
    with allowing(["own_guidance.Nobody"]):
        mine.guidance._target_ = "own_guidance.Nobody"
        with pytest.raises(UserError, match=r"guidance\._target_: own_guidance\.Nobody cannot be imported"):
            build(mine, "guidance")


def test_allowed_names_are_read_from_the_command_line_only(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "expected dotted names" in complaint(capsys, manifoldgd("run", "allow_targets=[os]", "logger=none"))
    assert "unknown key 'allow_targets'" in complaint(capsys, manifoldgd("run", "+allow_targets=[os.mkdir]"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "guidance").mkdir()
    (tmp_path / "mine" / "guidance" / "own.yaml").write_text("_target_: os.mkdir\npath: pwned\n")
    chosen = ["--config-dir", tmp_path / "mine", "guidance=own", "logger=none", "dataset=digits"]
    assert "guidance._target_: expected one of" in complaint(capsys, manifoldgd("run", *chosen))
    assert not Path("pwned").exists()


@pytest.mark.usefixtures("toy_table")
def test_cells_are_told_what_is_allowed(monkeypatch, tmp_path):
    from manifoldgd.cli.plan import plan_table
    from manifoldgd.study.definition import read_definition

    definition = read_definition(Path("experiments/toy/table.yaml"))
    with allowing(["own.Mine"]):
        cells = plan_table(definition, {}).cells
    assert all("allow_targets=[own.Mine]" in cell.overrides for cell in cells)
    plain = plan_table(definition, {}).cells
    assert [cell.key for cell in plain] == [cell.key for cell in cells]
    assert not any("allow_targets" in word for cell in plain for word in cell.overrides)


def test_processes_import_nothing_from_the_folder_they_start_in(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path / "given")]))
    (tmp_path / "here").mkdir()
    (tmp_path / "given").mkdir()
    (tmp_path / "here" / "hydra.py").write_text("open('pwned', 'w')\n")
    (tmp_path / "given" / "wanted.py").touch()
    commands = {
        "version": (sys.executable, "-P", "-m", "manifoldgd", "--version"),
        "child": (sys.executable, "-c", "import hydra.errors, wanted"),  # as a launcher starts its workers
    }
    for name, command in commands.items():
        job = Job(name=name, command=command, log=tmp_path / f"{name}.log", folder=tmp_path / "here")
        assert run(job, {}) is None, job.log.read_text()
    assert not (tmp_path / "here" / "pwned").exists()


def test_a_checkout_that_is_not_installed_still_reaches_its_processes(monkeypatch):
    home = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.chdir(home)
    assert importing() == {"PYTHONSAFEPATH": "1", "PYTHONPATH": home}
    monkeypatch.chdir("/")
    assert importing() == {"PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize("grid", ["../../secret.png", "/etc/hostname", "link/x.png"])
def test_a_record_names_pictures_of_its_folder_only(tmp_path, grid):
    from dataclasses import replace

    from fake_tables import rich_table

    from manifoldgd.study.record import read_record

    file = tmp_path / "home" / "results.json"
    file.parent.mkdir()
    (file.parent / "link").symlink_to(tmp_path)
    record = rich_table(file.parent)
    record.save(file)
    assert read_record(file) == TableResult.load(file)
    replace(record, sets=(replace(record.sets[0], grid=grid), *record.sets[1:])).save(file)
    with pytest.raises(UserError, match=r"results\.json: the picture of .* lies outside of its folder"):
        read_record(file)
