"""A guidance of one's own, in one's own file: a pull onto the mean of the real latents around each prototype.

A guidance holds its numbers and says how many real latents it wants around each prototype. It is bound to the
prototypes of a batch, and what comes of that is called at every step. From Python it is one of the arguments of
``step_by_step.py``::

    mgd.synthesise(..., guidance=NeighbourhoodMean(scale=0.1, t_stop=0.5, neighbourhood=20))

On the command line a file names it (``conf/guidance/neighbourhood_mean.yaml`` beside this one), and who starts the
command allows it::

    export PYTHONPATH=examples
    manifoldgd run --config-dir examples/conf guidance=neighbourhood_mean allow_targets=[own_guidance.NeighbourhoodMean]
"""

from collections.abc import Callable
from dataclasses import dataclass

from manifoldgd.diffusion.protocol import Anchors, Pull, Step


@dataclass(frozen=True, kw_only=True)
class NeighbourhoodMean:
    """``pull = scale * (mean of the neighbourhood - x0)``."""

    scale: float  # strength, 0 is unguided
    t_stop: float  # fraction of the steps at which guidance ends
    neighbourhood: int  # real latents around each prototype

    def bind(self, anchors: Anchors) -> Callable[[Step], Pull | None]:
        assert anchors.neighbourhoods is not None  # they are there where `neighbourhood` asks for some
        means = anchors.neighbourhoods.mean(dim=1).view_as(anchors.prototypes)  # [B, M, D] -> [B, C, H, W]

        def pull(step: Step) -> Pull | None:
            if step.index <= self.t_stop * step.num_steps:
                return None  # the step stays as it is, bit for bit
            return Pull(scaled=self.scale * (means - step.x0), plain=None, kept=None)

        return pull
