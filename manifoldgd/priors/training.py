"""Training a small prior from scratch on a dataset's training split: autoencoder, then diffusion transformer.

Everything lands in one folder in diffusers format, written in half precision and only when complete. Checkpoints lie in
``<folder>/training`` until then, and a run that was stopped continues from them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn

from manifoldgd.artifacts import Key
from manifoldgd.dataset import ImageDataset, Split
from manifoldgd.diffusion.schedule import NoiseSchedule
from manifoldgd.errors import argument, require
from manifoldgd.files import atomic_write_json
from manifoldgd.priors.autoencoder import NORM_GROUPS, AutoencoderTraining, build_autoencoder
from manifoldgd.priors.denoiser import DenoiserTraining, build_transformer
from manifoldgd.priors.fit import fit
from manifoldgd.priors.loading import CARD
from manifoldgd.priors.prior import as_pixels, pad_to
from manifoldgd.randomness import derived_seed
from manifoldgd.ranges import Batch, LearningRate, Momentum, Range, Width, checked
from manifoldgd.store.tensors import read_tensors, write_tensors

# DiT's training schedule (Peebles and Xie 2023), so that our priors and theirs go through the same sampler.
SCHEDULE = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
Steps = Annotated[int, Range("[1, 100000000]")]
MOST_BLOCKS = 8


@checked
@dataclass(frozen=True)
class AutoencoderRecipe:
    """Size and training of the autoencoder; all numbers live in ``conf/recipe``."""

    # Pixels a side, a multiple of 2 ** (len(block_channels) - 1); smaller images are padded.
    image_size: Annotated[int, Range("[4, 2048]")]
    block_channels: list[Width]
    latent_channels: Annotated[int, Range("[1, 256]")]
    layers_per_block: Annotated[int, Range("[1, 16]")]
    steps: Steps
    batch_size: Batch
    lr: LearningRate
    kl_weight: Annotated[float, Range("[0, 1000]")]
    ema: Momentum

    def __post_init__(self) -> None:
        require(
            1 <= len(self.block_channels) <= MOST_BLOCKS,
            f"expected 1 to {MOST_BLOCKS} blocks, got {self.block_channels}; each but the last halves the resolution",
            key="block_channels",
        )
        groups = min(NORM_GROUPS, *self.block_channels)
        require(
            all(each % groups == 0 for each in self.block_channels),
            f"expected multiples of {groups}, the groups of their norms, got {self.block_channels}; round them",
            key="block_channels",
        )
        factor = 2 ** (len(self.block_channels) - 1)
        require(
            self.image_size % factor == 0,
            f"expected a multiple of {factor} for {len(self.block_channels)} blocks, got {self.image_size}; change it "
            f"or {argument('block_channels')}",
            key="image_size",
        )


@checked
@dataclass(frozen=True)
class DenoiserRecipe:
    """Size and training of the diffusion transformer; all numbers live in ``conf/recipe``."""

    width: Annotated[int, Range("[4, 8192]")]
    heads: Annotated[int, Range("[1, 256]")]
    layers: Annotated[int, Range("[1, 128]")]
    patch_size: Annotated[int, Range("[1, 64]")]
    steps: Steps
    batch_size: Batch
    lr: LearningRate
    class_dropout: Annotated[float, Range("[0, 1)")]
    ema: Momentum

    def __post_init__(self) -> None:
        require(
            self.width % 4 == 0,
            f"expected a multiple of 4, which the sine and cosine embedding of a place in the plane takes, got "
            f"{self.width}; round it",
            key="width",
        )
        require(
            self.width % self.heads == 0,
            f"expected a divisor of {argument('width')}={self.width}, got {self.heads}; change either",
            key="heads",
        )


def train_prior(
    dataset: ImageDataset,
    folder: Path,
    *,
    autoencoder: AutoencoderRecipe,
    denoiser: DenoiserRecipe,
    seed: int,
    trainer: dict[str, Any],
    announce: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train both halves and write them to ``folder``; returns the seconds each took, over all runs.

    Args:
        dataset: only its training split is read.
        folder: where the prior goes; must not already hold one.
        autoencoder: size and training of the autoencoder.
        denoiser: size and training of the transformer.
        seed: of initialisation, order, noise and dropped labels.
        trainer: accelerator, devices, precision and logger for Lightning's Trainer.
        announce: receives one line at the start of each part.

    Raises:
        UserError: ``folder`` already holds a prior, the images are larger than the autoencoder's, or the checkpoints in
            it belong to another recipe.
    """
    _check(folder, dataset, autoencoder)
    work = folder / "training"
    _claim(
        work,
        {
            "dataset": dataset.train_fingerprint,
            "seed": seed,
            **vars(autoencoder),
            "denoiser": vars(denoiser),
            "precision": trainer.get("precision"),
        },
    )
    announce(f"autoencoder: {autoencoder.steps} steps of {autoencoder.batch_size} images")
    vae, vae_seconds = _train_autoencoder(dataset, work / "autoencoder", autoencoder, seed, trainer)
    latents = _latents(vae, dataset.train, work / "latents.safetensors")
    vae.register_to_config(scaling_factor=1 / float(latents.std()))
    announce(f"denoiser: {denoiser.steps} steps of {denoiser.batch_size} latents of shape {tuple(latents.shape[1:])}")
    scaled = latents * vae.config.scaling_factor
    dit, dit_seconds = _train_denoiser(dataset, scaled, work / "denoiser", denoiser, seed, trainer)
    write_prior(folder, vae, dit, dataset.class_names)
    return {"autoencoder": vae_seconds, "denoiser": dit_seconds}


