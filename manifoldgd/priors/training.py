"""Training a small prior from scratch on a dataset's training split: autoencoder, then transformer.

The transformer learns a diffusion or a flow; all else is the same.

Everything lands in one folder in diffusers format, written in half precision and only when complete. Checkpoints lie in
``<folder>/training``: a run that was stopped continues from them, and so does one that asks for more steps.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn

from manifoldgd import ranks
from manifoldgd.artifacts import Key
from manifoldgd.dataset import ImageDataset, Split
from manifoldgd.diffusion.flow import FlowSchedule
from manifoldgd.diffusion.samplers import Schedule
from manifoldgd.diffusion.schedule import NoiseSchedule
from manifoldgd.errors import argument, require
from manifoldgd.files import atomic_write_json
from manifoldgd.priors.autoencoder import NORM_GROUPS, AutoencoderTraining, build_autoencoder
from manifoldgd.priors.denoiser import DenoiserTraining, build_transformer
from manifoldgd.priors.fit import Fitted, Measured, fit, progress_in, seconds_a_step
from manifoldgd.priors.loading import CARD
from manifoldgd.priors.prior import as_pixels, pad_to
from manifoldgd.priors.weights import CHECKSUMS
from manifoldgd.randomness import derived_seed
from manifoldgd.ranges import Batch, LearningRate, Momentum, Range, Width, checked
from manifoldgd.store.tensors import read_tensors, write_tensors

# DiT's training schedule (Peebles and Xie 2023), so that our priors and theirs go through the same sampler.
SCHEDULE: dict[str, Any] = {
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
}
FLOW_SCHEDULE: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 1.0}  # SiT's straight path, told in thousandths
PathKind = Literal["diffusion", "flow"]
Steps = Annotated[int, Range("[1, 100000000]")]
MOST_BLOCKS = 8
TRAINING = "training"  # subfolder of the state of a training
LATENTS = "latents.safetensors"  # in it


@checked
@dataclass(frozen=True)
class AutoencoderRecipe:
    """Size and training of the autoencoder; all numbers live in ``conf/recipe``."""

    # Pixels a side, a multiple of 2 ** (len(block_channels) - 1); smaller images are padded. None: see for_images().
    image_size: Annotated[int, Range("[4, 2048]")] | None
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
        require(
            (self.image_size or 0) % self.factor == 0,
            f"expected a multiple of {self.factor} for {len(self.block_channels)} blocks, got {self.image_size}; "
            f"change it or {argument('block_channels')}",
            key="image_size",
        )

    @property
    def factor(self) -> int:
        """Pixels a side of an image for one cell a side of its latent."""
        return 2 ** (len(self.block_channels) - 1)

    def for_images(self, shape: tuple[int, int, int]) -> AutoencoderRecipe:
        """The recipe with a size: its own, or the least that takes images of ``shape`` ``(C, H, W)``."""
        fitting = -(-max(shape[1:]) // self.factor) * self.factor
        return replace(self, image_size=self.image_size or max(4, fitting))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of a latent, once :attr:`image_size` is known."""
        assert self.image_size is not None
        return self.latent_channels, self.image_size // self.factor, self.image_size // self.factor


