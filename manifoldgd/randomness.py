"""Every random draw of the project comes from a key, never from global state.

A key is a seed followed by names and counters, for instance ``(seed, "sample", class_name, prototype, replica, step)``.
Equal keys give equal draws whatever the batch size, the number of devices, the class order or the point of restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manifoldgd import philox

Generator = Literal["philox4x32-10"]  # of noise clouds, where not torch's own


def derived_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on all parts of ``key`` and on their order."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by ``key``."""
    return torch.Generator().manual_seed(derived_seed(*key))


@dataclass(frozen=True)
class RowKey:
    """What identifies a synthetic image: its class by name, its prototype within the class, its replica."""

    class_name: str
    prototype: int
    replica: int = 0


@dataclass(frozen=True)
class RowNoise:
    """Noise for a batch in which every row has a stream of its own.

    Draws of torch's own generator, a Mersenne Twister, are made on the CPU, one row at a time at full shape
    (``torch.randn`` of a larger shape is not an extension of a smaller one), so they are the same on every device and
    in every batch. Those of :mod:`manifoldgd.philox` are made on the device and the same everywhere too.
    """

    seed: int
    rows: Sequence[RowKey]
    device: torch.device | str = "cpu"

    def normal(self, stream: str, step: int, shape: Sequence[int], drawn_by: Generator | None = None) -> Tensor:
        """Standard normal draws ``[B, *shape]`` for one purpose (``stream``) at one step.

        Args:
            stream: the purpose.
            step: the step.
            shape: of a row.
            drawn_by: another generator than torch's, with other draws.
        """
        keys = [(self.seed, stream, row.class_name, row.prototype, row.replica, step) for row in self.rows]
        if drawn_by == philox.NAME:
            return philox.normal([derived_seed(*key) for key in keys], shape, self.device)
        return torch.stack([torch.randn(*shape, generator=generator(*key)) for key in keys]).to(self.device)
