"""Train a prior, judge it, write its card."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifoldgd import ranks
from manifoldgd.artifacts import DistilledSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.samplers import sampler_of
from manifoldgd.errors import require
from manifoldgd.files import atomic_write_json, atomic_write_text
from manifoldgd.guidance import NoGuidance
from manifoldgd.machine import Machine
from manifoldgd.metrics.functional import frechet_distance
from manifoldgd.pipeline.classifiers import embedding_network
from manifoldgd.pipeline.distillation import distill_module
from manifoldgd.pipeline.embedded import embed
from manifoldgd.pipeline.sets import sample_set
from manifoldgd.priors.fit import progress_in
from manifoldgd.priors.loading import CARD, load_prior
from manifoldgd.priors.prior import Prior
from manifoldgd.priors.training import (
    LATENTS,
    TRAINING,
    AutoencoderRecipe,
    DenoiserRecipe,
    check_recipe,
    recorded,
    step_seconds,
    train_prior,
    without_steps,
)
from manifoldgd.priors.weights import CHECKSUMS, write_checksums
from manifoldgd.progress import duration
from manifoldgd.provenance import hardware
from manifoldgd.randomness import generator
from manifoldgd.report.card import prior_card
from manifoldgd.report.grids import image_grid, save_png, scale_for
from manifoldgd.store.keys import read_json
from manifoldgd.store.results import same_where_held

JUDGE_STEPS = 50  # denoising steps of the samples that are judged
SHOWN = 10  # samples a class in the picture
WORTH_TIMING = 500  # steps: of as many or more it is said before how long they will take


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

    A finished prior of fewer steps is trained further; one of as many or more is read. Of several ranks the first
    judges, when all have trained; the others return nothing.

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

    Raises:
        UserError: the recipe does not suit the images, or the folder holds another prior, or one whose training state
            is gone.
    """
    autoencoder = autoencoder.for_images(dataset.image_shape)
    check_recipe(dataset, autoencoder, denoiser)
    asked: dict[str, Any] = {
        "dataset": dataset.name,
        "train_fingerprint": dataset.train_fingerprint,
        "train_images": len(dataset.train),
        "num_classes": len(dataset.class_names),
        "cfg_scale": cfg_scale,
        "steps": {"autoencoder": autoencoder.steps, "denoiser": denoiser.steps},
        "seed": seed,
        "recipe": {"autoencoder": vars(autoencoder), "denoiser": recorded(denoiser)},
    }
    held = ranks.by_first(lambda: _held(folder, asked))
    if held and all(held["steps"][part] >= steps for part, steps in asked["steps"].items()):
        return held
    recipe: dict[str, Any] = {"autoencoder": autoencoder, "denoiser": denoiser}
    left = {part: max(0, each.steps - progress_in(folder / TRAINING / part).steps) for part, each in recipe.items()}
    numbers: dict[str, Any] = {"seed": seed, "trainer": machine.trainer(), "lengthen": held is not None}
    if sum(left.values()) >= WORTH_TIMING:
        cost = say_cost(dataset, **recipe, judge_samples=judge_samples, seed=seed, machine=machine, left=left)
        numbers["measured"] = cost.say_again
    fitted = train_prior(dataset, folder, **recipe, **numbers)
    first = ranks.rank() == 0
    ranks.leave()
    if not first:
        return {}
    prior = load_prior(path=str(folder), autoencoder=None, cfg_scale=cfg_scale, cfg_channels=None).to(machine.device)
    facts = asked | {
        "steps": {name: each.steps for name, each in fitted.items()},  # which may be more than were asked for
        "latent_shape": list(prior.latent_shape),
        "seconds": {name: round(each.seconds) for name, each in fitted.items()},
        "hardware": hardware(machine.device),
        "parameters": {
            "autoencoder": sum(each.numel() for each in prior.autoencoder.parameters()),
            "denoiser": sum(each.numel() for each in prior.network.parameters()),
        },
    }
    return judge(folder, prior, dataset, facts, samples=judge_samples, seed=seed, machine=machine, cache=cache)


@dataclass
class Cost:
    """What a training takes, by the seconds of its steps.

    Attributes:
        seconds: of a step of each half, as far as is known.
        left: steps of each half.
        judging: samples that are judged, in steps of the denoiser.
        samples: how many.
        by: what told the seconds.
    """

    seconds: dict[str, float]
    left: dict[str, int]
    judging: float
    samples: int
    by: str = "a few steps of each"

    def __str__(self) -> str:
        ahead = {part: self.left[part] * each for part, each in self.seconds.items()}
        judging = self.judging * self.seconds["denoiser"]
        parts = [f"{part} {duration(ahead[part])} ({each:.3g} s a step)" for part, each in self.seconds.items()]
        parts.append(f"{self.samples:,} samples to judge {duration(judging)}")
        return f"about {duration(sum(ahead.values()) + judging)} on this machine, by {self.by}: {', '.join(parts)}"

    def say_again(self, part: str, seconds: float, left: int) -> None:
        """Print what is left, by steps of the training itself; of a half that waits, by how much those were off."""
        if part == "autoencoder":
            self.seconds["denoiser"] *= seconds / self.seconds[part]
        else:
            self.left["autoencoder"] = 0
        self.seconds[part], self.left[part], self.by = seconds, left, f"the first minutes of the {part}"
        print(f"prior: from here {self}", flush=True)


