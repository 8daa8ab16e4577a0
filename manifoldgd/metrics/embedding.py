"""Embeddings of image sets by a network that the caller states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def embed(network_features: Callable[[Tensor], Tensor], images: Tensor, *, batch_size: int = 256) -> Tensor:
    """Embed a set of images.

    Args:
        network_features: ``[b, C, H, W]`` uint8 -> ``[b, ...]`` floating point features, flattened here to ``[b, E]``.
            It owns scaling, normalisation and device, and treats every image on its own (a network with batch
            statistics has to be in evaluation mode).
        images: ``[n, C, H, W]`` uint8 in [0, 255].
        batch_size: Images a call.

    Returns:
        ``[n, E]`` float32 on the CPU, without gradient.

    Raises:
        ValueError: Images of another dtype or shape, no images, or features that are not finite.

    Example:
        >>> images = torch.arange(6, dtype=torch.uint8).reshape(3, 1, 1, 2)
        >>> embed(lambda batch: batch.float().mean((2, 3)), images, batch_size=2).tolist()
        [[0.5], [2.5], [4.5]]
    """
    if images.ndim != 4 or images.dtype != torch.uint8 or not len(images):
        raise ValueError(f"images: expected uint8 [n, C, H, W], n >= 1, got {images.dtype} {tuple(images.shape)}")
    with torch.no_grad():
        parts = [network_features(batch).flatten(1).float().cpu() for batch in images.split(batch_size)]
    embeddings = torch.cat(parts)
    if not bool(torch.isfinite(embeddings).all()):
        raise ValueError("network_features: expected finite features, got NaN or infinity")
    return embeddings
