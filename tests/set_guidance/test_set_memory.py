"""The memory that guidances of sets take: stated before any work, bounded by parts, and told of where it runs out."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from distill_parts import mode
from guidance_parts import randn
from matching_runs_parts import make
from tiny import cpu

from manifoldgd.data import digits
from manifoldgd.diffusion.protocol import SetSize, batch_rows
from manifoldgd.errors import RunError, UserError
from manifoldgd.guidance import (
    AugmentedRegressionGuidance,
    CombinedGuidance,
    DenoiserFeatureGuidance,
    LearningRegressionGuidance,
    MatchingGuidance,
    PixelResidual,
    RegressionGuidance,
    RepulsionGuidance,
    TransportGuidance,
)
from manifoldgd.pipeline.distillation import check_memory
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.set_guidance import descent
from manifoldgd.set_guidance.networks import RandomNetworks
from manifoldgd.set_guidance.repulsion import RepulsionEnergy
from manifoldgd.set_guidance.transport import TransportEnergy

DESCENT = {"rate": 0.1, "inner_steps": 2, "t_start": 0.5}
NETWORKS = DESCENT | {"networks": 2, "width": 4, "real_per_class": 5, "pool_seed": None}
REGRESSION = NETWORKS | {"ridge": 0.1, "temperature": 10.0}
JUDGES = {
    "repulsion": RepulsionGuidance(**DESCENT),
    "matching": MatchingGuidance(**NETWORKS),
    "regression": RegressionGuidance(**REGRESSION),
    "augmented": AugmentedRegressionGuidance(**REGRESSION, copies=2, augmentation=object()),
    "learning": LearningRegressionGuidance(
        **REGRESSION, copies=2, augmentation=object(), lifetime=5, learning_rate=0.01, real_at_once=20
    ),
    "transport": TransportGuidance(scale=0.1, clusterer=None, centres=10, regularisation=0.1, t_stop=0.5),
    "denoiser": DenoiserFeatureGuidance(**DESCENT, space=None, real_per_class=100),
}
IPC = {"ipc": 10, "real": (1300,) * 100}
SIZE = SetSize(**IPC, image_shape=(3, 256, 256), latent_shape=(4, 32, 32), features=1152, batch_size=64)


@pytest.mark.parametrize("judge", JUDGES.values(), ids=JUDGES)
def test_every_guidance_of_sets_is_refused_where_no_memory_holds_it(judge, prior, dataset, monkeypatch):
    method, numbers = CombinedGuidance(first=mode(), then=judge), {"ipc": 10**5, "machine": cpu(batch_size=50_000)}
    check_memory(dataset, prior, guidance=method, **numbers | {"ipc": 1})
    monkeypatch.setattr("manifoldgd.machine.memory", lambda: 10**7)
    said = r"^guidance: takes .* at once, .* of it for .*, and this machine has 10\.0 MB; lower "
    with pytest.raises(UserError, match=said):
        check_memory(dataset, prior, guidance=method, **numbers)
    monkeypatch.setattr("manifoldgd.machine.memory", lambda: None)  # where the system does not say
    check_memory(dataset, prior, guidance=method, **numbers)


@pytest.mark.parametrize(("device", "host", "said"), [
    (10**6, 10**15, r"and the device has 1\.0 MB; lower "),
    (10**15, 10**3, r"of it for features of 50 real images in 2 networks, and this machine has 1\.0 kB; lower "),
    (10**15, 10**15, None),
])  # fmt: skip
def test_what_lies_on_the_host_is_not_counted_on_a_device(device, host, said, prior, monkeypatch):
    """Of a GPU that is not there: its own memory, and features of real images that are too large a bank for it."""
    monkeypatch.setattr("manifoldgd.pipeline.distillation.memory", lambda: host)
    monkeypatch.setattr("manifoldgd.set_guidance.regression.LARGEST_BANK", 0)
    gpu = SimpleNamespace(device=torch.device("cuda"), memory=device, batch_size=64)
    dataset = digits(train_per_class=None, validation=None)
    method = CombinedGuidance(first=mode(), then=JUDGES["regression"])
    with pytest.raises(UserError, match=said) if said else nullcontext():
        check_memory(dataset, prior, guidance=method, ipc=50, machine=gpu)


@pytest.mark.parametrize("judge", JUDGES.values(), ids=JUDGES)
def test_what_a_guidance_takes_is_whole_and_grows_with_the_set(judge):
    def whole(**changes):
        needs = judge.memory(SetSize(**vars(SIZE) | changes)).values()
        assert all(need.num_bytes > 0 and need.remedy.startswith("lower ") for need in needs)
        return sum(need.num_bytes for need in needs)

    assert whole(ipc=20, batch_size=2000) > whole(batch_size=2000)
    assert whole() <= whole(image_shape=(3, 512, 512), latent_shape=(4, 64, 64))


def test_a_residual_counts_the_pixels_of_all_images_moved_together():
    residual = PixelResidual(steps=1, rate=0.1, bound=0.1)
    (pixels,) = (
        RegressionGuidance(**REGRESSION, residual=residual).memory(SIZE).items()
        ^ JUDGES["regression"].memory(SIZE).items()
    )
    assert pixels[0] == "the pixels of 1,000 images at once"
    assert pixels[1].num_bytes == 12 * 4 * 1000 * 3 * 256**2


def test_rows_of_a_batch():
    numbers = {"of_class": 10, "of_set": 100}
    assert [batch_rows(None, 64, **numbers), batch_rows("class", 64, **numbers)] == [64, 60]
    assert [batch_rows("class", 4, **numbers), batch_rows("set", 4, **numbers)] == [10, 100]
    assert SIZE.rows(None) == 64


def test_distances_by_products_are_those_by_differences(monkeypatch):
    z, labels = randn(9, 4, 2, 2).requires_grad_(True), torch.tensor([0] * 7 + [1] * 2)
    energies = [
        RepulsionEnergy(labels),
        TransportEnergy(randn(2, 5, 16), torch.full((2, 5), 0.2).double(), labels, 0.1),
    ]
    whole = [(energy(z, 0), *torch.autograd.grad(energy(z, 0), z)) for energy in energies]
    monkeypatch.setattr(descent, "LARGEST_DIFFERENCES", 0)
    for energy, wanted in zip(energies, whole, strict=True):
        found = energy(z, 0), *torch.autograd.grad(energy(z, 0), z)
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    near = 100 + torch.tensor([[0.0, 0.0], [2**-10, 0.0]])  # its square in single precision would be lost
    assert torch.equal(descent.squared_distances(near, near), torch.tensor([[0, 2**-20], [2**-20, 0]]))


@pytest.mark.parametrize(
    ("judge", "remedy"),
    [("matching", r"lower ipc, as all images of a class"), ("regression", r"lower ipc, as all images of a set")],
)
def test_a_residual_that_does_not_fit_ends_the_run_in_one_line(judge, remedy, prior, dataset, tmp_path, monkeypatch):
    def full(self, images, energy):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(PixelResidual, "__call__", full)
    kind, numbers = type(JUDGES[judge]), REGRESSION if judge == "regression" else NETWORKS
    then = kind(**numbers | {"rate": 0.0}, residual=PixelResidual(steps=1, rate=0.1, bound=0.1))
    method, known = CombinedGuidance(first=mode(), then=then), then.prepare(RealImages(dataset, cpu(), tmp_path))
    with pytest.raises(RunError, match=rf"^guidance: the residual of .* {remedy}.* leave the residual out$"):
        make(tmp_path / "set", dataset, prior, known, method=method, batch_size=2)


def test_real_images_that_do_not_fit_are_embedded_in_halves(dataset, tmp_path, monkeypatch, capsys):
    judge, real = JUDGES["matching"], RealImages(dataset, cpu(), tmp_path)
    embed = RandomNetworks.embed

    def small(self, index, pixels):
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return embed(self, index, pixels)

    monkeypatch.setattr(RandomNetworks, "embed", small)
    judge.prepare(real)
    assert "features of real images: 5 rows are more than memory holds; 2 at a time" in capsys.readouterr().err
