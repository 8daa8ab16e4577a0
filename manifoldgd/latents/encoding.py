"""Images to scaled latents, once: Lightning's predict step over the training split, batch after batch in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from manifoldgd import ranks
from manifoldgd.dataset import Split
from manifoldgd.memory import AtOnce
from manifoldgd.priors.prior import Prior


class ReadAhead:
    """The images of one batch after the other, for a Lightning loop; while one is encoded the next is read.

    Args:
        split: the images.
        batches: positions of each batch.
        pinned: whether to read into memory from which a GPU fetches beside its work.
    """

    def __init__(self, split: Split, batches: Sequence[Tensor], *, pinned: bool) -> None:
        self.split, self.batches, self.pinned = split, batches, pinned

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        thread = ThreadPoolExecutor(1, "reading")
        try:
            coming: Future[Tensor] | None = None
            for batch, following in zip_longest(self.batches, self.batches[1:]):
                # The first one here: it may have all images decoded, which a signal has to end.
                images = self._read(batch) if coming is None else coming.result()
                coming = None if following is None else thread.submit(self._read, following)
                yield images
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, positions: Tensor) -> Tensor:
        images = self.split.load(positions)
        return images.pin_memory() if self.pinned else images


class Encoder(LightningModule):
    """Encodes the images of a batch.

    Args:
        prior: its autoencoder encodes.
        at_once: images that the encoder takes at a time; a batch may be larger.
    """

    def __init__(self, prior: Prior, at_once: int) -> None:
        super().__init__()
        self._at_once = AtOnce(at_once, "encoding")
        self.autoencoder = prior.autoencoder  # registered, so that Lightning moves it
        self.prior = prior

    def predict_step(self, images: Tensor) -> Tensor:
        return self._at_once(self.prior.encode, images).float()


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
    batches = list(torch.arange(start, len(split)).split(batch_size))
    runner = Trainer(callbacks=[LatentWriter(append, [len(batch) for batch in batches])], **trainer)
    pinned = runner.strategy.root_device.type == "cuda"
    images = ReadAhead(split, ranks.share(batches), pinned=pinned)
    runner.predict(Encoder(prior, batch_size), images, return_predictions=False)