@checked
@dataclass(frozen=True)
class DenoiserRecipe:
    """Size and training of the transformer; all numbers live in ``conf/recipe``."""

    width: Annotated[int, Range("[4, 8192]")]
    heads: Annotated[int, Range("[1, 256]")]
    layers: Annotated[int, Range("[1, 128]")]
    patch_size: Annotated[int, Range("[1, 64]")]
    steps: Steps
    batch_size: Batch
    lr: LearningRate
    class_dropout: Annotated[float, Range("[0, 1)")]
    ema: Momentum
    path: PathKind  # from images to noise, and with it what is predicted: noise or velocity

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
    lengthen: bool = False,
    measured: Measured | None = None,
) -> dict[str, Fitted]:
    """Train both halves and write them to ``folder``; returns the steps and seconds of each, over all runs.

    Of several ranks each takes its share of every batch, and the first writes. Draws are those of the whole batch, so a
    step is that of one process up to the order of sums.

    Args:
        dataset: only its training split is read.
        folder: where the prior goes; must not already hold one, but to be trained further.
        autoencoder: size and training of the autoencoder.
        denoiser: size and training of the transformer.
        seed: of initialisation, order, noise and dropped labels.
        trainer: accelerator, devices, precision and logger for Lightning's Trainer.
        announce: receives one line at the start of each part.
        lengthen: whether the folder holds a prior of fewer steps, from whose state the training continues.
        measured: told of each part, after its first minutes, what a step takes.

    Raises:
        UserError: ``folder`` already holds a prior, the images are larger than the autoencoder's, or the checkpoints in
            it belong to another recipe.
    """
    autoencoder = autoencoder.for_images(dataset.image_shape)
    check_recipe(dataset, autoencoder, denoiser)
    require(
        lengthen or not (folder / CARD).exists(),
        f"output: {folder} already holds a trained prior; choose another output or remove it",
    )
    work = folder / TRAINING
    recipe = {
        "dataset": dataset.train_fingerprint,
        "seed": seed,
        **vars(autoencoder),
        "denoiser": recorded(denoiser),
        "precision": trainer.get("precision"),
    }

    def begin() -> None:
        _claim(work, recipe)
        if progress_in(work / "autoencoder").steps < autoencoder.steps and (work / "denoiser").is_dir():
            announce("denoiser: begins anew, because the autoencoder is trained further and its latents will be others")
            (work / LATENTS).unlink(missing_ok=True)
            shutil.rmtree(work / "denoiser")

    ranks.by_first(begin)
    announce(f"autoencoder: {autoencoder.steps} steps of {autoencoder.batch_size} images")
    numbers: dict[str, Any] = {"seed": seed, "trainer": trainer, "measured": measured}
    first = _autoencoder_training(dataset, autoencoder, seed)
    vae_fit = fit(
        first,
        folder=work / "autoencoder",
        num_items=len(dataset.train),
        batch_size=autoencoder.batch_size,
        steps=autoencoder.steps,
        **numbers,
    )
    vae: AutoencoderKL = first.average.module
    vae.eval()
    latents = ranks.by_first(lambda: _latents(vae, dataset.train, work / LATENTS))
    vae.register_to_config(scaling_factor=1 / float(latents.std()))
    announce(f"denoiser: {denoiser.steps} steps of {denoiser.batch_size} latents of shape {tuple(latents.shape[1:])}")
    scaled = latents * vae.config.scaling_factor
    second = denoiser_training(dataset, scaled, dataset.train.labels, denoiser, seed)
    dit_fit = fit(
        second,
        folder=work / "denoiser",
        num_items=len(scaled),
        batch_size=denoiser.batch_size,
        steps=denoiser.steps,
        **numbers,
    )
    if ranks.rank() == 0:
        write_prior(folder, vae, second.average.module.eval(), dataset.class_names, denoiser.path)
    return {"autoencoder": vae_fit, "denoiser": dit_fit}


def step_seconds(
    dataset: ImageDataset,
    *,
    autoencoder: AutoencoderRecipe,
    denoiser: DenoiserRecipe,
    seed: int,
    trainer: dict[str, Any],
) -> dict[str, float]:
    """How long a step of each half takes here, measured by a few; nothing is written. Arguments: :func:`train_prior`.

    Raises:
        UserError: the recipe does not suit the images.
    """
    autoencoder = autoencoder.for_images(dataset.image_shape)
    check_recipe(dataset, autoencoder, denoiser)
    labels = dataset.train.labels[: 2 * denoiser.batch_size]
    latents = torch.randn(len(labels), *autoencoder.latent_shape)
    first = _autoencoder_training(dataset, autoencoder, seed)
    second = denoiser_training(dataset, latents, labels, denoiser, seed)
    numbers: dict[str, Any] = {"seed": seed, "trainer": trainer}
    return {
        "autoencoder": seconds_a_step(
            first, num_items=len(dataset.train), batch_size=autoencoder.batch_size, **numbers
        ),
        "denoiser": seconds_a_step(second, num_items=len(labels), batch_size=denoiser.batch_size, **numbers),
    }


def write_prior(
    folder: Path,
    vae: AutoencoderKL,
    transformer: DiTTransformer2DModel,
    class_names: tuple[str, ...],
    path: PathKind = "diffusion",
) -> None:
    """Write a prior in diffusers format, half precision; ``model_index.json`` comes last."""
    partial = folder / TRAINING / "weights"
    shutil.rmtree(partial, ignore_errors=True)
    scheduler: Any = FlowMatchEulerDiscreteScheduler(**FLOW_SCHEDULE)
    if path == "diffusion":
        scheduler = DDPMScheduler(
            **SCHEDULE, variance_type="fixed_small", clip_sample=False, timestep_spacing="linspace"
        )
    id2label = {str(label): name for label, name in enumerate(class_names)}
    pipeline = DiTPipeline(transformer.half(), vae.half(), scheduler, id2label=id2label)
    pipeline.save_pretrained(partial)
    # The pipeline takes class names but does not save them; the hub's DiT has them in its index, and so have ours.
    index = json.loads((partial / "model_index.json").read_text(encoding="utf-8"))
    for name in (CARD, CHECKSUMS):  # of the prior of fewer steps that was here
        (folder / name).unlink(missing_ok=True)
    for name in ("transformer", "vae", "scheduler"):
        for file in (partial / name).iterdir():
            file.chmod(0o644)
        shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(partial / name, folder / name)
    atomic_write_json(folder / "model_index.json", {**index, "id2label": id2label})


