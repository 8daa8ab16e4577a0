"""Numbers are chosen on images held out of the training split; on the test split it is refused, or said loudly."""

import functools
import json
import sys

import numpy as np
import pytest
from command import QUICK, manifoldgd
from hydra.types import RunMode
from omegaconf import OmegaConf
from PIL import Image

import manifoldgd as mgd
from manifoldgd.cli import sweep as sweeps
from manifoldgd.cli.compose import Config
from manifoldgd.cli.sweep import FOLDER_VARIABLE
from manifoldgd.errors import UserError
from manifoldgd.pipeline import classifiers
from manifoldgd.students import recipe as recipes

OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, "")  # restored afterwards
    monkeypatch.chdir(tmp_path)


def sweep(prior, cache, *changes):
    given = {change.split("=", 1)[0] for change in changes}
    keys = [each for each in QUICK if each.split("=", 1)[0] not in given]
    return manifoldgd("run", "-m", "dataset=digits", *keys, f"prior.path={prior}", f"cache={cache}", *changes)


def check(*, sweeper, experiment, validation):
    hydra = {
        "mode": RunMode.MULTIRUN,
        "sweeper": {"_target_": sweeper},
        "runtime": {"choices": {"experiment": experiment}},
    }
    values = OmegaConf.create({"dataset": {"validation": validation}})
    sweeps.check_split(Config(values, OmegaConf.create(hydra)))


@pytest.mark.parametrize(
    ("sweeper", "experiment"),
    [(OPTUNA, "none"), (sweeps.GRID, "tuning"), (OPTUNA, "tuning_optuna")],
)
def test_what_chooses_by_results_may_not_read_the_test_split(sweeper, experiment):
    check(sweeper=sweeper, experiment=experiment, validation=10)
    with pytest.raises(UserError, match=r"dataset\.validation: expected .* got null"):
        check(sweeper=sweeper, experiment=experiment, validation=None)


def test_a_plain_sweep_may():
    check(sweeper=sweeps.GRID, experiment="none", validation=None)


def test_hydra_s_own_sweeper_is_still_called_so():
    module, _, name = sweeps.GRID.rpartition(".")
    __import__(module)
    assert hasattr(sys.modules[module], name)


def test_the_objective_is_the_last_epoch():
    assert sweeps.objective({"accuracy": {"last": {"mean": 0.25}, "best": {"mean": 0.5}}}) == 0.25
    assert sweeps.objective({"folder": "a set that nobody judged"}) is None
    assert sweeps.objective(None) is None


def test_one_test_result_makes_it_a_test_sweep():
    held_out = {"dataset": "digits-validation", "accuracy": {}, "x": 1} | {"accuracy": {"last": 1}}
    test = held_out | {"dataset": "digits"}
    assert sweeps.judged_by([held_out, held_out]) == "validation"
    assert sweeps.judged_by([held_out, test]) == "test"
    assert sweeps.judged_by([{"folder": "x"}]) is None


def test_the_experiment_refuses_the_test_split(capsys, tiny_prior, shared_cache):
    changes = ["experiment=tuning", "dataset.validation=null"]
    assert sweep(tiny_prior, shared_cache, *changes, "ipc=1,2") == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "numbers chosen on the test split would make it training data; set dataset.validation=N" in err
    assert "result:" not in out


def test_a_sweep_on_held_out_images_says_so(capsys, fakes, tiny_prior, shared_cache, tmp_path):
    changes = ["experiment=tuning", "dataset.validation=100", "guidance=mode", "guidance.scale=0.1"]
    assert sweep(tiny_prior, shared_cache, *changes) == 0
    assert "TEST split" not in capsys.readouterr().out
    (page,) = (tmp_path / "outputs" / "sweeps").glob("*/sweep.html")
    assert "judged on the validation split" in page.read_text()


