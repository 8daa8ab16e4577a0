"""PixArt-alpha and PixArt-Sigma: a diffusion transformer that looks at the tokens of T5.

Sources: Chen et al., *PixArt-alpha*, 2023 (arXiv 2310.00426); *PixArt-Sigma*, 2024 (arXiv 2403.04692).
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
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline

    made = PixArtSigmaPipeline if index["_class_name"] == "PixArtSigmaPipeline" else PixArtAlphaPipeline
    pipeline = made(
        tokenizer=encoder("T5Tokenizer", folder / "tokenizer"),
        text_encoder=encoder("T5EncoderModel", folder / "text_encoder").eval(),
        vae=None,
        transformer=None,
        scheduler=None,
    )
    tokens, mask, _, _ = pipeline.encode_prompt(
        [text or "" for text in prompts], do_classifier_free_guidance=False, device="cpu"
    )
    return {"tokens": tokens.float().clone(), "mask": mask.clone()}


def _denoise(network: Any, x_t: Tensor, timesteps: Tensor, told: Condition, pixels: int) -> Tensor:
    sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if network.use_additional_conditions:
        sizes = {"resolution": x_t.new_full((len(x_t), 2), pixels), "aspect_ratio": x_t.new_ones(len(x_t), 1)}
    return network(
        x_t,
        encoder_hidden_states=told["tokens"],
        encoder_attention_mask=told["mask"],
        timestep=timesteps,
        added_cond_kwargs=sizes,
    ).sample


PIXART = Kind("PixArtTransformer2DModel", "transformer", ("text_encoder",), 4.5, _embed, _denoise)
