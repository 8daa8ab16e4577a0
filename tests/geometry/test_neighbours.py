"""Nearest neighbours by FAISS, by FAISS on a GPU and without either: the same ones, and no import nobody asked for."""

import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import faiss
import pytest
import torch
from tiny import cpu

from manifoldgd import machine
from manifoldgd.errors import UserError
from manifoldgd.geometry import neighbours
from manifoldgd.geometry.neighbours import nearest


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def gpu_build(monkeypatch):
    """FAISS as its GPU distribution has it, but that the index stays on the processor."""
    made = []

    def index(resources, size):
        assert resources == "resources"
        made.append(size)
        return faiss.IndexFlatL2(size)

    names = {"GpuIndexFlatL2": index, "StandardGpuResources": lambda: "resources", "get_num_gpus": lambda: 1}
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(**names, __spec__=faiss.__spec__))
    return made


def test_every_backend_finds_the_same_in_the_same_order(gpu_build, monkeypatch):
    bank = torch.cat([randn(300, 24), randn(40, 24)])  # 40 of them twice: ties go to the lower row
    queries = torch.cat([randn(40, 24, seed=1), bank[:20]])
    found = nearest(queries, bank, 9, backend="exact")
    on_gpu = nearest(queries, bank, 9, backend="faiss-gpu")
    assert gpu_build == [24]
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    for other in (on_gpu, nearest(queries, bank, 9, backend="faiss"), nearest(queries, bank, 9)):
        assert torch.equal(other.indices, found.indices)
        assert torch.equal(other.squared_distances, found.squared_distances)
    assert found.indices[40, :2].tolist() == [0, 300]
    distances = (queries[:, None].double() - bank.double()).square().sum(-1)
    assert torch.equal(found.indices, distances.sort(stable=True).indices[:, :9])


def test_the_exact_search_in_parts_is_the_whole_one(monkeypatch):
    bank, queries = randn(50, 6), randn(33, 6, seed=1)
    whole = nearest(queries, bank, 4, backend="exact")
    monkeypatch.setattr(neighbours, "_AT_ONCE", 170)  # three queries at a time
    assert torch.equal(nearest(queries, bank, 4, backend="exact").indices, whole.indices)
    with pytest.raises(ValueError, match=r"backend: expected one of faiss, faiss-gpu, exact, got 'annoy'"):
        nearest(queries, bank, 4, backend="annoy")


WITHOUT = """
import sys
import torch
import manifoldgd as mgd
import manifoldgd.prototypes, manifoldgd.library
from manifoldgd.geometry.neighbours import nearest
print("imported" if "faiss" in sys.modules else "not imported")
sys.modules["faiss"] = None  # what the import system takes for a module that is not there
mgd.build("machine=cpu", "machine.threads=1").prepare()
bank = torch.arange(12.0).view(6, 2)
print(nearest(bank[:2] + 0.1, bank, 2).indices.tolist())
for choice in (["machine=cpu", "machine.neighbours=faiss"], ["clusterer=kmeans"]):
    try:
        mgd.build(*choice)
    except mgd.UserError as error:
        print(error)
"""


def test_nothing_imports_faiss_before_it_is_used_and_without_it_what_needs_it_says_so():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    imported, found, *lines = done.stdout.splitlines()
    assert imported == "not imported"
    assert found == "[[0, 1], [1, 2]]"
    answer = "takes FAISS, which is not installed; `pip install 'manifoldgd[faiss-cpu]'`"
    assert lines == [
        f"machine.neighbours: this search {answer}",
        f"clusterer: k-means {answer}, or choose clusterer=divisive",
    ]


def test_a_gpu_that_faiss_was_not_built_for_is_answered():
    with pytest.raises(
        UserError, match=r"neighbours: faiss-gpu needs a CUDA device and FAISS built for it, got that of"
    ):
        cpu(neighbours="faiss-gpu")
    assert {cpu(neighbours=name).neighbours for name in ("faiss", "exact", None)} == {"faiss", "exact", None}


def test_a_search_does_not_look_through_what_is_installed(monkeypatch):
    def slow():
        raise AssertionError("the files of every installed distribution were looked through")

    monkeypatch.setattr(machine, "installed_faiss", slow)
    assert hasattr(machine.faiss_library(), "IndexFlatL2")


def test_two_distributions_of_faiss_are_named_where_it_cannot_be_imported(monkeypatch, tmp_path):
    (tmp_path / "faiss.py").write_text("raise ImportError('undefined symbol: _ZN5faiss')")
    monkeypatch.delitem(sys.modules, "faiss")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(machine, "installed_faiss", lambda: ["faiss-cpu", "faiss-gpu"])
    with pytest.raises(UserError, match=r"undefined symbol.*faiss-cpu and faiss-gpu overwrite each other's files"):
        machine.faiss_library()


def test_no_installation_brings_two_distributions_of_faiss():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def brought(requirements):
        for each in requirements:
            if each.startswith("manifoldgd["):
                for name in each.removeprefix("manifoldgd[").rstrip("]").split(","):
                    yield from brought(extras[name])
            elif each.startswith("faiss"):
                yield each

    assert list(brought(project["dependencies"])) == []
    assert all(len(set(brought(requirements))) <= 1 for requirements in extras.values())
    assert list(brought(extras["dev"])) == ["faiss-cpu>=1.10"]
