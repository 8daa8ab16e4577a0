"""How a neighbourhood shrinks over the first denoising steps (ManifoldGD, annealed radius).

Early, ``x_t`` is far from every prototype and a wide neighbourhood is wanted; after the warm-up the base size is kept.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

Annealing = Literal["exponential", "cosine", "linear"]
ANNEALINGS: tuple[str, ...] = get_args(Annealing)


def annealing_multiplier(
    kind: Annealing, index: int, num_steps: int, *, warmup_steps: int, max_multiplier: float
) -> float:
    """Factor on the base size at one step: ``max_multiplier`` at the first step, 1 after the warm-up.

    With ``p`` the share of the warm-up that is over, the excess ``max_multiplier - 1`` is multiplied by ``1 - p``
    (linear), ``(1 + cos(pi p)) / 2`` (cosine) or ``(exp(-p) - exp(-1)) / (1 - exp(-1))`` (exponential).

    Args:
        kind: shape of the fall.
        index: respaced index, ``num_steps - 1`` at the first step.
        num_steps: denoising steps.
        warmup_steps: steps until the base size is reached, >= 0; 0 is no annealing.
        max_multiplier: factor at the first step, >= 1.

    Example:
        >>> annealing_multiplier("linear", 48, 50, warmup_steps=5, max_multiplier=2.0)
        1.8
    """
    progress = min((num_steps - 1 - index) / warmup_steps, 1.0) if warmup_steps > 0 else 1.0
    if kind == "linear":
        share = 1 - progress
    elif kind == "cosine":
        share = (1 + math.cos(math.pi * progress)) / 2
    elif kind == "exponential":
        share = (math.exp(-progress) - math.exp(-1)) / (1 - math.exp(-1))
    else:
        raise ValueError(f"kind: expected one of {ANNEALINGS}, got {kind!r}")
    return 1 + (max_multiplier - 1) * share