def check_recipe(dataset: ImageDataset, autoencoder: AutoencoderRecipe, denoiser: DenoiserRecipe) -> None:
    """Raise :class:`UserError` where recipe and images do not suit each other."""
    side = max(dataset.image_shape[1:])
    require(
        autoencoder.image_size is not None and autoencoder.image_size >= side,
        f"expected at least the {side} pixels of the images of {dataset.name}, got "
        f"{autoencoder.image_size}, which would cut them; set it to {side} or more, "
        "or a smaller dataset.image_size",
        key="autoencoder.image_size",
    )
    cells = autoencoder.latent_shape[1]
    require(
        cells % denoiser.patch_size == 0,
        f"expected a divisor of {cells}, the cells a side of a latent, got {denoiser.patch_size}; correct it, or "
        f"{argument('autoencoder.image_size')}",
        key="denoiser.patch_size",
    )


def _claim(work: Path, recipe: dict[str, Any]) -> None:
    """Note whose checkpoints these are; refuse to continue another recipe's, but for the number of steps."""
    images: Key = recipe["dataset"]
    recipe = without_steps(json.loads(json.dumps(recipe)))
    note = work / "recipe.json"
    found = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else recipe
    found = without_steps(found)
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


def recorded(denoiser: DenoiserRecipe) -> dict[str, Any]:
    """The numbers of a recipe as records hold them: those of diffusions are older than the choice of a path."""
    numbers = dict(vars(denoiser))
    if denoiser.path == "diffusion":
        del numbers["path"]
    return numbers


def without_steps(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe in plain containers without its numbers of steps, on every level."""
    return {
        name: without_steps(each) if isinstance(each, dict) else each
        for name, each in recipe.items()
        if name != "steps"
    }


def _seeded(build: Callable[[], nn.Module], *key: int | str) -> Any:
    """Build a network whose initial weights depend on ``key`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(*key))
        return build()


def _autoencoder_training(dataset: ImageDataset, recipe: AutoencoderRecipe, seed: int) -> AutoencoderTraining:
    def build() -> AutoencoderKL:
        assert recipe.image_size is not None
        return build_autoencoder(
            image_channels=dataset.image_shape[0],
            image_size=recipe.image_size,
            block_channels=recipe.block_channels,
            latent_channels=recipe.latent_channels,
            layers_per_block=recipe.layers_per_block,
        )

    numbers: dict[str, Any] = {"lr": recipe.lr, "kl_weight": recipe.kl_weight, "ema": recipe.ema, "steps": recipe.steps}
    return AutoencoderTraining(_seeded(build, seed, "prior"), dataset.train, **numbers, seed=seed)


def denoiser_training(
    dataset: ImageDataset, latents: Tensor, labels: Tensor, recipe: DenoiserRecipe, seed: int
) -> DenoiserTraining:
    """Latents ``[N, C, H, W]``, scaled, with their labels ``[N]``."""

    def build() -> DiTTransformer2DModel:
        return build_transformer(
            latent_shape=(latents.shape[1], latents.shape[2], latents.shape[3]),
            num_classes=len(dataset.class_names),
            width=recipe.width,
            heads=recipe.heads,
            layers=recipe.layers,
            patch_size=recipe.patch_size,
        )

    numbers: dict[str, Any] = {
        "lr": recipe.lr,
        "class_dropout": recipe.class_dropout,
        "ema": recipe.ema,
        "steps": recipe.steps,
    }
    schedule: Schedule = FlowSchedule.training(num_timesteps=FLOW_SCHEDULE["num_train_timesteps"])
    if recipe.path == "diffusion":
        schedule = NoiseSchedule.training(
            beta_start=SCHEDULE["beta_start"],
            beta_end=SCHEDULE["beta_end"],
            kind=SCHEDULE["beta_schedule"],
            num_timesteps=SCHEDULE["num_train_timesteps"],
        )
    return DenoiserTraining(_seeded(build, seed, "denoiser"), latents, labels, schedule, **numbers, seed=seed)


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
