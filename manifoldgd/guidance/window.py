"""The stretch of denoising steps in which a guidance acts, and the checks of numbers that all methods share."""

from __future__ import annotations

from collections.abc import Sequence

from manifoldgd.diffusion.protocol import Step
from manifoldgd.errors import require


def acts(step: Step, t_stop: float) -> bool:
    """Whether guidance acts: from the first step on, while the respaced index is above ``t_stop`` of the steps.

    The paper's ``T_stop`` is an index, 25 of 50 in the released scripts. Here it is a *fraction* of the steps (0.5), so
    that it keeps its meaning when the number of steps changes. It is rounded to the nearest index.
    """
    return step.index > round(t_stop * step.num_steps)


def check_scale(key: str, value: float) -> None:
    """Raise ``UserError`` unless a guidance scale is >= 0."""
    require(value >= 0, f"{key}: needs to be >= 0 (a negative scale pushes away), got {value}; 0 switches it off")


def check_positive(key: str, value: float) -> None:
    """Raise ``UserError`` unless a length or a count is > 0."""
    require(value > 0, f"{key}: needs to be > 0, got {value}; raise it")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``UserError`` unless ``value`` is one of ``choices``."""
    require(value in choices, f"{key}: expected one of {', '.join(choices)}, got {value}; choose one of these")


def check_window(t_stop: float) -> None:
    """Raise ``UserError`` unless ``t_stop`` is a fraction of the steps."""
    require(
        0 <= t_stop <= 1,
        f"guidance.t_stop: needs to be a fraction of the steps in [0, 1], got {t_stop}; index 25 of 50 steps is 0.5",
    )


def check_share(uniform_share: float) -> None:
    """Raise ``UserError`` unless the part of the posterior's weight that is spread equally is a share."""
    require(
        0 <= uniform_share <= 1,
        f"guidance.uniform_share: needs to be in [0, 1], got {uniform_share}; 0 is the posterior alone",
    )


def check_annealing(warmup_steps: int, max_multiplier: float) -> None:
    """Raise ``UserError`` unless the annealing's numbers are in range."""
    require(warmup_steps >= 0, f"guidance.warmup_steps: needs to be >= 0, got {warmup_steps}; 0 is no annealing")
    require(max_multiplier >= 1, f"guidance.max_multiplier: needs to be >= 1, got {max_multiplier}; 1 is no annealing")


def check_tangent(tangent_dim: int, neighbours: int, neighbourhood: int, neighbourhood_key: str) -> None:
    """Raise ``UserError`` unless ``1 <= tangent_dim < neighbours <= neighbourhood``."""
    check_positive("guidance.tangent_dim", tangent_dim)
    require(
        tangent_dim < neighbours,
        f"guidance.tangent_dim: needs to be smaller than guidance.neighbours, got tangent_dim={tangent_dim}, "
        f"neighbours={neighbours}; lower tangent_dim or raise neighbours",
    )
    require(
        neighbours <= neighbourhood,
        f"guidance.neighbours: needs to be at most {neighbourhood_key}, got neighbours={neighbours}, "
        f"{neighbourhood_key.removeprefix('guidance.')}={neighbourhood}; lower neighbours or raise the other",
    )
