"""Matching guidance: the images of a class are guided together, towards the real distribution of the class.

Every guidance towards prototypes pulls each image towards its own and knows nothing of the other images. What a
student learns from is the set. This guidance follows the gradient of a set-level energy, the distance between synthetic
and real images in the features of random networks (Zhao & Bilen, *Dataset Condensation with Distribution Matching*,
WACV 2023), inside the sampler (the idea of guiding by a distribution instead of by points is also DMGD's). No network
is trained: neither the prior nor the random ones, and no student is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

from manifoldgd.diffusion.protocol import FeatureSpace
from manifoldgd.guidance.descent import SetDescent
from manifoldgd.ranges import checked


@checked
@dataclass(frozen=True, kw_only=True)
class MatchingGuidance(SetDescent):
    """Descent of :class:`manifoldgd.set_guidance.energy.MatchingEnergy`; for its numbers see :class:`SetDescent`."""

    @property
    def features(self) -> FeatureSpace | None:
        """The pool of random networks; without a rate there are no networks, and batches are the usual ones."""
        if self.rate == 0:
            return None
        return FeatureSpace(self.networks, self.width, self.real_per_class, pool_seed=self.pool_seed)