def write_prior(
    folder: Path, vae: AutoencoderKL, transformer: DiTTransformer2DModel, class_names: tuple[str, ...]
) -> None:
    """Write a prior in diffusers format, half precision; ``model_index.json`` comes last."""
    partial = folder / "training" / "weights"
    shutil.rmtree(partial, ignore_errors=True)
    scheduler = DDPMScheduler(**SCHEDULE, variance_type="fixed_small", clip_sample=False, timestep_spacing="linspace")
    id2label = {str(label): name for label, name in enumerate(class_names)}
    pipeline = DiTPipeline(transformer.half(), vae.half(), scheduler, id2label=id2label)
    pipeline.save_pretrained(partial)
    # The pipeline takes class names but does not save them; the hub's DiT has them in its index, and so have ours.
    index = json.loads((partial / "model_index.json").read_text(encoding="utf-8"))
    for name in ("transformer", "vae", "scheduler"):
        for file in (partial / name).iterdir():
            file.chmod(0o644)
        shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(partial / name, folder / name)
    atomic_write_json(folder / "model_index.json", {**index, "id2label": id2label})


def _check(folder: Path, dataset: ImageDataset, autoencoder: AutoencoderRecipe) -> None:
    """Raise what needs no training to be found out."""
    require(
        not (folder / CARD).exists(),
        f"output: {folder} already holds a trained prior; choose another output or remove it",
    )
    side = max(dataset.image_shape[1:])
    require(
        autoencoder.image_size >= side,
        f"expected at least the {side} pixels of the images of {dataset.name}, got "
        f"{autoencoder.image_size}, which would cut them; set it to {side} or more, "
        "or a smaller dataset.image_size",
        key="autoencoder.image_size",
    )


def _claim(work: Path, recipe: dict[str, Any]) -> None:
    """Note whose checkpoints these are; refuse to continue another recipe's."""
    images: Key = recipe["dataset"]
    recipe = json.loads(json.dumps(recipe))
    note = work / "recipe.json"
    found = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else recipe
    if found.get("dataset") in images.former:
        found = {**found, "dataset": str(images)}
    differing = sorted(key for key in {*recipe, *found} if recipe.get(key) != found.get(key))
    require(
        not differing,
        f"output: {work.parent} holds checkpoints of another recipe (different: {', '.join(differing)}); "
        "choose another output or remove its training folder",
    )
    work.mkdir(parents=True, exist_ok=True)
    atomic_write_json(note, recipe)


def _seeded(build: Callable[[], nn.Module], *key: int | str) -> Any:
    """Build a network whose initial weights depend on ``key`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(*key))
        return build()


def _train_autoencoder(
    dataset: ImageDataset, work: Path, recipe: AutoencoderRecipe, seed: int, trainer: dict[str, Any]
) -> tuple[AutoencoderKL, float]:
    def build() -> AutoencoderKL:
        return build_autoencoder(
            image_channels=dataset.image_shape[0],
            image_size=recipe.image_size,
            block_channels=recipe.block_channels,
            latent_channels=recipe.latent_channels,
            layers_per_block=recipe.layers_per_block,
        )

    numbers = {"lr": recipe.lr, "kl_weight": recipe.kl_weight, "ema": recipe.ema, "steps": recipe.steps, "seed": seed}
    module = AutoencoderTraining(_seeded(build, seed, "prior"), dataset.train, **numbers)
    seconds = fit(
        module,
        folder=work,
        num_items=len(dataset.train),
        batch_size=recipe.batch_size,
        steps=recipe.steps,
        seed=seed,
        trainer=trainer,
    )
    return module.average.module.eval(), seconds


def _train_denoiser(
    dataset: ImageDataset, latents: Tensor, work: Path, recipe: DenoiserRecipe, seed: int, trainer: dict[str, Any]
) -> tuple[DiTTransformer2DModel, float]:
    def build() -> DiTTransformer2DModel:
        return build_transformer(
            latent_shape=tuple(latents.shape[1:]),
            num_classes=len(dataset.class_names),
            width=recipe.width,
            heads=recipe.heads,
            layers=recipe.layers,
            patch_size=recipe.patch_size,
        )

    numbers = {"lr": recipe.lr, "class_dropout": recipe.class_dropout, "ema": recipe.ema, "steps": recipe.steps}
    schedule = NoiseSchedule.training(
        beta_start=SCHEDULE["beta_start"],
        beta_end=SCHEDULE["beta_end"],
        kind=SCHEDULE["beta_schedule"],
        num_timesteps=SCHEDULE["num_train_timesteps"],
    )
    transformer = _seeded(build, seed, "denoiser")
    module = DenoiserTraining(transformer, latents, dataset.train.labels, schedule, **numbers, seed=seed)
    seconds = fit(
        module,
        folder=work,
        num_items=len(latents),
        batch_size=recipe.batch_size,
        steps=recipe.steps,
        seed=seed,
        trainer=trainer,
    )
    return module.average.module.eval(), seconds


def _latents(vae: AutoencoderKL, split: Split, file: Path) -> Tensor:
    """The latents of the finished autoencoder, encoded once; a run that continues the denoiser reads them."""
    if not file.is_file():
        write_tensors(file, {"latents": _encode(vae, split)})
    return read_tensors(file, again="encode the images again")[0]["latents"]


@torch.inference_mode()
def _encode(vae: AutoencoderKL, split: Split, chunk: int = 256) -> Tensor:
    """Unscaled posterior means ``[N, C, H, W]`` of a split."""
    device, size = vae.device, vae.config.sample_size
    parts = [
        vae.encode(pad_to(as_pixels(split.load(part)), size).to(device)).latent_dist.mean.cpu()
        for part in torch.arange(len(split)).split(chunk)
    ]
    return torch.cat(parts).clone()
