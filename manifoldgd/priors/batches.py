"""An endless, restartable stream of training batches.

Batch ``s`` depends on (seed, s) alone, so a run that stopped at step ``s`` continues with the batch it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from manifoldgd.randomness import generator


class StepBatches(IterableDataset):
    """Yields ``(step, positions [batch_size])`` for steps ``first ... last - 1``; every epoch is a new permutation."""

    def __init__(self, *, num_items: int, batch_size: int, seed: int, first: int, last: int) -> None:
        super().__init__()
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.first, self.last = first, last

    def positions(self, step: int) -> Tensor:
        """The items of one step; a batch may reach into the next epoch's permutation."""
        start = step * self.batch_size
        stop = start + self.batch_size
        epochs = range(start // self.num_items, (stop - 1) // self.num_items + 1)
        order = torch.cat([torch.randperm(self.num_items, generator=generator(self.seed, "epoch", e)) for e in epochs])
        offset = start - epochs[0] * self.num_items
        return order[offset : offset + self.batch_size]

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for step in range(self.first, self.last):
            yield step, self.positions(step)

    def loader(self) -> DataLoader:
        """A loader that passes the batches through as they are."""
        return DataLoader(self, batch_size=None)
