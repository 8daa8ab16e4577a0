"""Transport guidance: the images of a class share out weighted centres of the real ones by optimal transport.

Mode guidance gives every image one prototype, whatever the share of the class that it stands for. Here every step
transports the predicted clean latents of a class to many centres, each weighted by its cluster's share, and pulls each
latent to the mean of what it got. This is DMGD's distribution matching (*Train-Free Dataset Distillation with
Semantic-Distribution Matching in Diffusion Models*, Wang et al. 2026, arXiv 2605.03877), after its description:
weighted centres in place of the real distribution, optimal transport to them as guidance. It departs: the plan is
entropic; all images of a class move at once, where DMGD matches them progressively, one part after another; and its
semantic matching and dynamic labels, which act on the prior's conditioning, are left to the class label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch

from manifoldgd.diffusion.protocol import Anchors, Pull, SetEnergy, Step, TransportSpace
from manifoldgd.guidance.window import acts
from manifoldgd.ranges import Range, Share, Strength, checked


@checked
@dataclass(frozen=True, kw_only=True)
class TransportGuidance:
    """``pull = scale * (T(x0) - x0)``: descent of :class:`manifoldgd.set_guidance.transport.TransportEnergy`.

    Attributes:
        scale: strength, >= 0; 0 is the unguided run bit for bit.
        clusterer: that finds the centres of each class, a ``manifoldgd.prototypes.Clusterer``.
        centres: of each class, >= 1.
        regularisation: of the transport plan, > 0, share of the mean cost.
        t_stop: fraction of the steps, in [0, 1], at which guidance ends.
    """

    scale: Strength
    clusterer: Any
    centres: Annotated[int, Range("[1, 10000]")]
    regularisation: Annotated[float, Range("[0.0001, 1000]")]  # below, its exponentials underflow
    t_stop: Share
    neighbourhood: ClassVar[int] = 0

    @property
    def features(self) -> TransportSpace | None:
        """The centres; without a scale there are none, and batches are the usual ones."""
        return TransportSpace(self.clusterer, self.centres, self.regularisation) if self.scale > 0 else None

    def evaluations(self, steps: int, taken: int) -> int:
        """One a guided step."""
        return max(0, taken - 1 - round(self.t_stop * steps))

    def bind(self, anchors: Anchors) -> _BoundTransport:
        """The guidance down ``anchors.energy``."""
        if anchors.energy is None and self.scale > 0:
            raise ValueError("energy: expected the transport energy of the batch, got None")
        return _BoundTransport(self, anchors.energy)


@dataclass(frozen=True)
class _BoundTransport:
    method: TransportGuidance
    energy: SetEnergy | None  # None where the scale is 0

    def __call__(self, step: Step) -> Pull | None:
        if self.energy is None or self.method.scale == 0 or not acts(step, self.method.t_stop):
            return None
        with torch.enable_grad():
            variable = step.x0.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.energy(variable, step.index), variable)
        return Pull(scaled=-self.method.scale * gradient, plain=None, kept=None)
