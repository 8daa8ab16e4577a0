"""Images to scaled latents, once: Lightning's predict step over the training split, batch after batch in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from manifoldgd import ranks
from manifoldgd.dataset import Split
from manifoldgd.memory import AtOnce
from manifoldgd.priors.prior import Prior


class Encoder(LightningModule):
    """Loads the images of a batch of positions and encodes them.

    Args:
        prior: its autoencoder encodes.
        split: the images.
        at_once: images that the encoder takes at a time; a batch may be larger.
    """

    def __init__(self, prior: Prior, split: Split, at_once: int) -> None:
        super().__init__()
        self._at_once = AtOnce(at_once, "encoding")
        self.autoencoder = prior.autoencoder  # registered, so that Lightning moves it
        self.prior, self.split = prior, split

    def predict_step(self, positions: Tensor) -> Tensor:
        return self._at_once(self.prior.encode, self.split.load(positions.cpu()).to(self.device)).float()


class LatentWriter(Callback):
    """Hands on each batch of latents as soon as it is there, on the first rank; nothing piles up in memory.

    Args:
        append: takes the batches in order.
        sizes: images of each batch, of all ranks.
    """

    def __init__(self, append: Callable[[Tensor], None], sizes: list[int]) -> None:
        self.append, self.sizes = append, sizes

    def on_predict_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Tensor, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        first = batch_idx * ranks.count()
        for latents in ranks.gathered(outputs.cpu(), self.sizes[first : first + ranks.count()]):
            self.append(latents)


def encode_split(
    prior: Prior,
    split: Split,
    append: Callable[[Tensor], None],
    *,
    start: int,
    batch_size: int,
    trainer: dict[str, Any],
) -> None:
    """Encode the images of ``split`` from position ``start`` on, in order.

    Args:
        prior: its autoencoder encodes.
        split: the images; a broken one raises :class:`UserError` naming it.
        append: takes the scaled latents ``[n, C, H, W]`` float32 of each batch, on the CPU.
        start: a multiple of ``batch_size``, so that the batches, and with them the latents to the last bit, are those
            of an encoding from the beginning.
        batch_size: images a batch.
        trainer: arguments of Lightning's Trainer (accelerator, devices, precision, progress); with several devices each
            rank calls this, and the first appends what all encode.
    """
    if start == len(split):
        return
    batches: Any = list(torch.arange(start, len(split)).split(batch_size))  # dataset enough for a loader
    runner = Trainer(callbacks=[LatentWriter(append, [len(batch) for batch in batches])], **trainer)
    runner.predict(Encoder(prior, split, batch_size), DataLoader(batches, batch_size=None), return_predictions=False)
