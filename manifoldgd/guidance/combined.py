"""Two guidances in one run: each acts in its own stretch of the steps, and where both act their pulls add up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, BoundGuidance, Guidance, Pull, SetSpace, Step
from manifoldgd.errors import require


@dataclass(frozen=True, kw_only=True)
class CombinedGuidance:
    """``first`` and ``then``, for instance mode guidance while noise is high and matching when it is low.

    Attributes:
        first: a guidance.
        then: another. Where both judge sets, they do so in the same way.
    """

    first: Guidance
    then: Guidance

    def __post_init__(self) -> None:
        spaces = [each.features for each in (self.first, self.then) if each.features]
        require(
            len(set(spaces)) <= 1,
            "guidance: first and then need to judge sets in the same features, got different ones; "
            "give both the same networks, width and real_per_class",
        )

    @property
    def neighbourhood(self) -> int:
        """Real latents wanted around each prototype."""
        return max(self.first.neighbourhood, self.then.neighbourhood)

    @property
    def features(self) -> SetSpace | None:
        """Where sets are judged."""
        return self.first.features or self.then.features

    def evaluations(self, steps: int, taken: int) -> int:
        """Those of the parts that judge sets."""
        return sum(each.evaluations(steps, taken) for each in (self.first, self.then) if each.features)

    def bind(self, anchors: Anchors) -> _BoundBoth:
        """Both, towards the same anchors, each with as many real latents as it wants."""
        return _BoundBoth(self.first.bind(_own(anchors, self.first)), self.then.bind(_own(anchors, self.then)))


@dataclass(frozen=True)
class _BoundBoth:
    first: BoundGuidance
    then: BoundGuidance

    def __call__(self, step: Step) -> Pull | None:
        pulls = [pull for pull in (self.first(step), self.then(step)) if pull is not None]
        if len(pulls) < 2:
            return pulls[0] if pulls else None
        one, two = pulls
        return Pull(
            scaled=_sum(one.scaled, two.scaled),
            plain=_sum(one.plain, two.plain),
            kept=one.kept if two.kept is None else two.kept,
            clean=_sum(one.clean, two.clean),
        )


def _own(anchors: Anchors, part: Guidance) -> Anchors:
    if anchors.neighbourhoods is None:
        return anchors
    return replace(anchors, neighbourhoods=anchors.neighbourhoods[:, : part.neighbourhood])  # the nearest come first


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    if one is None or two is None:
        return two if one is None else one
    return one + two
