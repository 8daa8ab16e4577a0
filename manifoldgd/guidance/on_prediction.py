r"""Any guidance, acting on the predicted clean latent instead of on the posterior mean.

ManifoldGD (arXiv 2602.23295) adds its DDPM pull to the posterior mean, times ``sigma_t``. ``x0`` enters that mean with
``beta_t sqrt(abar_prev) / (1 - abar_t)``, so seen from there the released scale of 0.1 is a step of 22 times the way to
the prototype at the first of 50 steps (linear schedule), of 1.2 times at index 30 and of 0.16 times at index 11. On
``x0`` the same pull is ``x0 + scale (c - x0)``, which for ``scale <= 1`` never leaves the segment between the two. This
is not in the paper. DDIM's pulls act on ``x0`` anyway, so there only ``noise_power`` makes a difference.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Annotated

import torch

from manifoldgd.diffusion.protocol import Anchors, BoundGuidance, Guidance, Pull, SetSpace, Step
from manifoldgd.ranges import Range, checked


@checked
@dataclass(frozen=True, kw_only=True)
class OnPrediction:
    """``pull.clean = (1 - abar_t)^noise_power (pull.scaled + pull.plain)``; what is ``clean`` already stays as it is.

    ``1 - abar_t`` is the variance of ``x0`` given ``x_t`` for data of unit variance, as scaled latents nearly are. Were
    the prototype an observation of ``x0`` with variance ``1 / scale``, the posterior mean would be, to first order in
    ``scale``, ``x0 + scale (1 - abar_t) (c - x0)``: the power 1. The power 0 goes the same share of the way always.

    Attributes:
        method: a guidance.
        noise_power: >= 0; the larger, the more the pull fades as the noise does.
    """

    method: Guidance
    noise_power: Annotated[float, Range("[0, 10]")]

    @property
    def neighbourhood(self) -> int:
        """Real latents wanted around each prototype."""
        return self.method.neighbourhood

    @property
    def features(self) -> SetSpace | None:
        """Where sets are judged."""
        return self.method.features

    def evaluations(self, steps: int, taken: int) -> int:
        """Those of the method, if it judges sets."""
        return self.method.evaluations(steps, taken)

    def bind(self, anchors: Anchors) -> _BoundOnPrediction:
        """The method towards the same anchors."""
        return _BoundOnPrediction(self.method.bind(anchors), self.noise_power)


@dataclass(frozen=True)
class _BoundOnPrediction:
    method: BoundGuidance
    noise_power: float

    def __call__(self, step: Step) -> Pull | None:
        pull = self.method(step)
        parts = [] if pull is None else [part for part in (pull.scaled, pull.plain) if part is not None]
        if not parts:
            return pull
        moved = (1 - step.alpha_bar) ** self.noise_power * functools.reduce(torch.add, parts)
        return replace(pull, scaled=None, plain=None, clean=moved if pull.clean is None else pull.clean + moved)
