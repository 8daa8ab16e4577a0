"""Mode guidance: every row is pulled towards its prototype, the whole way across the latent space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, Pull, Step
from manifoldgd.geometry.kernels import Kernel, kernel_factor
from manifoldgd.guidance.window import acts
from manifoldgd.ranges import Length, Share, Strength, checked


def mode_vector(x0: Tensor, prototypes: Tensor, kernel: Kernel, bandwidth: float) -> Tensor:
    """``g_mode = phi(||x0 - c||) (x0 - c)``, which points from ``x0`` to the prototype ``c`` (ManifoldGD, g_mode).

    Args:
        x0: ``[B, C, H, W]`` predicted clean latents.
        prototypes: ``[B, C, H, W]``.
        kernel: affinity whose gradient is followed.
        bandwidth: its length, in latent units.

    Returns:
        ``[B, C, H, W]``; for RBF with bandwidth 1 simply ``c - x0``.
    """
    difference = x0 - prototypes
    phi = kernel_factor(kernel, difference, bandwidth)
    return phi.view(-1, *[1] * (x0.ndim - 1)) * difference


@checked
@dataclass(frozen=True, kw_only=True)
class ModeGuidance:
    """``pull = scale * g_mode``, and nothing else.

    The released code's script for this baseline also adds its manifold term; this one does not.

    Attributes:
        scale: strength, >= 0; 0 is the unguided run bit for bit.
        kernel: ``rbf``, ``laplace`` or ``imq``.
        bandwidth: of the kernel, > 0, latent units.
        t_stop: fraction of the steps, in [0, 1], at which guidance ends.
    """

    scale: Strength
    kernel: Kernel
    bandwidth: Length
    t_stop: Share
    neighbourhood: ClassVar[int] = 0

    def bind(self, anchors: Anchors) -> _BoundMode:
        """The guidance towards ``anchors.prototypes``."""
        return _BoundMode(self, anchors.prototypes)


@dataclass(frozen=True)
class _BoundMode:
    method: ModeGuidance
    prototypes: Tensor

    def __call__(self, step: Step) -> Pull | None:
        method = self.method
        if method.scale == 0 or not acts(step, method.t_stop):
            return None
        vector = mode_vector(step.x0, self.prototypes, method.kernel, method.bandwidth)
        return Pull(scaled=method.scale * vector, plain=None, kept=None)
