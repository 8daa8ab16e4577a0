"""Kalman guidance: the prototype as a noisy observation of the clean latent, weighed against what is known of it.

Let the class be Gaussian around a prototype, with the covariance ``C`` of its real neighbours. Given ``x_t``, the clean
latent then has the covariance ``Sigma_t = (C^-1 + abar / (1 - abar) I)^-1``, and ``x0`` is its mean under the prior. An
observation ``c`` of the clean latent with noise of variance ``s^2`` moves that mean by the Kalman gain times ``c - x0``
(Kalman 1960; for denoising ``x0 + gain (y - A x0)`` as in Song et al., *Pseudoinverse-Guided Diffusion Models*, 2023,
with a covariance of data in place of a multiple of the identity). Directions in which the class does not vary get
nothing, and all get less as the noise falls, so there is nothing to stop. This is not in ManifoldGD (arXiv 2602.23295),
whose projector is the same with gains of 0 and 1 and for all noise levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, Pull, Step
from manifoldgd.errors import require
from manifoldgd.geometry.tangent import energy_kept, principal_axes
from manifoldgd.guidance.tangents import Neighbourhood, bind_neighbourhoods
from manifoldgd.guidance.window import acts
from manifoldgd.ranges import Range, Share, checked


@checked
@dataclass(frozen=True, kw_only=True)
class KalmanGuidance:
    """``x0 <- x0 + Sigma_t (Sigma_t + s^2 I)^-1 (c - x0)`` with ``s^2 = 1 / scale``.

    With ``lambda`` an eigenvalue of the neighbours' covariance and ``r = (1 - abar) / abar``, the one of ``Sigma_t`` is
    ``lambda r / (lambda + r)``.

    Attributes:
        scale: precision of the observation, ``1 / s^2`` in latent units, >= 0; 0 is the unguided run bit for bit.
        neighbourhood: ``M``, real latents of the class nearest to the prototype, >= 2.
        axes: leading principal directions of the neighbourhood that are used, in [1, neighbourhood - 1].
        t_stop: fraction of the steps, in [0, 1], at which guidance ends.
    """

    scale: Annotated[float, Range("[0, 1000000]")]  # a precision: 1e6 trusts the prototype to a thousandth
    neighbourhood: Neighbourhood
    axes: Annotated[int, Range("[1, 100000]")]
    t_stop: Share

    def __post_init__(self) -> None:
        require(
            self.axes < self.neighbourhood,
            f"needs to be smaller than neighbourhood, got axes={self.axes}, "
            f"neighbourhood={self.neighbourhood}; lower axes or raise neighbourhood",
            key="axes",
        )

    def bind(self, anchors: Anchors) -> _BoundKalman:
        """The guidance towards ``anchors.prototypes`` with the covariance of ``anchors.neighbourhoods``."""
        points = bind_neighbourhoods(anchors, self.neighbourhood)
        if self.scale == 0:
            return _BoundKalman(self, anchors.prototypes, None)
        # A neighbourhood at a time: its Gram matrix and directions are the largest arrays here.
        found = [principal_axes(each[None], self.axes) for each in points]
        first, second = (torch.cat(parts) for parts in zip(*found, strict=True))
        return _BoundKalman(self, anchors.prototypes, (first, second))


@dataclass(frozen=True)
class _BoundKalman:
    method: KalmanGuidance
    prototypes: Tensor  # [B, C, H, W]
    axes: tuple[Tensor, Tensor] | None  # [B, R, D], variances [B, R]; None where the scale is 0

    def __call__(self, step: Step) -> Pull | None:
        method = self.method
        if self.axes is None or not acts(step, method.t_stop):
            return None
        basis, variances = self.axes
        ratio = (1 - step.alpha_bar) / step.alpha_bar
        posterior = variances * ratio / (variances + ratio)
        gain = posterior / (posterior + 1 / method.scale)
        vectors = (self.prototypes - step.x0).flatten(1)
        along = gain[:, :, None] * (basis @ vectors[:, :, None])
        moved = (along.mT @ basis)[:, 0]
        return Pull(scaled=None, plain=None, kept=energy_kept(vectors, moved), clean=moved.view_as(step.x0))
