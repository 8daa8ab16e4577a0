"""One flipped byte in the middle of any file on disk is found, and the remedy that the message names works."""

import json
import re
import shutil
from pathlib import Path

import pytest
from command import quick

from manifoldgd.priors.weights import write_checksums

# Every kind of file that a run leaves or reads, and which of those there are is looked at.
KINDS = {
    "weights of the transformer": "prior/transformer/*.safetensors",
    "weights of the autoencoder": "prior/vae/*.safetensors",
    "configuration of the transformer": "prior/transformer/config.json",
    "configuration of the autoencoder": "prior/vae/config.json",
    "configuration of the scheduler": "prior/scheduler/*.json",
    "index of the prior": "prior/model_index.json",
    "latents": "cache/latents/*/latents.npy",
    "labels": "cache/latents/*/labels.npy",
    "facts about latents": "cache/latents/*/meta.json",
    "prototypes": "cache/prototypes/*.safetensors",
    "features": "cache/features/*.safetensors",
    "matching": "cache/matching/*.safetensors",
    "classifier": "cache/classifiers/*.safetensors",
    "teacher": "cache/teachers/*.safetensors",
    "image of a set": "out/set/3/00000.png",
    "manifest": "out/set/manifest.json",
    "claim": "out/result.json",
    "metrics": "out/metrics.json",
    "student": "out/students/0.json",
}
# What a finished result does not read again is read by the next run that needs it.
AGAIN = {
    "latents": ("out/set", "out/metrics.json"),
    "labels": ("out/set", "out/metrics.json"),
    "facts about latents": ("out/set", "out/metrics.json"),
    "prototypes": ("out/set", "out/metrics.json"),
    "features": ("out/set", "out/metrics.json", "cache/prototypes"),
    "matching": ("out/set", "out/metrics.json"),
    "classifier": ("out/metrics.json",),
    "teacher": ("out/metrics.json",),
    "student": ("out/metrics.json",),
}
RUN = (
    "ipc=1",
    "guidance=matching",
    "guidance.then.networks=1",
    "guidance.then.width=4",
    "guidance.then.inner_steps=1",
    "guidance.then.real_per_class=10",
    "clusterer/space=denoiser",
    "student/protocol=soft_small",
    "student.protocol.teacher.images_shown=50",
    "measures=true",
)


def run(folder):
    return quick("run", folder / "prior", folder / "cache", folder / "out", *RUN)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_prior, shared_cache):
    """A folder with a prior, a cache and a finished result."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(tiny_prior, folder / "prior")
    write_checksums(folder / "prior")
    shutil.copytree(shared_cache, folder / "cache")
    assert run(folder) == 0
    return folder


@pytest.fixture
def copy(finished):
    """The finished folder, put back as it was afterwards."""
    kept = finished.with_name("kept")
    shutil.copytree(finished, kept)
    yield finished
    shutil.rmtree(finished)
    kept.rename(finished)


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(data)


def remove(place):
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pattern"), KINDS.items(), ids=KINDS)
def test_a_flipped_byte_is_found_and_the_remedy_works(copy, capsys, kind, pattern):
    (file,) = copy.glob(pattern)
    for name in AGAIN.get(kind, ()):
        remove(copy / name)
    flip(file)
    capsys.readouterr()
    assert run(copy) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(copy) in message
    if pattern.startswith("prior/"):  # no run makes a prior again
        assert "restore it from a copy" in message
        return
    if "remove it" in message and f"error: {file}: " in message:
        named = file
    else:
        named = Path(re.search(r"remove (?:the folder )?(/\S+)", message)[1])
    remove(named)
    assert run(copy) == 0
    assert json.loads((copy / "out" / "metrics.json").read_text())["student_seeds"] == [0]
