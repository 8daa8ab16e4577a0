"""Images to scaled latents, once: Lightning's predict step over the training split into a memory-mapped file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import DataLoader

from manifoldgd.dataset import Split
from manifoldgd.priors.prior import Prior


class Encoder(LightningModule):
    """Loads the images of a batch of positions and encodes them."""

    def __init__(self, prior: Prior, split: Split) -> None:
        super().__init__()
        self.autoencoder = prior.autoencoder  # registered, so that Lightning moves it
        self.prior, self.split = prior, split

    def predict_step(self, positions: Tensor) -> Tensor:
        return self.prior.encode(self.split.load(positions.cpu()).to(self.device)).float()


class LatentWriter(BasePredictionWriter):
    """Puts each batch of latents at its rows of the file."""

    def __init__(self, target: np.ndarray, on_batch: Callable[[], None]) -> None:
        super().__init__(write_interval="batch")
        self.target, self.on_batch = target, on_batch

    def write_on_batch_end(
        self, trainer: Trainer, module: LightningModule, prediction: Tensor, indices: Any, batch: Tensor, *_: Any
    ) -> None:
        self.target[batch.cpu().numpy()] = prediction.cpu().numpy()
        self.on_batch()


def encode_split(
    prior: Prior, split: Split, file: Path, *, batch_size: int, on_batch: Callable[[], None], trainer: dict[str, Any]
) -> None:
    """Write the scaled latents ``[N, C, H, W]`` float32 of ``split`` to ``file`` in NumPy's format.

    Args:
        prior: its autoencoder encodes.
        split: the images; a broken one raises :class:`UserError` naming it.
        file: written in place; the caller moves it where it belongs when complete.
        batch_size: images a batch.
        on_batch: called after each batch.
        trainer: arguments of Lightning's Trainer (accelerator, devices, precision, progress).
    """
    target = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(len(split), *prior.latent_shape))
    loader = DataLoader(torch.arange(len(split)), batch_size=batch_size)
    Trainer(callbacks=[LatentWriter(target, on_batch)], **trainer).predict(
        Encoder(prior, split), loader, return_predictions=False
    )
    target.flush()
