"""Any guidance, from a later step on: what :class:`CombinedGuidance` needs to let one method follow another."""

from __future__ import annotations

from dataclasses import dataclass

from manifoldgd.diffusion.protocol import Anchors, BoundGuidance, Guidance, Pull, SetSpace, Step
from manifoldgd.errors import require
from manifoldgd.guidance.window import acts
from manifoldgd.ranges import Share, checked


@checked
@dataclass(frozen=True, kw_only=True)
class LateGuidance:
    """``method`` where a guidance with ``t_stop = t_start`` has ended, and nothing before.

    Attributes:
        method: a guidance towards prototypes, with an end of its own.
        t_start: fraction of the steps, in [0, 1], at which it begins; 1 is from the first step on.
    """

    method: Guidance
    t_start: Share

    def __post_init__(self) -> None:
        require(
            self.method.features is None,
            "guidance.method: a guidance that judges sets has a t_start of its own; set that",
        )

    @property
    def neighbourhood(self) -> int:
        """Real latents wanted around each prototype."""
        return self.method.neighbourhood

    @property
    def features(self) -> SetSpace | None:
        """None: checked on construction."""
        return self.method.features

    def bind(self, anchors: Anchors) -> _BoundLate:
        """The method towards the same anchors."""
        return _BoundLate(self.method.bind(anchors), self.t_start)


@dataclass(frozen=True)
class _BoundLate:
    method: BoundGuidance
    t_start: float

    def __call__(self, step: Step) -> Pull | None:
        return None if acts(step, self.t_start) else self.method(step)
