"""Networks compiled on request: which ones, that it says so, and that they compute the same."""

import dataclasses
import shutil

import pytest
import torch
from distill_parts import make
from student_parts import MEAN, STD, hundred_digits, student
from tiny import cpu

from manifoldgd.data import digits
from manifoldgd.errors import UserError
from manifoldgd.guidance import NoGuidance
from manifoldgd.priors import load_prior


def load(tiny_prior):
    return load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)


def trained(*, compile):
    learner = student("student.protocol.epochs=20", "student.protocol.evaluations=1", member="mlp")
    numbers = {"num_classes": 10, "mean": MEAN, "std": STD, "seed": 0, "ipc": 10, "progress": False}
    return learner.train(*hundred_digits(), **numbers, accelerator="cpu", compile=compile)


@pytest.fixture
def with_a_compiler(monkeypatch):
    """A machine on which one can be asked for, whatever this one has."""
    monkeypatch.setattr("manifoldgd.machine.shutil.which", lambda name: f"/usr/bin/{name}")
    return dataclasses.replace(cpu(batch_size=8), compile=True)


def test_the_denoiser_is_compiled_where_it_is_asked_for(tiny_prior, tmp_path, monkeypatch, with_a_compiler):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    prior, dataset = load(tiny_prior), digits(train_per_class=2, validation=None)
    make(tmp_path / "plain", dataset, prior, NoGuidance(), guided=False)
    assert compiled == []
    make(tmp_path / "compiled", dataset, prior, NoGuidance(), guided=False, machine=with_a_compiler)
    assert compiled == [prior.network]


def test_a_student_is_compiled_where_it_is_asked_for(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    own, other = (trained(compile=compile) for compile in (False, True))
    assert compiled == ["MLP"]
    assert other == dataclasses.replace(own, seconds=other.seconds)


def test_a_machine_without_a_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr("manifoldgd.machine.shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.* CXX"):
        dataclasses.replace(cpu(), compile=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_networks_compute_the_same(tiny_prior, tmp_path):
    dataset = digits(train_per_class=2, validation=None)
    plain = make(tmp_path / "plain", dataset, load(tiny_prior), NoGuidance(), guided=False)
    prior = load(tiny_prior)
    machine = dataclasses.replace(cpu(batch_size=8), compile=True)
    made = make(tmp_path / "compiled", dataset, prior, NoGuidance(), guided=False, machine=machine)
    assert prior.network._compiled_call_impl is not None
    # Another rounding, not another image: a grey level of 255 here and there.
    assert int((made.images.int() - plain.images.int()).abs().max()) <= 2
    own, other = (trained(compile=compile) for compile in (False, True))
    assert other.last_top1 == pytest.approx(own.last_top1, abs=0.05)
