"""Whether a device gives what the processor gives, on the bundled digits prior: latents, students, set energies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from manifoldgd import philox
from manifoldgd.bench.timing import median_seconds
from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion import DDPM, ClassifierFreeGuidance, sample
from manifoldgd.diffusion.protocol import Anchors, Guidance
from manifoldgd.machine import Machine
from manifoldgd.priors.prior import Prior
from manifoldgd.randomness import Generator, RowKey, RowNoise, generator
from manifoldgd.students.student import Student

Row = dict[str, Any]
CPU = torch.device("cpu")


def latents(
    prior: Prior, guidances: Mapping[str, Guidance], device: torch.device, *, rows: int, steps: int
) -> list[Row]:
    """Largest difference of the sampled latents, in units of their spread, for each guidance."""
    draws = generator("bench", "agreement")
    size = prior.latent_channels * prior.latent_size**2
    prototypes = torch.randn(rows, *prior.latent_shape, generator=draws)
    points = torch.randn(rows, 512, size, generator=draws)
    keys = [RowKey(str(row % 10), row // 10) for row in range(rows)]

    def sampled(guidance: Guidance | None, where: torch.device) -> Tensor:
        prior.to(where)
        near = points[:, : guidance.neighbourhood].to(where) if guidance and guidance.neighbourhood else None
        return sample(
            ClassifierFreeGuidance(prior.denoise, prior.cfg_scale, prior.null_class, prior.cfg_channels),
            prior.schedule.respaced(steps, "ddpm"),
            DDPM(steps=steps, cfg_scale=None),
            labels=torch.arange(rows) % 10,
            noise=RowNoise(0, keys, where),
            shape=prior.latent_shape,
            variance=prior.variance,
            guidance=guidance.bind(Anchors(prototypes.to(where), near)) if guidance else None,
        ).cpu()

    found = []
    for name, guidance in {"none": None, **guidances}.items():
        here, there = sampled(guidance, CPU), sampled(guidance, device)
        found.append({"guidance": name, "difference": float((here - there).abs().max() / here.std())})
    return found


def draws(device: torch.device, *, rows: int, numbers: int) -> Row:
    """How many draws of the counter-based generator differ in a bit, and what they take beside torch's on the host."""
    keys = [RowKey("a", row) for row in range(rows)]

    def drawn(where: torch.device, by: Generator | None) -> Tensor:
        return RowNoise(0, keys, where).normal("bench", 0, (numbers,), by)

    here, there = drawn(CPU, philox.NAME), drawn(device, philox.NAME).cpu()
    return {
        "numbers": rows * numbers,
        "different": int((here.view(torch.int32) != there.view(torch.int32)).sum()),
        "seconds": median_seconds(lambda: drawn(device, philox.NAME), device, 3),
        "torch_seconds": median_seconds(lambda: drawn(device, None), device, 3),
    }


def students(student: Student, dataset: ImageDataset, device: torch.device, *, seeds: int, precision: str) -> Row:
    """Test accuracy of students of the same seeds, trained here and there."""
    rows = torch.cat([torch.nonzero(dataset.train.labels == label).flatten()[:10] for label in range(10)])
    images, labels = dataset.train.load(rows), dataset.train.labels[rows]

    def accuracy(where: torch.device, seed: int, how: str) -> float:
        return student.train(
            images,
            labels,
            dataset.test.images(),
            dataset.test.labels,
            num_classes=10,
            mean=dataset.mean,
            std=dataset.std,
            seed=seed,
            ipc=10,
            flip=dataset.flip,
            progress=False,
            accelerator=where.type,
            precision=how,
        ).last_top1

    return {
        "precision": precision,
        "processor": [accuracy(CPU, seed, "32-true") for seed in range(seeds)],
        "device": [accuracy(device, seed, precision) for seed in range(seeds)],
    }


def energies(energy_on: Any, latents: Tensor, device: torch.device) -> Row:
    """Largest difference of a set energy's gradient, over the gradient's largest entry.

    Args:
        energy_on: device -> the energy there.
        latents: ``[B, C, H, W]`` where the gradient is taken.
        device: to compare with the processor.
    """

    def gradient(where: torch.device) -> Tensor:
        here = latents.to(where).requires_grad_(True)
        return torch.autograd.grad(energy_on(where)(here, 0), here)[0].cpu()

    one, two = gradient(CPU), gradient(device)
    return {"difference": float((one - two).abs().max() / one.abs().max())}


def machine(device: torch.device) -> Machine:
    """Single precision on a device."""
    return Machine(
        accelerator=device.type,
        threads=None,
        devices=1,
        nodes=1,
        compile=False,
        progress=False,
        precision="32-true",
        student_precision="32-true",
        batch_size=64,
    )
