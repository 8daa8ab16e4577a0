"""Stable Diffusion 1.x, 2.x and XL: a UNet that looks at the tokens of a prompt.

Sources: Rombach et al. 2022 (arXiv 2112.10752); Podell et al., *SDXL*, 2023 (arXiv 2307.01952), section 2.2 for the
sizes that the network is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifoldgd.priors.text import Condition, Kind, encoder


@torch.inference_mode()
def _embed(folder: Path, index: Mapping[str, Any], prompts: Sequence[str | None]) -> Condition:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=None,
        text_encoder=encoder("CLIPTextModel", folder / "text_encoder").eval(),
        tokenizer=encoder("CLIPTokenizer", folder / "tokenizer"),
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    tokens, _ = pipeline.encode_prompt([text or "" for text in prompts], "cpu", 1, False)
    return {"tokens": tokens.float().clone()}


def _denoise(network: Any, x_t: Tensor, timesteps: Tensor, told: Condition, pixels: int) -> Tensor:
    return network(x_t, timesteps, encoder_hidden_states=told["tokens"]).sample


@torch.inference_mode()
def _embed_xl(folder: Path, index: Mapping[str, Any], prompts: Sequence[str | None]) -> Condition:
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline(
        vae=None,
        text_encoder=encoder("CLIPTextModel", folder / "text_encoder").eval(),
        text_encoder_2=encoder("CLIPTextModelWithProjection", folder / "text_encoder_2").eval(),
        tokenizer=encoder("CLIPTokenizer", folder / "tokenizer"),
        tokenizer_2=encoder("CLIPTokenizer", folder / "tokenizer_2"),
        unet=None,
        scheduler=None,
        add_watermarker=False,
    )
    tokens, _, pooled, _ = pipeline.encode_prompt(
        [text or "" for text in prompts], device="cpu", do_classifier_free_guidance=False
    )
    if index.get("force_zeros_for_empty_prompt", True):  # as the network was trained without words
        said = torch.tensor([text is not None for text in prompts])
        tokens, pooled = tokens * said[:, None, None], pooled * said[:, None]
    return {"tokens": tokens.float().clone(), "pooled": pooled.float().clone()}


def _denoise_xl(network: Any, x_t: Tensor, timesteps: Tensor, told: Condition, pixels: int) -> Tensor:
    # Height and width of the original, what was cropped at the top and left, height and width that are wanted.
    sizes = x_t.new_tensor([pixels, pixels, 0, 0, pixels, pixels]).expand(len(x_t), -1)
    added = {"text_embeds": told["pooled"], "time_ids": sizes}
    return network(x_t, timesteps, encoder_hidden_states=told["tokens"], added_cond_kwargs=added).sample


STABLE_DIFFUSION = Kind("UNet2DConditionModel", "unet", ("text_encoder",), 7.5, _embed, _denoise)
STABLE_DIFFUSION_XL = Kind(
    "UNet2DConditionModel", "unet", ("text_encoder", "text_encoder_2"), 5.0, _embed_xl, _denoise_xl
)
