"""Command lines as Hydra's users type them: options anywhere, quotes, ranges, sweeps and folders of their own."""

import json
import shlex
from pathlib import Path

import pytest
from command import QUICK, manifoldgd
from omegaconf import OmegaConf
from toy_table import complaint

from manifoldgd.cli.arguments import check_overrides, parse, plain_range, read_arguments
from manifoldgd.cli.compose import Config, conf_dir
from manifoldgd.cli.sweep import FOLDER_VARIABLE, GRID, check_search, plan_sweep
from manifoldgd.errors import UserError


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, "")  # restored afterwards
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("option", [["-m"], ["--multirun"], ["-cd", "mine"], ["--config-dir=mine"], ["-c", "job"]])
def test_options_may_stand_anywhere(option, place):
    words = ["ipc=1", "seed=0"]
    given = read_arguments([*words[:place], *option, *words[place:]])
    assert given.overrides == ("ipc=1", "seed=0")
    (name, *value), *others = given.for_hydra()[:-2], *given.for_hydra()[-2:]
    assert name in ("--multirun", "--config-dir", "--cfg")
    assert value == [word.removeprefix("--config-dir=") for word in option[-1:] if name != "--multirun"]
    assert others == words


@pytest.mark.parametrize(
    "words", [["--fast"], ["--cfg", "jobs"], ["--cfg"], ["-m=1"], ["--experimental-rerun", "x.pickle"]]
)
def test_options_that_are_none(words):
    with pytest.raises(UserError):
        read_arguments(words)


NAMES = ["lr=0.1,(x) [y]", "my photos", "a,b", "x=y", "(1)", "it's", 'say "x"', "{a", "a}", "100 $", " b"]


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_path_is_answered_with_the_form_that_works(name):
    assert as_one_text(f"/data/{name}") == f"/data/{name}"


def as_one_text(path):
    """The path as it is read, from the word itself or from the one that the answer to it advises."""
    given = read_arguments([f"dataset.folder={path}"])
    try:
        check_overrides(given, conf_dir())
    except UserError as error:
        named, _, advice = str(error).rpartition("write ")
        given = read_arguments(shlex.split(advice)) if named.startswith(f"dataset.folder: {path!r}") else given
    (read,) = parse(given.overrides)
    return read.value()


def test_a_word_that_is_no_override(capsys):
    assert "'photos': expected key=value" in complaint(capsys, manifoldgd("run", "dataset.folder=my", "photos"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("guidance.scale=range(0.1,0.5,0.1)", "guidance.scale=0.1,0.2,0.3,0.4"),
        ("guidance.scale=range(0.1,0.35,0.1)", "guidance.scale=0.1,0.2,0.3"),
        ("ipc=range(1,4)", "ipc=1,2,3"),
        ("ipc=range(3)", "ipc=0,1,2"),
        ("ipc=range(5,1,-2)", "ipc=5,3"),
        ("ipc=1,2", "ipc=1,2"),
        ("+x=range(0,1,0.5)", "+x=0.0,0.5"),
    ],
)
def test_ranges_hold_the_numbers_that_were_meant(text, wanted):
    (override,) = parse([text])
    assert plain_range(override) == wanted


@pytest.mark.parametrize("text", ["ipc=range(1,1)", "ipc=range(0,1e12)", "ipc=range(1,5,0)"])
def test_ranges_that_hold_none_or_too_many(text):
    (override,) = parse([text])
    with pytest.raises(UserError, match=r"range.*expected 1 to 100000 numbers"):
        plain_range(override)


