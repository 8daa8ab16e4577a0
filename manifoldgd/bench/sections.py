"""What is measured. Each section returns rows for the record; the two sides of a ratio are timed in turns.

Shape letters: ``B`` rows, ``D`` numbers of a latent, ``K`` neighbours.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from manifoldgd.artifacts import Key, LatentSet
from manifoldgd.bench.timing import Work, alternating, median_seconds, seconds
from manifoldgd.diffusion import DDPM, ClassifierFreeGuidance, sample
from manifoldgd.diffusion.protocol import Anchors, Guidance
from manifoldgd.geometry.tangent import tangent_basis
from manifoldgd.pipeline.latents import in_processes
from manifoldgd.priors.prior import Prior
from manifoldgd.prototypes import BisectingTree, Divisive, RawLatents, cluster_classes
from manifoldgd.randomness import RowKey, RowNoise, generator
from manifoldgd.store.tensors import read_tensors, write_tensors
from manifoldgd.students.convnets import ConvNet
from manifoldgd.students.student import Student

Row = dict[str, Any]
MATRIX = 8192  # side of the bfloat16 product that gives the device's own rate
RELEASED = {"cloud": 300, "neighbours": 12, "rank": 3}  # of the released code (commit 708ce64)


def matrix_rate(device: torch.device, repetitions: int) -> float:
    """Operations a second of a large bfloat16 matrix product, on random numbers."""
    side = MATRIX if device.type == "cuda" else 1024
    one, two = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: one @ two, device, repetitions)


def denoiser_rate(prior: Prior, device: torch.device, batch: int, repetitions: int, *, compiled: bool) -> list[Row]:
    """Rate of the denoiser over the device's own, with its weights kept in four ways; the last one compiles it."""
    rows = 2 * batch
    x_t = torch.randn(rows, *prior.latent_shape, device=device)
    steps, labels = torch.full((rows,), 500, device=device), torch.zeros(rows, dtype=torch.int64, device=device)

    def forward(autocast: bool) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            return prior.denoise(x_t, steps, labels)

    with FlopCounterMode(display=False) as counted, torch.no_grad():
        prior.denoise(x_t[:1], steps[:1], labels[:1])
    flop = rows * counted.get_total_flops()
    peak = matrix_rate(device, repetitions)
    took = {"single, autocast": median_seconds(lambda: forward(True), device, repetitions)}
    prior.hold("bf16-true")
    took["bfloat16, autocast"] = median_seconds(lambda: forward(True), device, repetitions)
    took["bfloat16"] = median_seconds(lambda: forward(False), device, repetitions)
    if compiled:
        prior.network.compile()
        took["bfloat16, compiled"] = median_seconds(lambda: forward(False), device, repetitions)
    return [
        {
            "weights": kept,
            "rows": rows,
            "gflop_a_row": flop / rows / 1e9,
            "seconds": spent,
            "tflop_a_second": flop / spent / 1e12,
            "share_of_matrix_rate": flop / spent / peak,
            "images_a_second_of_50_steps": batch / spent / 50,
        }
        for kept, spent in took.items()
    ]


