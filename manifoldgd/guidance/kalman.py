"""Kalman guidance: the prototype as a noisy observation of the clean latent, weighed against what is known of it.

Let the class be Gaussian around a prototype, with the covariance ``C`` of its real neighbours. Given ``x_t``, the clean
latent then has the covariance ``Sigma_t = (C^-1 + abar / (1 - abar) I)^-1``, and ``x0`` is its mean under the prior. An
observation ``c`` of the clean latent with noise of variance ``s^2`` moves that mean by the Kalman gain times ``c - x0``
(Kalman 1960; for denoising ``x0 + gain (y - A x0)`` as in Song et al., *Pseudoinverse-Guided Diffusion Models*, 2023,
with a covariance of data in place of a multiple of the identity). Directions in which the class does not vary get
nothing, and all get less as the noise falls, so there is nothing to stop. This is not in ManifoldGD (arXiv 2602.23295),
whose projector is the same with gains of 0 and 1 and for all noise levels.

Two twins say what the neighbours' directions are worth. One has their mean variance in every direction (``axes`` 0):
the same law of strength without geometry. The other, :class:`DenoiserKalmanGuidance`, asks the prior for its own
covariance: by Tweedie's second formula the Jacobian of the denoiser is ``d x0 / d x_t = sqrt(abar) / (1 - abar)
Cov[x0 | x_t]`` (Efron 2011; used for guidance by Boys et al., *Tweedie Moment Projected Diffusions*, 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, Pull, Step
from manifoldgd.errors import require
from manifoldgd.geometry.tangent import energy_kept, principal_axes
from manifoldgd.guidance.tangents import Neighbourhood, bind_neighbourhoods
from manifoldgd.guidance.window import acts
from manifoldgd.ranges import Range, Share, checked

Precision = Annotated[float, Range("[0, 1000000]")]  # 1e6 trusts the prototype to a thousandth
# Length of the finite difference along the denoiser, as a share of that of the noise in x_t. Shorter ones drown in
# rounding at the first steps, where x0 changes by 1 / sqrt(abar) times as much as the network's output.
DIFFERENCE = 0.1


@checked
@dataclass(frozen=True, kw_only=True)
class KalmanGuidance:
    """``x0 <- x0 + Sigma_t (Sigma_t + s^2 I)^-1 (c - x0)`` with ``s^2 = 1 / scale``.

    With ``lambda`` an eigenvalue of the neighbours' covariance and ``r = (1 - abar) / abar``, the one of ``Sigma_t`` is
    ``lambda r / (lambda + r)``.

    Attributes:
        scale: precision of the observation, ``1 / s^2`` in latent units, >= 0; 0 is the unguided run bit for bit.
        neighbourhood: ``M``, real latents of the class nearest to the prototype, >= 2.
        axes: leading principal directions of the neighbourhood that are used, in [1, neighbourhood - 1]; 0: all
            directions of the latent space, each with the neighbourhood's mean variance.
        t_stop: fraction of the steps, in [0, 1], at which guidance ends.
    """

    scale: Precision
    neighbourhood: Neighbourhood
    axes: Annotated[int, Range("[0, 100000]")]
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
        if self.axes == 0:
            return _BoundKalman(self, anchors.prototypes, (None, points.var(1, correction=0).mean(1, keepdim=True)))
        # A neighbourhood at a time: its Gram matrix and directions are the largest arrays here.
        found = [principal_axes(each[None], self.axes) for each in points]
        first, second = (torch.cat(parts) for parts in zip(*found, strict=True))
        return _BoundKalman(self, anchors.prototypes, (first, second))


@dataclass(frozen=True)
class _BoundKalman:
    method: KalmanGuidance
    prototypes: Tensor  # [B, C, H, W]
    # [B, R, D], variances [B, R]; None in place of the directions: all, one variance [B, 1]. None where the scale is 0.
    axes: tuple[Tensor | None, Tensor] | None

    def __call__(self, step: Step) -> Pull | None:
        method = self.method
        if self.axes is None or not acts(step, method.t_stop):
            return None
        basis, variances = self.axes
        ratio = (1 - step.alpha_bar) / step.alpha_bar
        posterior = variances * ratio / (variances + ratio)
        gain = posterior / (posterior + 1 / method.scale)
        vectors = (self.prototypes - step.x0).flatten(1)
        if basis is None:
            return Pull(scaled=None, plain=None, kept=None, clean=(gain * vectors).view_as(step.x0))
        along = gain[:, :, None] * (basis @ vectors[:, :, None])
        moved = (along.mT @ basis)[:, 0]
        return Pull(scaled=None, plain=None, kept=energy_kept(vectors, moved), clean=moved.view_as(step.x0))


@checked
@dataclass(frozen=True, kw_only=True)
class DenoiserKalmanGuidance:
    """The same with the prior's own covariance ``Sigma_t = (1 - abar) / sqrt(abar) d x0 / d x_t``, at every ``x_t``.

    No real image but the prototype is looked at. The system ``(Sigma_t + s^2 I) w = c - x0`` is solved by one step of
    conjugate gradients, ``w = (c - x0) / (rho + s^2)`` with ``rho`` the Rayleigh quotient of ``Sigma_t`` at ``c - x0``;
    it is exact where that is an eigenvector. ``Sigma_t (c - x0)`` is a finite difference: one more evaluation of the
    denoiser at every step, with its classifier-free guidance, or two where it works in half precision. Where a
    network's Jacobian is not positive along ``c - x0``, which no covariance allows, the row is left alone.

    Attributes:
        scale: as :class:`KalmanGuidance`.
        t_stop: fraction of the steps, in [0, 1], at which guidance ends.
    """

    scale: Precision
    t_stop: Share
    neighbourhood: ClassVar[int] = 0

    def bind(self, anchors: Anchors) -> _BoundDenoiserKalman:
        """The guidance towards ``anchors.prototypes``."""
        return _BoundDenoiserKalman(self, anchors.prototypes)


@dataclass(frozen=True)
class _BoundDenoiserKalman:
    method: DenoiserKalmanGuidance
    prototypes: Tensor  # [B, C, H, W]

    def __call__(self, step: Step) -> Pull | None:
        method = self.method
        if method.scale == 0 or not acts(step, method.t_stop):
            return None
        if step.change_of is None:
            raise ValueError("step.change_of: expected how x0 changes with x_t, got None")
        vectors = self.prototypes - step.x0
        squared = vectors.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-12)
        share = DIFFERENCE * ((1 - step.alpha_bar) * vectors[0].numel() / squared).sqrt()
        change = step.change_of(share * vectors) / share
        moved = (1 - step.alpha_bar) / math.sqrt(step.alpha_bar) * change
        quotient = (moved * vectors).sum((1, 2, 3), keepdim=True) / squared
        pull = torch.where(quotient <= 0, torch.zeros_like(moved), moved / (quotient + 1 / method.scale))
        return Pull(scaled=None, plain=None, kept=None, clean=pull)