@pytest.mark.parametrize("group", sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir()))
def test_null_is_no_choice(capsys, group):
    text = complaint(capsys, manifoldgd("run", f"{group}=null"))
    assert text.startswith(f"{group}: expected one of ")
    assert "got null" in text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["~guidance._target_"], ("guidance: expected a choice of this group", "_target_")),
        (["~guidance"], ("guidance: needs a value and was removed",)),
        (["~ipc"], ("ipc: needs a value and was removed",)),
        (["output="], ("output: expected a folder, got ''",)),
        (["output=' '"], ("output: expected a folder",)),
        (["cache=''"], ("cache: expected a folder, got ''",)),
        (["machine.accelerator=mps"], ("machine.accelerator: mps asked for",)),
        (["trainer.devices=2"], ("unknown key 'trainer.devices'", "machine.accelerator")),
        (["trainer.precision=bf16-mixed"], ("machine.precision",)),
        (["trainer.max_epochs=2"], ("student.protocol.epochs",)),
        (["prior=my_prior"], ("prior: no choice named 'my_prior'", "prior=folder prior.path=my_prior")),
        (["prior=./my/prior"], ("prior.path: folder ./my/prior does not exist",)),
        (["dataset=photos"], ("dataset=image_folder dataset.folder=photos",)),
        (["student/protocol=x"], ("student/protocol: no choice named 'x'",)),
        (["ipc=1,2"], ("ipc: '1,2' stands for several values, which takes --multirun",)),
    ],
)
def test_bad_words_are_one_line(capsys, words, parts):
    text = complaint(capsys, manifoldgd("run", "logger=none", *words))
    assert [part for part in parts if part not in text] == []


def test_multirun_with_cfg_shows_one_configuration(capsys):
    assert manifoldgd("run", "ipc=7", "-m", "--cfg", "job") == 0
    out, err = capsys.readouterr()
    assert "ipc: 7" in out
    assert "sweep:" not in (out + err).replace("sweep: null", "")  # the key, not the end of a sweep
    assert not Path("outputs").exists()


def test_a_folder_of_one_s_own_choices(capsys, tmp_path):
    (tmp_path / "mine" / "guidance").mkdir(parents=True)
    text = (conf_dir() / "guidance" / "mode.yaml").read_text().replace("scale: 0.1", "scale: 0.7")
    (tmp_path / "mine" / "guidance" / "strong.yaml").write_text(text)
    for words in (["-cd", "mine"], [f"hydra.searchpath=[file://{tmp_path}/mine]"]):
        assert manifoldgd("run", "guidance=strong", *words, "--cfg", "job") == 0
        assert "scale: 0.7" in capsys.readouterr().out


@pytest.mark.usefixtures("toy_table")
def test_tables_take_them_too(capsys, tmp_path):
    from toy_table import TOY, change

    (tmp_path / "mine" / "guidance").mkdir(parents=True)
    text = (conf_dir() / "guidance" / "mode.yaml").read_text().replace("scale: 0.1", "scale: 0.7")
    (tmp_path / "mine" / "guidance" / "strong.yaml").write_text(text)
    change(methods=TOY["methods"] | {"own": {"guidance": "strong"}})
    assert "no choice named 'strong'" in complaint(capsys, manifoldgd("table", "table=toy"))
    for words in (["-cd", "mine"], [f"hydra.searchpath=[file://{tmp_path}/mine]"]):
        assert manifoldgd("table", "table=toy", "columns=one", "methods=own", *words, "--cfg", "job") == 0
        out = capsys.readouterr().out
        assert "# one/own" in out
        assert "scale: 0.7" in out
    assert "--multirun: is no option of a table" in complaint(capsys, manifoldgd("table", "table=toy", "-m"))


def sweep_config(sweeper, validation=10, experiment="none"):
    hydra = {"sweeper": sweeper, "runtime": {"choices": {"experiment": experiment}}}
    return Config(OmegaConf.create({"dataset": {"validation": validation}}), OmegaConf.create(hydra))


@pytest.mark.parametrize(
    ("sweeper", "key"),
    [
        ({"_target_": "optuna", "direction": "minimize"}, "direction: expected maximize, got minimize"),
        ({"_target_": "nevergrad", "optim": {"maximize": False}}, "optim.maximize: expected true, got False"),
        ({"_target_": "ax", "ax_config": {"experiment": {"minimize": True}}}, "minimize: expected false, got True"),
    ],
)
def test_a_search_goes_up(sweeper, key):
    with pytest.raises(UserError, match=key):
        check_search(sweep_config(sweeper))


def test_a_search_is_judged_by_held_out_images():
    up = {"_target_": "optuna", "direction": "maximize"}
    assert check_search(sweep_config(up))
    with pytest.raises(UserError, match=r"dataset\.validation: expected .* got null"):
        check_search(sweep_config(up, validation=None))
    grid = {"_target_": GRID}
    assert not check_search(sweep_config(grid, validation=None))
    with pytest.raises(UserError, match=r"dataset\.validation"):
        check_search(sweep_config(grid, validation=None, experiment="tuning"))


