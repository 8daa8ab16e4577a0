"""Priors of full size with random weights: as fast and as large as the real ones, which need a download."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from torch import nn

from manifoldgd.artifacts import Key
from manifoldgd.diffusion.schedule import NoiseSchedule
from manifoldgd.priors.prior import Prior

# facebook/DiT-XL-2-256: 675 million parameters, 28 blocks of width 1152, latents of 4x32x32, learned variance.
DIT_XL_2 = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28}
# 33 million parameters on the same latents: what two cores can step in seconds.
DIT_S_2 = {"num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 12}
# stabilityai/sd-vae-ft-mse: 84 million parameters, images of 256x256 to latents of 4x32x32.
SD_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 256,
    "scaling_factor": 0.18215,
}


def dit(size: dict[str, int], device: torch.device) -> DiTTransformer2DModel:
    """A DiT for 4x32x32 latents and ImageNet's classes, in which every input matters."""
    with torch.device(device):
        network = DiTTransformer2DModel(
            **size,
            in_channels=4,
            out_channels=8,
            sample_size=32,
            patch_size=2,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_zero",
            norm_elementwise_affine=False,
        )
    return network.requires_grad_(False).eval()


def sd_vae(device: torch.device) -> AutoencoderKL:
    """Stable Diffusion's autoencoder."""
    with torch.device(device):
        return AutoencoderKL(**SD_VAE).requires_grad_(False).eval()


def prior(transformer: nn.Module, autoencoder: nn.Module) -> Prior:
    """Both as a prior with DiT's schedule and numbers."""
    return Prior(
        name="lookalike",
        key=Key("lookalike"),
        autoencoder_key="lookalike",
        autoencoder=autoencoder,
        network=transformer,
        schedule=NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="linear", num_timesteps=1000),
        class_names=tuple(map(str, range(1000))),
        null_class=1000,
        variance="learned_range",
        cfg_channels=3,
        cfg_scale=4.0,
    )
