"""Guidance by the denoiser's own features: each image becomes more like the real ones of its class there.

The middle of a diffusion network holds what is in a picture. DAP (*Diffusion Models as Dataset Distillation Priors*, Su
et al. 2026, arXiv 2510.17421) takes a kernel distance between synthetic and real images there as an energy and follows
its gradient while sampling; no other network is needed. It departs from that description: clean latents are compared,
at one low noise level, as everywhere here; the real side is a fixed sample of the class; and the gradient is followed
by Adam in the last steps, like every energy here, so that its unit does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from manifoldgd.diffusion.protocol import DenoiserSpace
from manifoldgd.guidance.descent import Descent
from manifoldgd.ranges import Range, checked


@checked
@dataclass(frozen=True, kw_only=True)
class DenoiserFeatureGuidance(Descent):
    """Descent of :class:`manifoldgd.set_guidance.denoiser.DenoiserEnergy`; for its other numbers see :class:`Descent`.

    Attributes:
        space: which features, a ``manifoldgd.prototypes.DenoiserFeatures``.
        real_per_class: real images of each class that images are compared with, >= 2.
    """

    space: Any
    real_per_class: Annotated[int, Range("[2, 1000000]")]

    @property
    def features(self) -> DenoiserSpace | None:
        """The denoiser's features; ``None`` without a rate."""
        return DenoiserSpace(self.space, self.real_per_class) if self.rate > 0 else None
