"""Training of the class-conditional diffusion transformer on cached latents.

Loss: mean squared error of what is predicted. Of a diffusion that is the noise ``eps`` (Ho et al. 2020, eq. 14), of a
flow the velocity ``eps - x0`` along straight paths (Lipman et al. 2023, eq. 23; SiT, Ma et al. 2024, whose ``t`` runs
the other way). Times are drawn uniformly in both. Labels are dropped by hand for classifier-free
guidance, one draw for the whole network: diffusers' ``LabelEmbedding`` would drop them independently in every block, so
the transformer is kept in eval mode throughout (it has no other layer that knows the difference).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from manifoldgd import ranks
from manifoldgd.diffusion.flow import FlowSchedule
from manifoldgd.diffusion.samplers import Schedule
from manifoldgd.priors.autoencoder import exponential_average, warmup_cosine
from manifoldgd.randomness import generator


def build_transformer(
    *, latent_shape: tuple[int, int, int], num_classes: int, width: int, heads: int, layers: int, patch_size: int
) -> DiTTransformer2DModel:
    """A DiT (Peebles and Xie 2023) with as many channels out as in, with adaLN-zero initialisation."""
    channels, size, _ = latent_shape
    transformer = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        sample_size=size,
        patch_size=patch_size,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=num_classes,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    # Every block starts as the identity and the network as zero, which is what makes DiT train quickly.
    for block in transformer.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
    for layer in (transformer.proj_out_1, transformer.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return transformer.eval()


class DenoiserTraining(LightningModule):
    """Lightning's view of the transformer's training; ``average.module`` holds the weights to keep."""

    def __init__(
        self,
        transformer: DiTTransformer2DModel,
        latents: Tensor,  # [N, C, H, W] scaled
        labels: Tensor,  # [N]
        schedule: Schedule,
        *,
        lr: float,
        class_dropout: float,
        ema: float,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.average = AveragedModel(transformer, avg_fn=exponential_average(ema))
        self.latents, self.labels, self.schedule = latents, labels, schedule
        self.lr, self.class_dropout, self.steps, self.seed = lr, class_dropout, steps, seed

    def on_train_start(self) -> None:
        self.transformer.eval()

    def training_step(self, batch: tuple[int, Tensor]) -> Tensor:
        step, positions = batch
        draws = generator(self.seed, "denoiser", step)
        x0, labels = self.latents[positions.cpu()], self.labels[positions.cpu()]
        t = self.schedule.draw_timesteps(len(x0), draws)
        noise = torch.randn(x0.shape, generator=draws)
        dropped = torch.rand(len(x0), generator=draws) < self.class_dropout
        labels = torch.where(dropped, self.transformer.config.num_embeds_ada_norm, labels)
        alpha, sigma = (level.float().view(-1, 1, 1, 1) for level in self.schedule.levels(t))
        x_t, target = alpha * x0 + sigma * noise, noise - x0 if isinstance(self.schedule, FlowSchedule) else noise
        x_t, target, t, labels = (ranks.share(value).to(self.device) for value in (x_t, target, t, labels))
        loss = (self.transformer(x_t, timestep=t, class_labels=labels).sample - target).square().mean()
        self.log("mse", loss, prog_bar=True)
        return loss * (len(x_t) / len(positions))  # of the whole batch's mean, all ranks' add up to it

    def optimizer_step(self, *given: Any, **named: Any) -> None:
        super().optimizer_step(*given, **named)
        self.average.update_parameters(self.transformer)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.transformer.parameters(), lr=self.lr, betas=(0.9, 0.99), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, warmup=min(200, self.steps // 10 + 1), total=self.steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
