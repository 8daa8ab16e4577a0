"""The stretch of denoising steps in which a guidance acts, and numbers that several methods share."""

from __future__ import annotations

from typing import Annotated

from manifoldgd.diffusion.protocol import Step
from manifoldgd.errors import require
from manifoldgd.ranges import Range

TangentDim = Annotated[int, Range("[1, 1024]")]
Neighbours = Annotated[int, Range("[2, 2048]")]  # an eigendecomposition of this side for every latent and step
Neighbourhood = Annotated[int, Range("[2, 100000]")]  # real latents for every prototype of a batch
WarmupSteps = Annotated[int, Range("[0, 4000]")]
Multiplier = Annotated[float, Range("[1, 1000]")]  # 1 is no annealing


def acts(step: Step, t_stop: float) -> bool:
    """Whether guidance acts: from the first step on, while the respaced index is above ``t_stop`` of the steps.

    The paper's ``T_stop`` is an index, 25 of 50 in the released scripts. Here it is a *fraction* of the steps (0.5), so
    that it keeps its meaning when the number of steps changes. It is rounded to the nearest index.
    """
    return step.index > round(t_stop * step.num_steps)


def check_tangent(tangent_dim: int, neighbours: int, neighbourhood: int, neighbourhood_key: str) -> None:
    """Raise ``UserError`` unless ``tangent_dim < neighbours <= neighbourhood``."""
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
