"""Repulsion guidance: the images of a class keep their distance, so that together they cover more of it.

Images that are sampled on their own come out alike. Sampling them together with a potential that pushes them apart is
particle guidance (Corso et al., *Particle Guidance*, ICLR 2024, arXiv 2310.13102). Here the potential acts on the clean
latents that a sampler predicts in its last steps. It needs no networks, no real images, and no labels but the class.
"""

from __future__ import annotations

from dataclasses import dataclass

from manifoldgd.diffusion.protocol import LatentSpace
from manifoldgd.guidance.descent import Descent
from manifoldgd.ranges import checked


@checked
@dataclass(frozen=True, kw_only=True)
class RepulsionGuidance(Descent):
    """Descent of :class:`manifoldgd.set_guidance.repulsion.RepulsionEnergy`; for its numbers see :class:`Descent`.

    The energy has no minimum at a finite distance, so ``rate * inner_steps`` times the steps that it acts in bounds how
    far the images go.
    """

    @property
    def features(self) -> LatentSpace | None:
        """The latents; without a rate batches are the usual ones."""
        return LatentSpace() if self.rate > 0 else None
