"""NaN and infinity, found where they arise: one wrong number in a network's output turns black in the next image."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldgd.errors import RunError


class NotFinite(RunError):
    """Numbers that are NaN or infinite.

    Attributes:
        rows: which rows of the tensor, in order.
    """

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows


def row_sums(values: Tensor) -> Tensor:
    """``[n, ...]`` -> ``[n]`` float32: finite where every number of the row is. One reduction, and nothing is read.

    A sum over finite numbers that leaves the range of single precision counts as infinite too; such numbers have no
    place in latents, pixels or features.
    """
    return values.flatten(1).sum(1, dtype=torch.float32)


def check_finite(values: Tensor, what: str, remedy: str) -> None:
    """Raise :class:`NotFinite` unless all numbers of ``values`` ``[n, ...]`` are finite; on a GPU this waits for it.

    Args:
        values: floating point.
        what: what gave them, the subject of the message.
        remedy: the likely cause and what to do.
    """
    rows = (~row_sums(values).isfinite()).nonzero().flatten().tolist()
    if rows:
        raise NotFinite(
            f"{what}: NaN or infinity in {len(rows)} of {len(values)}, the first is number {rows[0]}; {remedy}", rows
        )
