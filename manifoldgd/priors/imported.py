"""Weights of DiT and SiT as their authors publish them, written as a prior of ours.

Both are one transformer with one naming of its weights. A DiT predicts noise; a SiT the velocity ``x0 - eps`` of a
straight path whose time runs from 0 (noise) to 1 (image), so its sign and its time are turned round here. Both count
the frequencies of their time's embedding otherwise than diffusers' class does, which the scheduler's config notes.

Sources: Peebles and Xie, *Scalable Diffusion Models with Transformers*, 2023; Ma et al., *SiT*, 2024; the names of the
weights: github.com/facebookresearch/DiT and github.com/willisma/SiT, ``models.py``.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from manifoldgd.archives import load_archive
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_write_json, atomic_write_text
from manifoldgd.priors.loading import CARD
from manifoldgd.priors.training import PathKind
from manifoldgd.priors.weights import write_checksums

HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}  # by width: XL, L, B, S
AUTOENCODER = "stabilityai/sd-vae-ft-ema"  # what both were trained on
LICENCES = {
    "diffusion": "CC BY-NC 4.0, says github.com/facebookresearch/DiT",
    "flow": "that of github.com/willisma/SiT; read it there before use",
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "diffusion": {
        "_class_name": "DDPMScheduler",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "variance_type": "learned_range",
        "clip_sample": False,
        "timestep_spacing": "linspace",
        "frequency_shift": 0,
    },
    "flow": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "told_at_ends": [1.0, 0.0],  # at an image, at noise
        "frequency_shift": 0,
    },
}


def import_weights_file(
    file: Path, folder: Path, *, path: PathKind, heads: int | None, class_names: Sequence[str] | None
) -> Path:
    """Write a state dict of DiT or SiT as a prior in diffusers format, which ``load_prior`` reads.

    Args:
        file: of the weights; read as weights alone, nothing in it is run.
        folder: where the prior goes; must not exist.
        path: what was trained: a diffusion (DiT) or a flow (SiT).
        heads: of attention, which no weight tells; ``None`` for those of the published sizes.
        class_names: by label; ``None`` for numbers.

    Raises:
        UserError: the file cannot be read, or does not hold what such a network consists of.
    """
    require(not folder.exists(), f"{folder} is there already; choose another one or remove it", key="output")
    weights = _read(file)
    transformer = _network(file, weights, heads)
    with torch.no_grad():
        transformer.load_state_dict(_renamed(weights, len(transformer.transformer_blocks)))
        if path == "flow":  # from towards the image to towards the noise
            for each in (transformer.proj_out_2.weight, transformer.proj_out_2.bias):
                each.neg_()
    count = transformer.config.num_embeds_ada_norm
    names = class_names if class_names is not None and len(class_names) == count else range(count)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    transformer.save_pretrained(partial / "transformer")
    atomic_write_json(partial / "scheduler" / "scheduler_config.json", SCHEDULERS[path])
    index = {"_class_name": "DiTPipeline", "id2label": {str(label): str(name) for label, name in enumerate(names)}}
    atomic_write_json(partial / "model_index.json", index)
    card = {"imported_from": file.name, "path": path, "licence": LICENCES[path], "autoencoder": AUTOENCODER}
    recommended = {"cfg_scale": 4.0, "cfg_channels": min(3, transformer.config.in_channels)}  # their sampling scripts
    atomic_write_json(partial / CARD, card | recommended)
    atomic_write_text(partial / "README.md", _readme(card))
    write_checksums(partial)
    partial.replace(folder)
    return folder


def _read(file: Path) -> dict[str, Tensor]:
    require(file.is_file(), f"{file} is no file; give one such as DiT-XL-2-256x256.pt", key="import")
    try:
        held = load_archive(file, mmap=True)
    except Exception as error:  # pickle's, zip's and torch's own, whatever is in the file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{file} cannot be read as weights alone ({reason}); fetch it again, or save its state dict by torch.save",
            key="import",
        ) from error
    if isinstance(held, dict) and isinstance(held.get("ema"), dict):  # a training's checkpoint
        held = held["ema"]
    usable = isinstance(held, dict) and bool(held) and all(isinstance(each, Tensor) for each in held.values())
    require(usable, f"{file} holds no weights by name; give a state dict of DiT or SiT", key="import")
    return held


def _network(file: Path, weights: Mapping[str, Tensor], heads: int | None) -> DiTTransformer2DModel:
    """The network that these weights are of, with weights of its own; raises where names or shapes are others."""
    first, table = weights.get("x_embedder.proj.weight"), weights.get("y_embedder.embedding_table.weight")
    places, last = weights.get("pos_embed"), weights.get("final_layer.linear.weight")
    given = first is not None and table is not None and places is not None and last is not None
    dimensions = [each.ndim for each in (first, table, places, last) if each is not None]
    require(
        given and dimensions == [4, 2, 3, 2],
        f"{file} lacks what a DiT or SiT begins and ends with (x_embedder, y_embedder, pos_embed, final_layer), or has "
        "it in other shapes; give such weights",
        key="import",
    )
    assert first is not None
    assert table is not None
    assert places is not None
    assert last is not None
    width, channels, patch, _ = first.shape
    heads = heads or HEADS.get(width)
    require(
        heads is not None and width % heads == 0,
        f"expected a divisor of {width}, the width of {file}, got {heads}; it is no published size, so set heads=N",
        key="heads",
    )
    assert heads is not None
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    network = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=channels,
        out_channels=last.shape[0] // patch**2,
        num_layers=depth,
        sample_size=math.isqrt(places.shape[1]) * patch,
        patch_size=patch,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=len(table) - 1,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    expected = {name: tuple(each.shape) for name, each in network.state_dict().items()}
    renamed = _renamed(weights, depth)
    wrong = sorted(
        f"{name} {tuple(renamed[name].shape) if name in renamed else 'missing'}"
        for name in {*expected, *renamed}
        if name not in renamed or expected.get(name) != tuple(renamed[name].shape)
    )
    require(
        not wrong,
        f"{file} does not fit a transformer of width {width}, {depth} blocks and patches of {patch}: {len(wrong)} "
        f"weights differ, the first is {wrong[0] if wrong else ''}; give weights of DiT or SiT as published",
        key="import",
    )
    table_of_places = network.pos_embed.pos_embed
    same = table_of_places.shape == places.shape and torch.allclose(table_of_places, places.float(), atol=1e-4)
    require(same, f"{file} embeds places otherwise than by sines and cosines; give weights as published", key="import")
    return network.eval()


_OF_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_OF_ALL = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_OF_TIME = {"t_embedder.mlp.0": "linear_1", "t_embedder.mlp.2": "linear_2"}


def _renamed(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The weights by diffusers' names, of which each block has its own embeddings of time and label."""
    found: dict[str, Tensor] = {}
    for name, each in weights.items():
        stem, _, kind = name.rpartition(".")
        if name == "pos_embed":
            continue
        if stem in _OF_ALL:
            found[f"{_OF_ALL[stem]}.{kind}"] = each
        elif stem in _OF_TIME or stem == "y_embedder.embedding_table":
            inner = f"timestep_embedder.{_OF_TIME[stem]}" if stem in _OF_TIME else "class_embedder.embedding_table"
            for block in range(depth):
                found[f"transformer_blocks.{block}.norm1.emb.{inner}.{kind}"] = each
        elif stem.startswith("blocks."):
            _, number, part = stem.split(".", 2)
            if part == "attn.qkv":
                for letter, third in zip("qkv", each.chunk(3), strict=False):
                    found[f"transformer_blocks.{number}.attn1.to_{letter}.{kind}"] = third
            else:
                found[f"transformer_blocks.{number}.{_OF_BLOCK.get(part, part)}.{kind}"] = each
        else:
            found[name] = each  # of no such network
    return found


def _readme(card: Mapping[str, Any]) -> str:
    kind = {"diffusion": "DiT, which predicts noise", "flow": "SiT, which predicts the velocity of a flow"}
    return f"""# Imported prior: {card["imported_from"]}

{kind[card["path"]]}. Diffusers format: `transformer/`, `scheduler/`; written by `manifoldgd prior import`.

| | |
|---|---|
| licence of the weights | {card["licence"]} |
| autoencoder | `{card["autoencoder"]}`, fetched from the hub; `prior.autoencoder=FOLDER` takes one on disk |
| sampler | {"`sampler=ddpm` or `ddim`" if card["path"] == "diffusion" else "`sampler=euler`"} |

diffusers' own pipeline counts the frequencies of the time's embedding otherwise and would draw other images of it.
"""
