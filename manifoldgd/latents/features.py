"""Features of the prior's transformer for all latents of a dataset: Lightning's predict step over the latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from manifoldgd import ranks
from manifoldgd.memory import AtOnce
from manifoldgd.priors.prior import Prior
from manifoldgd.randomness import generator


def common_noise(prior: Prior, timestep: int) -> Tensor:
    """The noise ``[C, H, W]`` of all latents: they are compared, and noise of their own would set them apart."""
    return torch.randn(prior.latent_shape, generator=generator("clustering space", "noise", timestep))


def noised_features(prior: Prior, x0: Tensor, labels: Tensor, noise: Tensor, timestep: int, blocks: int) -> Tensor:
    """Token means ``[B, E]`` after some blocks of the prior's transformer for clean latents; differentiable.

    Args:
        prior: see :func:`transformer_features`, as for ``timestep`` and ``blocks``.
        x0: ``[B, C, H, W]`` clean scaled latents.
        labels: ``[B]`` int64 of the prior, on the device of ``x0``.
        noise: see :func:`common_noise`.
        timestep: of the training schedule.
        blocks: gone through.
    """
    x_t = prior.schedule.add_noise(x0, noise.to(x0).expand_as(x0), torch.full_like(labels, timestep))
    told = prior.schedule.timesteps[timestep]
    timesteps = torch.full_like(labels, told.item(), dtype=told.dtype)
    return prior.block_features(x_t, timesteps, labels, blocks)


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
        batch_size: int,
        on_batch: Callable[[], None],
    ) -> None:
        super().__init__()
        self.network = prior.network  # registered, so that Lightning moves it
        self.prior, self.latents, self.labels = prior, latents, labels
        self.timestep, self.blocks, self.on_batch = timestep, blocks, on_batch
        self.noise = common_noise(prior, timestep)
        self._at_once = AtOnce(batch_size, "features of the prior's network")

    def predict_step(self, positions: Tensor) -> Tensor:
        positions = positions.cpu()
        x0, labels = self.latents[positions].float(), self.labels[positions].to(self.device)

        def features_of(x0: Tensor, labels: Tensor) -> Tensor:
            return noised_features(self.prior, x0, labels, self.noise, self.timestep, self.blocks)

        features = self._at_once(features_of, x0.to(self.device), labels)
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
    """Token means ``[N, E]`` float32 on the CPU of all ranks, after some blocks of the prior's transformer.

    The noise depends on ``timestep`` alone, so batch size and order of the images change nothing beyond rounding.

    Args:
        prior: its transformer and its training schedule.
        latents: ``[N, C, H, W]`` clean scaled latents.
        labels: ``[N]`` int64, the prior's label of each image; the transformer is told the class, as in sampling.
        timestep: of the training schedule, 0 ... T - 1.
        blocks: gone through, 1 ... the transformer's number.
        batch_size: images a batch.
        on_batch: called after each batch of this rank.
        trainer: arguments of Lightning's Trainer (accelerator, own device, precision, progress).
    """
    numbers: dict[str, Any] = {"timestep": timestep, "blocks": blocks, "batch_size": batch_size}
    module = TransformerFeatures(prior, latents, labels, **numbers, on_batch=on_batch)
    positions: Any = ranks.share(list(torch.arange(len(latents)).split(batch_size)))  # dataset enough for a loader
    found: Any = Trainer(**trainer).predict(module, DataLoader(positions, batch_size=None)) if positions else []
    return torch.cat(ranks.together(found))