def test_a_sweep_on_the_test_split_says_so(capsys, fakes, tiny_prior, shared_cache, tmp_path):
    assert sweep(tiny_prior, shared_cache, "guidance=none", "seed=0,1") == 0
    assert "sweep: judged on the TEST split: a result to report; choose numbers with experiment=tuning" in (
        capsys.readouterr().out
    )
    (page,) = (tmp_path / "outputs" / "sweeps").glob("*/sweep.html")
    assert "judged on the test split" in page.read_text()


@pytest.mark.slow  # a real cell: above its numbers are made up, and test_run judges on held-out images
def test_a_tuning_sweep_is_judged_by_held_out_images(capsys, tiny_prior, shared_cache, tmp_path):
    changes = ["experiment=tuning", "dataset.validation=100", "guidance=mode", "guidance.scale=0.1", "measures=false"]
    assert sweep(tiny_prior, shared_cache, *changes) == 0
    out = capsys.readouterr().out
    assert "TEST split" not in out
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert "judged on the validation split" in (folder / "sweep.html").read_text()
    records = [json.loads(file.read_text()) for file in sorted((folder / "jobs").iterdir())]
    assert {record["result"]["dataset"] for record in records} == {"digits-validation"}


def test_optuna_finds_its_trials_again(monkeypatch, tiny_prior, shared_cache, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    cheap_measures(monkeypatch)
    changes = ["experiment=tuning_optuna", "dataset.validation=100", "hydra.sweeper.n_trials=4"]
    space = "{guidance.scale: 'choice(0.1, 0.2)', guidance.neighbourhood: 'choice(100, 5000)'}"  # one is too many
    changes += [f"hydra.sweeper.params={space}", "guidance.neighbours=48"]
    tables = []
    for _ in range(2):
        assert sweep(tiny_prior, shared_cache, *changes) == 1  # some trials fail, none stops the others
        (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
        tables.append((folder / "sweep.csv").read_text())
        best = OmegaConf.load(folder / "optimization_results.yaml")
        assert best.best_params["guidance.neighbourhood"] == 100
    assert tables[0] == tables[1]
    assert len(list((folder / "jobs").iterdir())) == 4


def test_an_optuna_sweep_of_failures_lists_them(capsys, tiny_prior, shared_cache):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    changes = ["experiment=tuning_optuna", "dataset.validation=100", "hydra.sweeper.n_trials=2"]
    assert sweep(tiny_prior, shared_cache, *changes, "guidance.neighbourhood=5000") == 1
    out, err = capsys.readouterr()
    assert "sweep: 0 finished, 2 failed" in out
    assert "No trials are completed" not in out + err  # Optuna's own words for it
    assert sweep(tiny_prior, shared_cache, *changes, "dataset.validation=null") == 2
    assert "set dataset.validation=N" in capsys.readouterr().err


def cheap_measures(monkeypatch):
    """The embedding network of a dataset of its own would take minutes."""
    recipe = recipes.Recipe(**vars(recipes.STANDARD) | {"images_shown": 2000, "width": 8})
    quick = functools.partial(classifiers.train_classifier, recipe=recipe)
    monkeypatch.setattr(classifiers, "train_classifier", quick)


def test_own_images_are_held_out_by_the_same_words(tmp_path):
    """A fifth of each class judges in the place of the test split, which a share was split off for."""
    for label, name in enumerate(("ant", "zebra")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            shade = np.full((8, 8, 3), 100 * label + number, np.uint8)
            Image.fromarray(shade).save(tmp_path / "photos" / name / f"{number}.png")
    words = [f"dataset.folder={tmp_path / 'photos'}", "dataset.test_share=0.2", "dataset.image_size=8"]
    whole, held = (mgd.load_dataset("image_folder", *words, *more) for more in ([], ["experiment=tuning"]))
    assert (whole.name, held.name) == ("photos", "photos-validation")
    assert [len(each) for each in (whole.train, whole.test, held.train, held.test)] == [16, 4, 12, 4]
    assert {*held.test.digests} < {*whole.train.digests}
