"""Training of the autoencoder: images to latents and back, with little lost.

Loss: ``|x - x'| + kl_weight * KL(q(z|x) || N(0, I))`` per element, the latent-diffusion recipe (Rombach et al. 2022,
arXiv 2112.10752, section 3.1) without its perceptual and adversarial terms, which need pre-trained networks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import AutoencoderKL
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from manifoldgd import ranks
from manifoldgd.dataset import Split
from manifoldgd.priors.prior import as_pixels, pad_to
from manifoldgd.randomness import generator

NORM_GROUPS = 8  # at most; as many as the narrowest block has channels


def build_autoencoder(
    *, image_channels: int, image_size: int, block_channels: list[int], latent_channels: int, layers_per_block: int
) -> AutoencoderKL:
    """A small ``AutoencoderKL``; each block but the last halves the resolution."""
    return AutoencoderKL(
        in_channels=image_channels,
        out_channels=image_channels,
        block_out_channels=tuple(block_channels),
        down_block_types=("DownEncoderBlock2D",) * len(block_channels),
        up_block_types=("UpDecoderBlock2D",) * len(block_channels),
        latent_channels=latent_channels,
        layers_per_block=layers_per_block,
        norm_num_groups=min(NORM_GROUPS, *block_channels),
        sample_size=image_size,
    )


def warmup_cosine(step: int, *, warmup: int, total: int) -> float:
    """Learning-rate factor: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def exponential_average(decay: float) -> Any:
    """Update rule of a moving average whose decay rises from 0.1 to ``decay``, so early weights do not linger."""

    def update(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        return average.lerp(current, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return update


class AutoencoderTraining(LightningModule):
    """Lightning's view of the autoencoder's training; ``average.module`` holds the weights to keep."""

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        split: Split,
        *,
        lr: float,
        kl_weight: float,
        ema: float,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.average = AveragedModel(autoencoder, avg_fn=exponential_average(ema), use_buffers=False)
        self.images = split
        self.size = autoencoder.config.sample_size
        self.lr, self.kl_weight, self.steps, self.seed = lr, kl_weight, steps, seed

    def training_step(self, batch: tuple[int, Tensor]) -> Tensor:
        step, positions = batch
        own = ranks.share(positions.cpu())
        pixels = pad_to(as_pixels(self.images.load(own).to(self.device)), self.size)
        posterior = self.autoencoder.encode(pixels).latent_dist
        shape = (len(positions), *posterior.mean.shape[1:])
        draw = ranks.share(torch.randn(shape, generator=generator(self.seed, "posterior", step))).to(self.device)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * draw).sample
        reconstruction = (decoded - pixels).abs().mean()
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        self.log_dict({"l1": reconstruction, "kl": divergence}, prog_bar=True)
        # Of the whole batch's mean: all ranks' add up to it.
        return (reconstruction + self.kl_weight * divergence) * (len(own) / len(positions))

    def optimizer_step(self, *given: Any, **named: Any) -> None:
        super().optimizer_step(*given, **named)
        self.average.update_parameters(self.autoencoder)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.autoencoder.parameters(), lr=self.lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, warmup=min(100, self.steps // 10 + 1), total=self.steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