def test_optuna_without_the_experiment_is_stopped_before_the_first_trial(capsys):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["-m", "hydra/sweeper=optuna", "dataset=digits", "guidance.scale=interval(0.1,0.4)"]
    text = complaint(capsys, manifoldgd("run", *words))
    assert "hydra.sweeper.direction: expected maximize, got minimize" in text
    text = complaint(capsys, manifoldgd("run", *words, "hydra.sweeper.direction=maximize"))
    assert "dataset.validation: expected" in text
    assert not Path("outputs").exists()


def plan(*words):
    return plan_sweep(read_arguments(["-m", *words]))


def test_one_output_for_many_jobs_is_refused_before_the_first():
    with pytest.raises(UserError, match="output=here: one folder for many jobs"):
        plan("dataset=digits", "ipc=1,2", "output=here")
    for words in (["ipc=1", "output=here"], ["ipc=1,2", "output=here/${ipc}"], ["ipc=1,2", "output=a,b"], ["ipc=1,2"]):
        assert plan("dataset=digits", *words).folder is None


def test_a_sweep_goes_where_it_is_told(capsys, fakes, tiny_prior, shared_cache):
    words = ["dataset=digits", *QUICK, f"prior.path={tiny_prior}", f"cache={shared_cache}", "measures=false"]
    words = [word for word in words if not word.startswith("ipc")]
    assert manifoldgd("run", *words, "guidance=none", "ipc=range(1,3)", "-m", "hydra.sweep.dir=there") == 0
    assert {file.name for file in Path("there/jobs").iterdir()} == {"0000.json", "0001.json"}
    assert Path("there/sweep.csv").is_file()
    assert not Path("outputs/sweeps").exists()
    assert "sweep: 2 finished, 0 failed; there" in capsys.readouterr().out


def test_a_sweep_of_numbers_out_of_range_lists_them(capsys, tiny_prior, shared_cache):
    words = ["dataset=digits", *QUICK, f"prior.path={tiny_prior}", f"cache={shared_cache}"]
    assert manifoldgd("run", "guidance.scale=-1,inf", *words, "-m") == 1
    out = capsys.readouterr().out
    assert out.count("guidance.scale: expected a number in [0, 1000], got") == 4  # as it fails, and in the list


def test_a_folder_or_hub_id_may_stand_where_the_word_of_a_prior_does(tmp_path, monkeypatch):
    from manifoldgd.cli.arguments import with_own_priors
    from manifoldgd.cli.compose import compose, conf_dir

    monkeypatch.chdir(tmp_path)
    for name in ("my prior", "digits"):
        (tmp_path / name).mkdir()
    config = compose(["prior=my prior"])
    assert (config.choice("prior"), config.values.prior.path) == ("folder", "my prior")
    assert compose(["prior=someone/prior"]).values.prior.path == "someone/prior"
    plain = ["prior=digits", "prior=unknown", "prior.path=my prior", "ipc=3"]  # a member's word stays one
    assert with_own_priors(plain, conf_dir()) == plain


def test_a_flow_in_the_hub_s_cache_is_sampled_by_euler_unasked(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from manifoldgd.cli.compose import compose

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, scheduler in (("flow", "FlowMatchEulerDiscreteScheduler"), ("diffusion", "DDPMScheduler")):
        place = tmp_path / "hub" / f"models--someone--{name}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("c0ffee")
        folder = place / "snapshots" / "c0ffee" / "scheduler"
        folder.mkdir(parents=True)
        (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": scheduler}))
    for words, target in (
        (["prior=someone/flow"], "Euler"),
        (["prior=folder", "prior.path=someone/flow"], "Euler"),
        (["prior=someone/flow", "prior.revision=c0ffee"], "Euler"),
        (["prior=someone/flow", "prior.revision=another"], "DDPM"),  # not there: the run will say what it is
        (["prior=someone/flow", "sampler=ddim"], "DDIM"),
        (["prior=someone/diffusion"], "DDPM"),
        (["prior=someone/unknown"], "DDPM"),
        (["prior=not--an/id"], "DDPM"),
    ):
        assert compose(words).values.sampler._target_.endswith(target), words
