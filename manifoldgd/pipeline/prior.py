"""Train a prior, judge it, write its card."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion import DDPM
from manifoldgd.files import atomic_write_json, atomic_write_text
from manifoldgd.guidance import NoGuidance
from manifoldgd.machine import Machine
from manifoldgd.metrics.functional import frechet_distance
from manifoldgd.pipeline.classifiers import embedding_network
from manifoldgd.pipeline.distillation import distill_module
from manifoldgd.pipeline.sets import sample_set
from manifoldgd.priors.loading import CARD, load_prior
from manifoldgd.priors.prior import Prior
from manifoldgd.priors.training import AutoencoderRecipe, DenoiserRecipe, train_prior
from manifoldgd.priors.weights import CHECKSUMS, write_checksums
from manifoldgd.provenance import hardware
from manifoldgd.randomness import generator
from manifoldgd.report.card import prior_card
from manifoldgd.report.grids import image_grid, save_png, scale_for
from manifoldgd.store.keys import read_json
from manifoldgd.store.results import same_where_held

JUDGE_STEPS = 50  # denoising steps of the samples that are judged
SHOWN = 10  # samples a class in the picture


def train_and_judge(
    folder: Path,
    dataset: ImageDataset,
    *,
    autoencoder: AutoencoderRecipe,
    denoiser: DenoiserRecipe,
    cfg_scale: float,
    judge_samples: int,
    seed: int,
    machine: Machine,
    cache: Path,
) -> dict[str, Any]:
    """Train a prior into ``folder`` (or continue), judge unguided samples, write ``manifoldgd.json`` and the card.

    Args:
        folder: where the prior goes.
        dataset: trains on its training split; its test split serves the card's Fréchet distance alone.
        autoencoder: size and training of the autoencoder.
        denoiser: size and training of the transformer.
        cfg_scale: classifier-free guidance scale that the card recommends and the judged samples use.
        judge_samples: unguided samples that a classifier of real images judges.
        seed: of the training and of the samples.
        machine: where to run.
        cache: holds the classifier.

    Returns:
        What the card says, as ``manifoldgd.json`` holds it.
    """
    asked = {
        "dataset": dataset.name,
        "train_fingerprint": dataset.train_fingerprint,
        "train_images": len(dataset.train),
        "num_classes": len(dataset.class_names),
        "cfg_scale": cfg_scale,
        "steps": {"autoencoder": autoencoder.steps, "denoiser": denoiser.steps},
        "seed": seed,
        "recipe": {"autoencoder": vars(autoencoder), "denoiser": vars(denoiser)},
    }
    if finished := _finished(folder, asked):
        return finished
    trainer = machine.trainer(enable_checkpointing=True)
    seconds = train_prior(dataset, folder, autoencoder=autoencoder, denoiser=denoiser, seed=seed, trainer=trainer)
    prior = load_prior(path=str(folder), autoencoder=None, cfg_scale=cfg_scale, cfg_channels=None).to(machine.device)
    facts = asked | {
        "latent_shape": list(prior.latent_shape),
        "seconds": {name: round(value) for name, value in seconds.items()},
        "hardware": hardware(machine.device),
        "parameters": {
            "autoencoder": sum(each.numel() for each in prior.autoencoder.parameters()),
            "denoiser": sum(each.numel() for each in prior.transformer.parameters()),
        },
    }
    return judge(folder, prior, dataset, facts, samples=judge_samples, seed=seed, machine=machine, cache=cache)


def judge(
    folder: Path,
    prior: Prior,
    dataset: ImageDataset,
    facts: dict[str, Any],
    *,
    samples: int,
    seed: int,
    machine: Machine,
    cache: Path,
) -> dict[str, Any]:
    """Draw unguided samples, let a classifier of real images name them, and write card, facts and picture."""
    per_class = max(1, samples // len(dataset.class_names))
    drawn = unguided(folder / "training", prior, dataset, per_class, seed, machine)
    network = embedding_network(dataset, machine, cache)
    real_test = network.embed(dataset.test.images())
    some_train = network.embed(dataset.train.load(some_of(dataset, len(drawn.images))))
    facts["judge"] = {
        "samples": len(drawn.images),
        "recognised": network.accuracy(drawn.images, drawn.labels),
        "classifier_test_accuracy": network.test_accuracy,
        "frechet_distance_to_test": float(frechet_distance(network.embed(drawn.images), real_test)),
        "frechet_distance_of_train": float(frechet_distance(some_train, real_test)),
    }
    shown = drawn.ranks < SHOWN
    picture = image_grid(
        drawn.images[shown],
        drawn.labels[shown],
        drawn.class_names,
        ranks=drawn.ranks[shown],
        scale=scale_for(max(dataset.image_shape[1:])),
    )
    save_png(picture, folder / "samples.png")
    atomic_write_text(folder / "README.md", prior_card(facts))
    atomic_write_json(folder / CARD, facts)
    _conclude(folder)
    return facts


def _finished(folder: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The card of a prior that was asked for in the same words: the same command again trains nothing again."""
    if not (folder / CARD).is_file():
        return None
    held = read_json(folder / CARD)
    older = set(asked) - {"train_fingerprint"}  # what cards of earlier versions hold
    if not older <= set(held) or not same_where_held(held, json.loads(json.dumps(asked))):
        return None  # of another prior, over which nothing is written
    if not (folder / CHECKSUMS).is_file():  # ended just before
        _conclude(folder)
    return held


def _conclude(folder: Path) -> None:
    shutil.rmtree(folder / "training", ignore_errors=True)
    write_checksums(folder)


def some_of(dataset: ImageDataset, count: int) -> Tensor:
    """Positions of ``count`` training images, or of all, by a fixed draw: a folder's images stand class by class."""
    return torch.randperm(len(dataset.train), generator=generator("judge", dataset.name))[:count]


def unguided(
    work: Path, prior: Prior, dataset: ImageDataset, per_class: int, seed: int, machine: Machine
) -> DistilledSet:
    """``per_class`` unguided samples of each class."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as partial:
        module = distill_module(
            dataset,
            prior,
            None,
            guidance=NoGuidance(),
            sampler=DDPM(steps=JUDGE_STEPS, cfg_scale=None),
            seed=seed,
            machine=machine,
            cache=Path(partial),
        )
        facts = {"method": "unguided"}
        return sample_set(Path(partial), dataset, module, ipc=per_class, machine=machine, facts=facts)