def guidance_steps(
    prior: Prior, guidances: Mapping[str, Guidance], device: torch.device, *, batch: int, steps: int, repetitions: int
) -> list[Row]:
    """A guided denoising step over an unguided one, every step guided: the worst case."""
    denoiser = ClassifierFreeGuidance(prior.denoise, prior.cfg_scale, prior.null_class, prior.cfg_channels)
    schedule = prior.schedule.respaced(steps, "ddpm")
    noise = RowNoise(0, [RowKey(str(row % 10), row // 10) for row in range(batch)], device)
    labels = torch.arange(batch) % 10
    draws = generator("bench")

    def run(guidance: Guidance | None) -> Work:
        size = 0 if guidance is None else guidance.neighbourhood
        anchors = Anchors(
            torch.randn(batch, *prior.latent_shape, generator=draws).to(device),
            torch.randn(batch, size, schedule_size(prior), generator=draws).to(device) if size else None,
        )
        bound = None if guidance is None else guidance.bind(anchors)

        def work() -> Tensor:
            with torch.no_grad():
                return sample(
                    denoiser,
                    schedule,
                    DDPM(steps=steps, cfg_scale=None),
                    labels=labels,
                    noise=noise,
                    shape=prior.latent_shape,
                    variance=prior.variance,
                    guidance=bound,
                )

        return work

    rows = []
    for name, guidance in guidances.items():
        plain, guided = alternating(run(None), run(guidance), device, repetitions)
        step = {"seconds_a_step": guided / steps, "unguided_seconds_a_step": plain / steps}
        rows.append({"guidance": name, "batch": batch, "ratio": guided / plain, **step})
    return rows


def schedule_size(prior: Prior) -> int:
    """``D``."""
    channels, height, width = prior.latent_shape
    return channels * height * width


def over_released(prior: Prior, device: torch.device, seconds_a_step: float, batch: int, repetitions: int) -> Row:
    """Images a second over those of the released code's algorithm: one image at a time, a dense ``eigh`` a step.

    Per step: a noised cloud around the prototype, its neighbours, their ``D x D`` covariance and all its eigenvectors.
    The denoiser is the same.
    """
    size = schedule_size(prior)
    x_t = torch.randn(2, *prior.latent_shape, device=device)
    steps, labels = torch.full((2,), 500, device=device), torch.zeros(2, dtype=torch.int64, device=device)

    def step() -> Tensor:
        with torch.no_grad():
            prior.denoise(x_t, steps, labels)
        cloud = torch.randn(RELEASED["cloud"], size, device=device)
        near = cloud[(cloud - x_t[0].flatten()).norm(dim=1).topk(RELEASED["neighbours"], largest=False).indices]
        centred = near - near.mean(0)
        basis = torch.linalg.eigh(centred.T @ centred / len(near))[1][:, -RELEASED["rank"] :]
        return basis @ (basis.T @ x_t[0].flatten())

    released = median_seconds(step, device, repetitions)
    return {
        "released_seconds_a_step": released,
        "ours_seconds_a_step": seconds_a_step,
        "ratio": released * batch / seconds_a_step,
    }


def encoding(prior: Prior, device: torch.device, batch: int, repetitions: int) -> list[Row]:
    """Images of the prior's size encoded and decoded a second, with its weights kept in three ways."""
    images = torch.randint(0, 256, (batch, prior.image_channels, prior.image_size, prior.image_size), dtype=torch.uint8)
    latents = torch.randn(batch, *prior.latent_shape, device=device)
    images, side = images.to(device), (prior.image_size, prior.image_size)

    def row(kept: str, autocast: bool) -> Row:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            encoded = median_seconds(lambda: prior.encode(images), device, repetitions)
            decoded = median_seconds(lambda: prior.decode(latents, side), device, repetitions)
        return {
            "weights": kept,
            "batch": batch,
            "encoded_a_second": batch / encoded,
            "decoded_a_second": batch / decoded,
        }

    rows = [row("single, autocast", True)]
    prior.hold("bf16-true")
    rows.append(row("bfloat16", False))
    prior.autoencoder.to(memory_format=torch.channels_last)
    return [*rows, row("bfloat16, channels last", False)]


def tangents(device: torch.device, repetitions: int, *, batch: int = 64, neighbours: int = 64, size: int) -> list[Row]:
    """Tangent bases of ``B`` samples by their ``[K, K]`` Gram matrices, a sample; beside one ``eigh`` of ``[D, D]``."""
    points = torch.randn(batch, neighbours, size, generator=generator("bench", "tangent")).to(device)
    centred = points - points.mean(1, keepdim=True)
    gram, covariance = centred @ centred.mT, centred[0].mT @ centred[0]
    ways: dict[str, tuple[int, Work]] = {
        "basis of D numbers": (batch, lambda: tangent_basis(points, neighbours // 8)),
        "eigh of K x K, on the device": (batch, lambda: torch.linalg.eigh(gram)),
        "eigh of K x K, on the processor and back": (batch, lambda: torch.linalg.eigh(gram.cpu())[1].to(device)),
        "eigh of D x D": (1, lambda: torch.linalg.eigh(covariance)),
    }
    found = {name: median_seconds(work, device, repetitions) / samples for name, (samples, work) in ways.items()}
    full = found["eigh of D x D"]
    numbers = {"neighbours": neighbours, "numbers": size}
    return [{"what": name, **numbers, "seconds": spent, "ratio": full / spent} for name, spent in found.items()]


def bisecting_kmeans(points: int, size: int, leaves: int, repetitions: int) -> Row:
    """Divisive clustering against scikit-learn's: seconds, and the sum of squares that both reach."""
    from sklearn.cluster import BisectingKMeans

    spread = torch.linspace(2, 0.1, size)  # as in latents, a part of the directions holds most of the variance
    rows = torch.randn(points, size, generator=generator("bench", "cluster")) * spread
    reached: dict[str, float] = {}

    def ours() -> None:
        draws = generator("bench", "tree")
        tree = BisectingTree.grow(rows, leaves, criterion="sse", generator=draws, restarts=10, trials=1)
        reached["ours"] = tree.total_sse()

    def theirs() -> None:
        model = BisectingKMeans(leaves, init="k-means++", n_init=10, random_state=0)
        reached["theirs"] = model.fit(rows.numpy()).inertia_

    spent, reference = alternating(ours, theirs, torch.device("cpu"), repetitions)
    return {
        "points": points,
        "numbers": size,
        "leaves": leaves,
        "seconds": spent,
        "scikit_learn_seconds": reference,
        "ratio": reference / spent,
        "sum_of_squares_over_theirs": reached["ours"] / reached["theirs"],
    }


def classes_in_processes(classes: int, points: int, shape: tuple[int, int, int], processes: int) -> Row:
    """How many times as fast all classes are clustered by so many processes as by one."""
    latents = LatentSet(
        latents=torch.randn(classes * points, *shape, generator=generator("bench", "classes")),
        labels=torch.arange(classes).repeat_interleave(points),
        class_names=tuple(map(str, range(classes))),
        key=Key("bench"),
    )
    clusterer = Divisive(criterion="sse", representative="nearest", space=RawLatents(), restarts=10)
    cluster = partial(cluster_classes, latents, clusterer, 10, 0, Key("bench"))
    one, shared = alternating(cluster, partial(cluster, apply=in_processes(processes)), torch.device("cpu"), 1)
    return {"classes": classes, "points": points, "processes": processes, "ratio": one / shared}


def bank(points: int, size: int) -> Row:
    """Latents written to and read back from a file with checksums, in MB a second."""
    values = torch.randn(points, size, generator=generator("bench", "bank"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bank.safetensors"
        written = seconds(lambda: write_tensors(file, {"latents": values}), torch.device("cpu"))
        read = seconds(lambda: read_tensors(file, again="give the command again"), torch.device("cpu"))
    megabytes = values.numel() * 4 / 1e6
    return {"points": points, "written_mb_a_second": megabytes / written, "read_mb_a_second": megabytes / read}


def students(student: Student, device: torch.device, images: Tensor, labels: Tensor, epochs: int) -> Row:
    """Epochs a second of a student's training over those of a plain loop on the same network and batches.

    The plain loop has no augmentation but a flip, no schedule and no Lightning.
    """
    classes = int(labels.max()) + 1
    mean, std = (0.3,) * images.shape[1], (0.3,) * images.shape[1]
    batch = student.protocol.batch_for(len(images) // classes, classes)

    def ours() -> None:
        student.train(
            images,
            labels,
            images[:classes],
            labels[:classes],
            num_classes=classes,
            mean=mean,
            std=std,
            seed=0,
            ipc=len(images) // classes,
            progress=False,
            accelerator=device.type,
        )

    shape = images.shape[1], images.shape[2], images.shape[3]
    network = student.network(shape, classes, seed=0)
    if isinstance(network, ConvNet):
        network.fused = False
    network.to(device).train()
    held, targets = images.to(device), labels.to(device)

    def plain() -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for _ in range(epochs):
            for rows in torch.randperm(len(held), device=device).split(batch):
                pixels = functional.interpolate(held[rows].float() / 255, student.input_shape(shape)[1:])
                loss = functional.cross_entropy(network((pixels.flip(3) - 0.3) / 0.3), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    spent, reference = alternating(ours, plain, device, 1)
    return {
        "student": student.name,
        "images": len(images),
        "epochs": epochs,
        "epochs_a_second": epochs / spent,
        "plain_epochs_a_second": epochs / reference,
        "ratio": reference / spent,
    }


def set_gradient(energy: Any, latents: Tensor, device: torch.device, repetitions: int) -> float:
    """Seconds of one gradient of a set's energy with respect to its latents."""
    latents = latents.to(device).requires_grad_(True)
    return median_seconds(lambda: torch.autograd.grad(energy(latents, 0), latents), device, repetitions)
