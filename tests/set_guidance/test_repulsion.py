"""Repulsion guidance: its energy against a twin, who pushes whom, and sets made with it."""

import math

import pytest
import torch
from distill_parts import contents, mode
from guidance_parts import randn
from matching_runs_parts import make
from tiny import cpu

from manifoldgd.errors import UserError
from manifoldgd.guidance import CombinedGuidance, RepulsionGuidance
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.set_guidance.repulsion import RepulsionEnergy


def guidance(rate=0.05):
    return CombinedGuidance(first=mode(), then=RepulsionGuidance(rate=rate, inner_steps=2, t_start=0.5))


def repulsion(dataset, folder):
    return guidance().then.prepare(RealImages(dataset, cpu(), folder))


def test_the_energy_is_the_mean_kernel_over_the_pairs_of_a_class():
    labels, z = [1, 0, 1, 1, 0], randn(5, 2, 3, 3)
    twin = 0.0
    for label in (0, 1):
        rows = [z[row].double().flatten() for row in range(5) if labels[row] == label]
        squared = [float(((a - b) ** 2).sum()) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        bandwidth = sorted(squared)[(len(squared) - 1) // 2] / math.log(len(rows))
        twin += sum(math.exp(-each / bandwidth) for each in squared) / len(squared)
    assert float(RepulsionEnergy(torch.tensor(labels))(z, 0)) == pytest.approx(twin, rel=1e-5)


def test_two_images_push_each_other_apart_along_their_line_and_other_classes_feel_nothing():
    z = randn(4, 1, 2, 2).requires_grad_(True)
    (gradient,) = torch.autograd.grad(RepulsionEnergy(torch.tensor([0, 0, 1, 2]))(z, 0), z)
    apart = (z[0] - z[1]).detach()
    torch.testing.assert_close(gradient[0], -gradient[1])
    assert float((gradient[0] * apart).sum()) < 0  # descending moves the first away from the second
    cosine = torch.cosine_similarity(gradient[0].flatten(), apart.flatten(), dim=0)
    assert float(cosine) == pytest.approx(-1, abs=1e-5)
    assert torch.equal(gradient[2:], torch.zeros(2, 1, 2, 2))


def test_copies_and_single_images_give_finite_gradients():
    z = randn(1, 1, 2, 2).repeat(3, 1, 1, 1).requires_grad_(True)
    for labels in ([0, 0, 0], [0, 1, 2]):
        (gradient,) = torch.autograd.grad(RepulsionEnergy(torch.tensor(labels))(z, 0), z)
        assert torch.equal(gradient, torch.zeros_like(z))


def test_sets_spread_and_batches_do_not_matter(prior, dataset, tmp_path):
    known = repulsion(dataset, tmp_path)

    def made(name, method, **rest):
        return make(tmp_path / name, dataset, prior, known, method=method, **rest)

    moved, plain, idle = made("moved", guidance()), made("plain", mode()), made("idle", guidance(rate=0))
    assert torch.equal(idle.images, plain.images)

    def closeness(one):
        latents = prior.encode(one.images)
        return float(RepulsionEnergy(one.labels)(latents, 0)), float(torch.pdist(latents[:2].flatten(1)).mean())

    assert not torch.equal(moved.images, plain.images)
    assert closeness(moved)[1] > closeness(plain)[1]
    made("again", guidance())
    assert contents(tmp_path / "again") == contents(tmp_path / "moved")
    other = made("other", guidance(), batch_size=20)
    assert int((other.images.int() - moved.images.int()).abs().max()) <= 1


def test_bad_numbers_are_refused():
    numbers = {"rate": 0.1, "inner_steps": 2, "t_start": 0.5}
    for name, value, said in (
        ("rate", -1.0, "rate: expected .*"),
        ("inner_steps", 0, "inner_steps"),
        ("t_start", 1.5, "t_start: expected .*"),
    ):
        with pytest.raises(UserError, match=said):
            RepulsionGuidance(**numbers | {name: value})
