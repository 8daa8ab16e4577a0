"""Any guidance, evaluated at the noisy latent ``x_t`` instead of at the clean one that is predicted from it.

ManifoldGD (arXiv 2602.23295) prints the gradient of the mode term at ``x_t``, ``phi (x_t - c)``; its released code
evaluates it at the predicted ``x0``, as every other guidance here does. ``x_t`` lies near ``sqrt(abar) x0`` plus noise,
so early this pulls against the noise itself, whose norm is ``sqrt(D)``, and shrinks it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from manifoldgd.diffusion.protocol import Anchors, BoundGuidance, Guidance, Pull, SetSpace, Step
from manifoldgd.errors import require


@dataclass(frozen=True, kw_only=True)
class AtNoisyLatent:
    """``method`` with ``x_t`` in place of ``x0``; the prototype is not noised, as printed.

    Attributes:
        method: a guidance towards prototypes.
    """

    method: Guidance

    def __post_init__(self) -> None:
        require(
            self.method.features is None,
            "guidance.method: a guidance that judges sets looks at clean latents; choose mode or manifold",
        )

    @property
    def neighbourhood(self) -> int:
        """Real latents wanted around each prototype."""
        return self.method.neighbourhood

    @property
    def features(self) -> SetSpace | None:
        """None: checked on construction."""
        return self.method.features

    def bind(self, anchors: Anchors) -> _BoundAtNoisyLatent:
        """The method towards the same anchors."""
        return _BoundAtNoisyLatent(self.method.bind(anchors))


@dataclass(frozen=True)
class _BoundAtNoisyLatent:
    method: BoundGuidance

    def __call__(self, step: Step) -> Pull | None:
        return self.method(replace(step, x0=step.x_t))
