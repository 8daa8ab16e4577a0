"""Features of the prior's transformer for all latents of a dataset: Lightning's predict step over the latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from manifoldgd.priors.prior import Prior
from manifoldgd.randomness import generator


class TransformerFeatures(LightningModule):
    """Noises the latents of a batch of positions and sends them through the first blocks."""

    def __init__(
        self,
        prior: Prior,
        latents: Tensor,  # [N, C, H, W] scaled
        labels: Tensor,  # [N] of the prior
        *,
        timestep: int,
        blocks: int,
        on_batch: Callable[[], None],
    ) -> None:
        super().__init__()
        self.transformer = prior.transformer  # registered, so that Lightning moves it
        self.prior, self.latents, self.labels = prior, latents, labels
        self.timestep, self.blocks, self.on_batch = timestep, blocks, on_batch
        # One draw for all images: they are compared with each other, and noise of their own would set them apart.
        self.noise = torch.randn(prior.latent_shape, generator=generator("clustering space", "noise", timestep))

    def predict_step(self, positions: Tensor) -> Tensor:
        positions = positions.cpu()
        x0, labels = self.latents[positions].float(), self.labels[positions].to(self.device)
        timesteps = torch.full_like(positions, self.timestep)
        x_t = self.prior.schedule.add_noise(x0, self.noise.expand_as(x0), timesteps).to(self.device)
        features = self.prior.block_features(x_t, timesteps.to(self.device), labels, self.blocks)
        self.on_batch()
        return features.float().cpu()


def transformer_features(
    prior: Prior,
    latents: Tensor,
    labels: Tensor,
    *,
    timestep: int,
    blocks: int,
    batch_size: int,
    on_batch: Callable[[], None],
    trainer: dict[str, Any],
) -> Tensor:
    """Token means ``[N, E]`` float32 on the CPU after some blocks of the prior's transformer.

    The noise depends on ``timestep`` alone, so batch size and order of the images change nothing beyond rounding.

    Args:
        prior: its transformer and its training schedule.
        latents: ``[N, C, H, W]`` clean scaled latents.
        labels: ``[N]`` int64, the prior's label of each image; the transformer is told the class, as in sampling.
        timestep: of the training schedule, 0 ... T - 1.
        blocks: gone through, 1 ... the transformer's number.
        batch_size: images a batch.
        on_batch: called after each batch.
        trainer: arguments of Lightning's Trainer (accelerator, devices, precision, progress).
    """
    module = TransformerFeatures(prior, latents, labels, timestep=timestep, blocks=blocks, on_batch=on_batch)
    loader = DataLoader(torch.arange(len(latents)), batch_size=batch_size)
    return torch.cat(Trainer(**trainer).predict(module, loader))
