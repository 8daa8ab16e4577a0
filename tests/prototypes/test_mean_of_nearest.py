"""Anchors that average the few real latents nearest to a centroid."""

import json

import pytest
import torch
from clusters import blobs, draws
from command import quick
from prototypes_parts import CLUSTERERS, latents_of

from manifoldgd.errors import UserError
from manifoldgd.prototypes import MeanOfNearest
from manifoldgd.prototypes.representatives import represent

NODE = "{_target_: manifoldgd.prototypes.MeanOfNearest, count: 2}"


def test_the_few_nearest_are_averaged_and_nearness_is_that_of_the_space():
    latents = latents_of(torch.randn(6, 16, generator=draws()))
    points = torch.tensor([[0.0], [9.0], [4.0], [5.0], [20.0], [22.0]])  # means 4.5 and 21
    clusters = [torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5])]
    found = represent(latents, points, clusters, representative=MeanOfNearest(count=2), depths=[1, 2])
    wanted = torch.stack([latents[[2, 3]].mean(0), latents[[4, 5]].mean(0)])
    torch.testing.assert_close(found.prototypes, wanted)
    named = represent(latents, points, clusters, representative="nearest", depths=[1, 2])
    for name in ("nearest", "depths", "sizes"):
        assert torch.equal(getattr(found, name), getattr(named, name))


@pytest.mark.parametrize("name", CLUSTERERS)
def test_one_is_the_nearest_and_all_are_the_centroid(name):
    points, _ = blobs([30, 20, 10, 5])
    latents = latents_of(points)
    before = latents.clone()

    def prototypes(representative):
        return CLUSTERERS[name](representative=representative)(latents, 4, draws()).prototypes

    assert torch.equal(prototypes(MeanOfNearest(count=1)), prototypes("nearest"))
    torch.testing.assert_close(prototypes(MeanOfNearest(count=65)), prototypes("centroid"))
    few = prototypes(MeanOfNearest(count=3))
    assert not torch.equal(few, prototypes("nearest"))
    assert not torch.allclose(few, prototypes("centroid"))
    assert torch.equal(latents, before)


def test_the_first_of_equally_near_members_count():
    latents = latents_of(torch.arange(4.0)[:, None].repeat(1, 16))
    assert torch.equal(MeanOfNearest(count=2)(latents, torch.zeros(4, 3)), latents[:2].mean(0))


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_count_has_to_be_positive(count):
    with pytest.raises(UserError, match=r"count: expected .*"):
        MeanOfNearest(count=count)


def test_the_command(tiny_prior, shared_cache, tmp_path):
    prototypes = {}
    for number, name in enumerate((NODE, "nearest", "centroid")):
        folder = tmp_path / str(number)
        arguments = ("guidance=mode", "ipc=2", f"clusterer.representative={name}")
        assert quick("distill", tiny_prior, shared_cache, folder, *arguments) == 0
        manifest = json.loads((folder / "set" / "manifest.json").read_text())
        prototypes[name] = manifest["config"]["clusterer"]["representative"]
    assert prototypes == {
        NODE: {"_target_": "manifoldgd.prototypes.MeanOfNearest", "count": 2},
        "nearest": "nearest",
        "centroid": "centroid",
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("medoid", "clusterer.representative: expected one of centroid, nearest or a MeanOfNearest"),
        ("{count: 5}", "clusterer.representative: expected one of centroid, nearest or a MeanOfNearest"),
        (NODE.replace("2", "0"), "clusterer.representative.count: expected a whole number in [1, 1000000], got 0"),
        (
            NODE.replace("2", "few"),
            "clusterer.representative.count: expected a whole number in [1, 1000000], got 'few'",
        ),
    ],
)
def test_values_that_cannot_work(tiny_prior, shared_cache, tmp_path, capsys, value, message):
    code = quick("distill", tiny_prior, shared_cache, tmp_path / "r", f"clusterer.representative={value}")
    assert code == 2
    assert capsys.readouterr().err.startswith(f"manifoldgd: error: {message}")
    assert not (tmp_path / "r").exists()
