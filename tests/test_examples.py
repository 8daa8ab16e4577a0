"""The examples do what they show, with numbers that take a moment."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from command import QUICK, manifoldgd

import manifoldgd as mgd

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK_STUDENT = ("student.width=8", "student.protocol.epochs=1")


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path, tmp_path_factory):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANIFOLDGD_CACHE", str(tmp_path_factory.getbasetemp() / "examples-cache"))
    monkeypatch.syspath_prepend(EXAMPLES)


def example(name):
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def test_run_by_config(capsys, tmp_path):
    result = example("run_by_config").main([*QUICK, "measures=false"])
    out = capsys.readouterr().out
    assert result.set.images.shape == (10, 1, 8, 8)
    assert f"accuracy after the last epoch: {100 * result.accuracy.mean:.1f} %" in out
    assert result.by_student.keys() == {0}
    assert result.folder.is_relative_to(Path("outputs"))


def test_step_by_step(tmp_path):
    judged = example("step_by_step").main("my_set", *QUICK_STUDENT, steps=3)
    assert judged.set.folder == Path("my_set/set")
    assert len(judged.set.images) == 20
    assert judged.by_student.keys() == {0, 1}
    assert json.loads((judged.folder / "metrics.json").read_text())["accuracy"] == judged.metrics["accuracy"]


def test_own_guidance_from_python_and_on_the_command_line_is_the_same(capsys, tmp_path):
    own = example("own_guidance").NeighbourhoodMean
    config = ["machine=cpu", "machine.progress=false"]
    dataset, prior = mgd.load_dataset("digits"), mgd.load_prior("digits")
    machine = mgd.build(*config)
    latents = mgd.encode(dataset, prior, machine=machine)
    prototypes = mgd.cluster(latents, mgd.build("clusterer=divisive"), ipc=1, machine=machine)
    made = {
        scale: mgd.synthesise(
            dataset,
            prior,
            prototypes,
            guidance=own(scale=scale, t_stop=0.5, neighbourhood=20),
            sampler=mgd.build("sampler=ddpm", "sampler.steps=3"),
            folder=tmp_path / f"scale {scale}",
            machine=machine,
        )
        for scale in (0.0, 0.1)
    }
    assert made[0.0].fingerprint != made[0.1].fingerprint  # it acts
    words = ["dataset=digits", "ipc=1", "sampler.steps=3", *config, f"output={tmp_path / 'told'}"]
    chosen = ["--config-dir", EXAMPLES / "conf", "guidance=neighbourhood_mean"]
    allowed = "allow_targets=[own_guidance.NeighbourhoodMean]"
    assert manifoldgd("distill", *words, *chosen) == 2
    assert "allow_targets" in capsys.readouterr().err
    assert manifoldgd("distill", *words, *chosen, allowed) == 0
    assert mgd.load_set(tmp_path / "told").fingerprint == made[0.1].fingerprint


def test_the_notebook(tmp_path):
    cells = json.loads((EXAMPLES / "first_set.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert names["result"].set.images.shape == (20, 1, 8, 8)
    assert names["sets"][0].fingerprint != names["sets"][0.1].fingerprint
    assert all(0 <= one.accuracy.mean <= 1 for one in names["judged"].values())
