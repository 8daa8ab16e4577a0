"""Stable Diffusion 3: a flow whose transformer looks at the tokens of two CLIPs and, where it is there, of T5.

Source: Esser et al., *Scaling Rectified Flow Transformers*, 2024 (arXiv 2403.03206).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from manifoldgd.priors.text import Condition, Kind, encoder


@torch.inference_mode()
def _embed(folder: Path, index: Mapping[str, Any], prompts: Sequence[str | None]) -> Condition:
    from diffusers import StableDiffusion3Pipeline

    with_t5 = (folder / "text_encoder_3").is_dir()
    pipeline = StableDiffusion3Pipeline(
        transformer=None,
        scheduler=None,
        vae=None,
        text_encoder=encoder("CLIPTextModelWithProjection", folder / "text_encoder").eval(),
        tokenizer=encoder("CLIPTokenizer", folder / "tokenizer"),
        text_encoder_2=encoder("CLIPTextModelWithProjection", folder / "text_encoder_2").eval(),
        tokenizer_2=encoder("CLIPTokenizer", folder / "tokenizer_2"),
        text_encoder_3=encoder("T5EncoderModel", folder / "text_encoder_3").eval() if with_t5 else None,
        tokenizer_3=encoder("T5TokenizerFast", folder / "tokenizer_3") if with_t5 else None,
    )
    if not with_t5:  # zeros stand for its tokens, as wide as the transformer takes them
        width = json.loads((folder / "transformer" / "config.json").read_text("utf-8"))["joint_attention_dim"]
        object.__setattr__(pipeline, "transformer", SimpleNamespace(config=SimpleNamespace(joint_attention_dim=width)))
    texts = [text or "" for text in prompts]
    tokens, _, pooled, _ = pipeline.encode_prompt(texts, None, None, device="cpu", do_classifier_free_guidance=False)
    return {"tokens": tokens.float().clone(), "pooled": pooled.float().clone()}


def _denoise(network: Any, x_t: Tensor, timesteps: Tensor, told: Condition, pixels: int) -> Tensor:
    return network(
        hidden_states=x_t,
        timestep=timesteps,
        encoder_hidden_states=told["tokens"],
        pooled_projections=told["pooled"],
    ).sample


STABLE_DIFFUSION_3 = Kind(
    "SD3Transformer2DModel",
    "transformer",
    ("text_encoder", "text_encoder_2", "text_encoder_3"),
    7.0,
    _embed,
    _denoise,
)
