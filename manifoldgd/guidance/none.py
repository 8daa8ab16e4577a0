"""No guidance: the prior alone, the baseline of every method."""

from __future__ import annotations

from typing import ClassVar

from manifoldgd.diffusion.protocol import Anchors, Pull, Step


class NoGuidance:
    """Binds to a guidance that never acts."""

    neighbourhood: ClassVar[int] = 0

    def bind(self, anchors: Anchors) -> _Idle:
        """``anchors`` are ignored."""
        return _Idle()


class _Idle:
    def __call__(self, step: Step) -> Pull | None:
        return None
