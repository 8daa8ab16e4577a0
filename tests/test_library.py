"""The package as a library: the same sets and accuracies as the command, from objects, with errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import QUICK, quick
from tiny import cpu

import manifoldgd as mgd
from manifoldgd.distill.module import DistillModule
from manifoldgd.errors import UserError
from manifoldgd.store.keys import described
from manifoldgd.students import Student

WEAK = "guidance.scale=0.001"  # three steps of a prior that learned nothing let stronger pulls run away


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def parts(tiny_prior, shared_cache):
    """Dataset, prior, and what every step is told."""
    prior = mgd.load_prior("folder", f"prior.path={tiny_prior}")
    return mgd.load_dataset("digits"), prior, {"machine": cpu(), "cache": shared_cache}


def synthesise(parts, folder, **changes):
    dataset, prior, told = parts
    prototypes = mgd.cluster(mgd.encode(dataset, prior, **told), mgd.build("clusterer=divisive"), ipc=1, **told)
    given = {"guidance": mgd.build("guidance=mode", WEAK), "sampler": mgd.build("sampler=ddpm", "sampler.steps=3")}
    return mgd.synthesise(dataset, prior, prototypes, folder=folder, **{**given, **changes}, **told)


def test_importing_loads_nothing():
    code = "import sys, manifoldgd; print(*{'torch', 'numpy', 'hydra', 'omegaconf', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_there():
    assert set(dir(mgd)) == set(mgd.__all__)
    for name in mgd.__all__:
        assert getattr(mgd, name) is not None
    assert mgd.UserError is UserError
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = mgd.nothing


def test_the_steps_are_the_command_and_so_is_run(capsys, monkeypatch, parts, tiny_prior, shared_cache, tmp_path):
    words = [*QUICK, "dataset=digits", "guidance=mode", WEAK, "measures=false", f"prior.path={tiny_prior}"]
    config = mgd.compose([*words, f"cache={shared_cache}", "output=told"])
    result = mgd.run(config)
    assert capsys.readouterr().out == ""  # a library says nothing
    assert result.folder == Path("told")
    assert (result.folder / "report.html").is_file()
    assert result.set.images.shape == (10, 1, 8, 8)
    assert result.accuracy.mean == result.by_student[0] == result.metrics["accuracy"]["last"]["mean"]
    assert (result.accuracy.half, result.accuracy.of) == (None, "students")

    made = synthesise(parts, tmp_path / "made")
    assert made.fingerprint == result.set.fingerprint
    student = mgd.build("student=convnet3", "student.width=8", "student.protocol.epochs=1")
    judged = mgd.evaluate(made, parts[0], student=student, seeds=[0], **parts[2])
    assert judged.by_student == result.by_student

    def never(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(Student, "train", never)
    monkeypatch.setattr(DistillModule, "predict_step", never)
    assert quick("run", tiny_prior, shared_cache, "told", "guidance=mode", WEAK, "measures=false") == 0
    assert mgd.run(config).metrics == result.metrics
    assert synthesise(parts, tmp_path / "made").fingerprint == made.fingerprint
    again = mgd.evaluate(mgd.load_set(tmp_path / "made"), parts[0], student=student, seeds=[0], **parts[2])
    assert (again.folder, again.metrics) == (judged.folder, judged.metrics)


def test_a_folder_holds_the_set_of_one_configuration(parts, tmp_path):
    synthesise(parts, tmp_path / "made")
    with pytest.raises(UserError, match=r"^folder: .*made holds another config's result .*guidance\.scale is 0\.001"):
        synthesise(parts, tmp_path / "made", guidance=mgd.build("guidance=mode", "guidance.scale=0.002"))


def test_unguided_sets_need_no_prototypes(parts, tmp_path):
    dataset, prior, told = parts
    free = {"sampler": mgd.build("sampler=ddpm", "sampler.steps=3"), "folder": tmp_path / "free", **told}
    made = mgd.synthesise(dataset, prior, None, guidance=mgd.build("guidance=none"), ipc=2, **free)
    assert (len(made.images), made.manifest["method"]) == (20, "NoGuidance")
    with pytest.raises(UserError, match=r"^ipc: expected the number of images a class"):
        mgd.synthesise(dataset, prior, None, guidance=mgd.build("guidance=none"), **free)
    with pytest.raises(UserError, match=r"^prototypes: expected prototypes to pull towards"):
        mgd.synthesise(dataset, prior, None, guidance=mgd.build("guidance=mode"), ipc=2, **free)


def test_what_cannot_work_is_said_before_it_is_tried(parts, tmp_path):
    dataset, prior, told = parts
    with pytest.raises(UserError, match=r"^sampler\.steps: needs to be in \[1, 1000\]"):
        synthesise(parts, tmp_path / "made", sampler=mgd.diffusion.DDPM(steps=2000, cfg_scale=None))
    assert not (tmp_path / "made").exists()
    with pytest.raises(UserError, match="student=convnet3"):
        mgd.build("student")
    with pytest.raises(UserError, match=r"student: no choice named 'transformer'"):
        mgd.build("student=transformer")
    latents = mgd.encode(dataset, prior, **told)
    with pytest.raises(UserError, match=r"^dataset: the clusterer compares features"):
        mgd.cluster(latents, mgd.build("clusterer=divisive", "clusterer/space=pca"), ipc=1, **told)
    with pytest.raises(UserError, match=r"^clusterer\.space\.pool: needs to divide"):
        mgd.cluster(
            latents, mgd.build("clusterer=divisive", "clusterer/space=pooled", "clusterer.space.pool=3"), ipc=1, **told
        )


def test_clusterers_of_one_s_own_are_asked_every_time(parts):
    dataset, prior, told = parts
    latents, calls = mgd.encode(dataset, prior, **told), []

    class First:
        space = mgd.build("clusterer=divisive").space

        def __call__(self, latents, ipc, generator, features=None):
            calls.append(len(latents))
            return mgd.build("clusterer=divisive")(latents, ipc, generator)

    for _ in range(2):
        assert mgd.cluster(latents, First(), ipc=1, **told).ipc == 1
    assert len(calls) == 20


def test_descriptions_tell_objects_apart_by_what_they_hold():
    def one(scale):
        return described(mgd.guidance.ModeGuidance(scale=scale, kernel="rbf", bandwidth=1.0, t_stop=0.5))

    assert one(0.1) == one(0.1) != one(0.2)
    assert one(0.1)["_target_"] == "manifoldgd.guidance.ModeGuidance"
    torch.manual_seed(0)
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert described(first) == described(first) != described(second)
    assert described(one) != described(described)