def say_cost(
    dataset: ImageDataset,
    *,
    autoencoder: AutoencoderRecipe,
    denoiser: DenoiserRecipe,
    judge_samples: int,
    seed: int,
    machine: Machine,
    left: dict[str, int] | None = None,
) -> Cost:
    """Print what a training will do and how long it will take here, by a few steps of each half; nothing is written.

    Args:
        dataset: as for :func:`train_and_judge`, and so the following.
        autoencoder: size and training of the autoencoder.
        denoiser: size and training of the transformer.
        judge_samples: unguided samples that will be judged.
        seed: of the training.
        machine: where to run.
        left: steps of each half that are left; ``None`` for all.

    Returns:
        What was said, to be said again by more steps.

    Raises:
        UserError: the recipe does not suit the images.
    """
    autoencoder = autoencoder.for_images(dataset.image_shape)
    check_recipe(dataset, autoencoder, denoiser)
    left = left or {"autoencoder": autoencoder.steps, "denoiser": denoiser.steps}
    channels, cells, _ = autoencoder.latent_shape
    tokens = (cells // denoiser.patch_size) ** 2
    print(
        f"prior: {len(dataset.train):,} training images of {len(dataset.class_names)} classes at "
        f"{autoencoder.image_size} pixels a side; the autoencoder has {left['autoencoder']:,} steps of "
        f"{autoencoder.batch_size} images ahead, the denoiser (a {denoiser.path}) {left['denoiser']:,} of "
        f"{denoiser.batch_size} latents "
        f"of shape {channels}x{cells}x{cells} ({tokens} tokens)",
        flush=True,
    )
    numbers: dict[str, Any] = {"seed": seed, "trainer": machine.trainer()}
    seconds = step_seconds(dataset, autoencoder=autoencoder, denoiser=denoiser, **numbers)
    # A training step goes forward and back, about three passes; a sample takes two passes a denoising step.
    cost = Cost(seconds, dict(left), judge_samples * JUDGE_STEPS * 2 / 3 / denoiser.batch_size, judge_samples)
    print(
        f"prior: {cost}; besides, a classifier that judges, where none is kept. A signal (Ctrl-C) ends it with its "
        "state saved; the same command goes on",
        flush=True,
    )
    return cost


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
    drawn = unguided(folder / TRAINING, prior, dataset, per_class, seed, machine)
    print(f"judge: {len(drawn.images):,} unguided samples, by a classifier of real images", flush=True)
    network = embedding_network(dataset, machine, cache)
    real_test = embed(network, dataset.test, progress=machine.progress)
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


def _held(folder: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The card of a prior that was asked for in the same words, but for the number of steps; ``None`` without a card.

    Raises:
        UserError: the card is another prior's, or more steps are asked for and the state of the training is gone.
    """
    if not (folder / CARD).is_file():
        return None
    held = read_json(folder / CARD)
    older = set(asked) - {"train_fingerprint"}  # what cards of earlier versions hold
    words = without_steps(json.loads(json.dumps(asked)))
    require(
        older <= set(held) and same_where_held(without_steps(held), words),
        f"output: {folder} already holds a trained prior; choose another output or remove it",
    )
    for part, steps in asked["steps"].items():
        require(
            held["steps"][part] >= steps or (folder / TRAINING / part).is_dir(),
            f"expected at most the {held['steps'][part]} steps of the prior in {folder}, got {steps}; its "
            f"{TRAINING} folder, from which it could be trained further, is gone: choose another output",
            key=f"{part}.steps",
        )
    if not (folder / CHECKSUMS).is_file():  # ended just before
        _conclude(folder)
    return held


def _conclude(folder: Path) -> None:
    """Keep of the training what more steps would need, and cannot be made again."""
    (folder / TRAINING / LATENTS).unlink(missing_ok=True)
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
            sampler=sampler_of(prior.schedule, JUDGE_STEPS),
            seed=seed,
            machine=machine,
            cache=Path(partial),
        )
        facts = {"method": "unguided"}
        return sample_set(Path(partial), dataset, module, ipc=per_class, machine=machine, facts=facts)
