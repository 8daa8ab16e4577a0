"""What several tests need of sampled sets."""

import json

import torch
from tiny import cpu, distil

from manifoldgd.artifacts import LatentSet, PrototypeSet
from manifoldgd.diffusion import DDPM
from manifoldgd.distill.module import find_targets
from manifoldgd.guidance import ManifoldGuidance, ModeGuidance

SAMPLER = DDPM(steps=4, cfg_scale=2.0)


class Killed(BaseException):
    """Nobody catches this on the way out."""


def mode(scale=0.3):
    return ModeGuidance(scale=scale, kernel="rbf", bandwidth=1.0, t_stop=0.2)


def manifold(scale=0.3):
    return ManifoldGuidance(
        scale=scale,
        estimator="posterior",
        tangent_dim=2,
        neighbours=5,
        neighbourhood=8,
        annealing="exponential",
        warmup_steps=2,
        max_multiplier=1.0,
        uniform_share=0.01,
        kernel="rbf",
        bandwidth=1.0,
        t_stop=0.2,
    )


def targets_of(dataset, prior, guidance, ipc=2):
    """Every class's first real latents as prototypes."""
    encoded = LatentSet(prior.encode(dataset.train.images()), dataset.train.labels, dataset.class_names, "k")
    rows = torch.cat([encoded.indices_of(label)[:ipc] for label in range(len(dataset.class_names))])
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    ranks = torch.arange(ipc).repeat(len(dataset.class_names))
    prototypes = PrototypeSet(
        encoded.latents[rows], encoded.labels[rows], ranks, rows, zeros, zeros + 1, dataset.class_names, "k"
    )
    return find_targets(prototypes, encoded, guidance.neighbourhood)


def make(folder, dataset, prior, guidance, *, sampler=SAMPLER, ipc=2, seed=0, machine=None, guided=True):
    targets = targets_of(dataset, prior, guidance, ipc) if guided else None
    machine, facts = machine or cpu(batch_size=8), {"method": "test", "config": {}}
    return distil(folder, dataset, prior, sampler, guidance, targets, ipc=ipc, seed=seed, machine=machine, facts=facts)


def contents(folder):
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    manifest = json.loads(files.pop("manifest.json"))
    for name in ("seconds", "file_checksum"):
        manifest.pop(name)
    files.pop("README.md")  # states the seconds
    return files, manifest
