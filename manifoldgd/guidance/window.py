"""The stretch of denoising steps in which a guidance acts, and numbers that several methods share."""

from __future__ import annotations

from typing import Annotated

from manifoldgd.diffusion.protocol import Step
from manifoldgd.ranges import Range

WarmupSteps = Annotated[int, Range("[0, 4000]")]
Multiplier = Annotated[float, Range("[1, 1000]")]  # 1 is no annealing


def acts(step: Step, t_stop: float) -> bool:
    """Whether guidance acts: from the first step on, while the respaced index is above ``t_stop`` of the steps.

    The paper's ``T_stop`` is an index, 25 of 50 in the released scripts. Here it is a *fraction* of the steps (0.5), so
    that it keeps its meaning when the number of steps changes. It is rounded to the nearest index.
    """
    return step.index > round(t_stop * step.num_steps)
