"""Guidances made of other guidances: of another latent, on another latent, from a later step on, two in one run."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, BoundGuidance, Guidance, Pull, Step, judges_in
from manifoldgd.errors import require
from manifoldgd.guidance.window import acts
from manifoldgd.ranges import Range, Share, Strength, checked


@dataclass(frozen=True, kw_only=True)
class _Composed:
    """What holds other guidances, in the fields that a subclass names.

    Attributes:
        scale: strength of each part that has one, >= 0; ``None`` leaves the parts their own.
    """

    scale: Strength | None = None
    held: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        for name in self.held if self.scale is not None else ():
            part = getattr(self, name)
            if hasattr(part, "scale"):
                object.__setattr__(self, name, replace(part, scale=self.scale))

    @property
    def parts(self) -> tuple[Guidance, ...]:
        """The guidances inside."""
        return tuple(getattr(self, name) for name in self.held)

    @property
    def neighbourhood(self) -> int:
        """Real latents wanted around each prototype."""
        return max(part.neighbourhood for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class _Wrapped(_Composed):
    """A guidance that acts elsewhere, or at other times, than it would on its own.

    Attributes:
        method: the guidance.
    """

    method: Guidance
    held: ClassVar[tuple[str, ...]] = ("method",)


@checked
@dataclass(frozen=True, kw_only=True)
class AtNoisyLatent(_Wrapped):
    """``method`` with ``x_t`` in place of ``x0``; the prototype is not noised, as printed.

    ManifoldGD (arXiv 2602.23295) prints the gradient of the mode term at ``x_t``, ``phi (x_t - c)``; its released code
    evaluates it at the predicted ``x0``, as every other guidance here does. ``x_t`` lies near ``sqrt(abar) x0`` plus
    noise, so early this pulls against the noise itself, whose norm is ``sqrt(D)``, and shrinks it.

    Attributes:
        method: a guidance towards prototypes.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not judges_in(self.method),
            "a guidance that judges sets looks at clean latents; choose mode or manifold",
            key="method",
        )

    def bind(self, anchors: Anchors) -> BoundGuidance:
        """The method towards the same anchors."""
        method = self.method.bind(anchors)
        return lambda step: method(replace(step, x0=step.x_t))


@checked
@dataclass(frozen=True, kw_only=True)
class LateGuidance(_Wrapped):
    """``method`` where a guidance with ``t_stop = t_start`` has ended, and nothing before.

    Attributes:
        method: a guidance towards prototypes, with an end of its own.
        t_start: fraction of the steps, in [0, 1], at which it begins; 1 is from the first step on.
    """

    t_start: Share

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not judges_in(self.method), "a guidance that judges sets has a t_start of its own; set that", key="method"
        )

    def bind(self, anchors: Anchors) -> BoundGuidance:
        """The method towards the same anchors."""
        method = self.method.bind(anchors)
        return lambda step: None if acts(step, self.t_start) else method(step)


@checked
@dataclass(frozen=True, kw_only=True)
class OnPrediction(_Wrapped):
    """``pull.clean = (1 - abar_t)^noise_power (pull.scaled + pull.plain)``; what is ``clean`` already stays as it is.

    ManifoldGD (arXiv 2602.23295) adds its DDPM pull to the posterior mean, times ``sigma_t``. ``x0`` enters that mean
    with ``beta_t sqrt(abar_prev) / (1 - abar_t)``, so seen from there the released scale of 0.1 is a step of 22 times
    the way to the prototype at the first of 50 steps (linear schedule), of 1.2 times at index 30 and of 0.16 times at
    index 11. On ``x0`` the same pull is ``x0 + scale (c - x0)``, which for ``scale <= 1`` never leaves the segment
    between the two. This is not in the paper. DDIM's pulls act on ``x0`` anyway, so there only ``noise_power`` makes a
    difference.

    ``1 - abar_t`` is the variance of ``x0`` given ``x_t`` for data of unit variance, as scaled latents nearly are. Were
    the prototype an observation of ``x0`` with variance ``1 / scale``, the posterior mean would be, to first order in
    ``scale``, ``x0 + scale (1 - abar_t) (c - x0)``: the power 1. The power 0 goes the same share of the way always.

    Attributes:
        method: a guidance.
        noise_power: >= 0; the larger, the more the pull fades as the noise does.
    """

    noise_power: Annotated[float, Range("[0, 10]")]

    def bind(self, anchors: Anchors) -> BoundGuidance:
        """The method towards the same anchors."""
        return functools.partial(self._moved, self.method.bind(anchors))

    def _moved(self, method: BoundGuidance, step: Step) -> Pull | None:
        pull = method(step)
        if pull is None:
            return None
        parts = [part for part in (pull.scaled, pull.plain) if part is not None]
        if not parts:
            return pull
        moved = (1 - step.alpha_bar) ** self.noise_power * functools.reduce(torch.add, parts)
        return replace(pull, scaled=None, plain=None, clean=_sum(pull.clean, moved))


@checked
@dataclass(frozen=True, kw_only=True)
class CombinedGuidance(_Composed):
    """``first`` and ``then``, for instance mode guidance while noise is high and matching when it is low.

    Each acts in its own stretch of the steps, and where both act their pulls add up.

    Attributes:
        first: a guidance.
        then: another. Where both judge sets, they follow the same energy.
    """

    first: Guidance
    then: Guidance
    held: ClassVar[tuple[str, ...]] = ("first", "then")

    def __post_init__(self) -> None:
        super().__post_init__()
        judges = [judge for part in self.parts for judge in judges_in(part)]
        require(
            all(_same_energy(judges[0], other) for other in judges[1:]),
            "guidance: first and then need to judge sets in the same features, got different ones; "
            "give both the same networks, width and real_per_class",
        )

    def bind(self, anchors: Anchors) -> BoundGuidance:
        """Both, towards the same anchors, each with as many real latents as it wants."""
        bound = [part.bind(_own(anchors, part)) for part in self.parts]
        return lambda step: _added([pull for each in bound if (pull := each(step)) is not None])


PACE = ("rate", "inner_steps", "t_start", "scale", "t_stop", "coordinates", "residual")  # how an energy is followed


def _same_energy(one: Guidance, other: Guidance) -> bool:
    def numbers(guidance: Guidance) -> dict[str, object]:
        return {name: value for name, value in vars(guidance).items() if name not in PACE}

    return type(one) is type(other) and numbers(one) == numbers(other)


def _own(anchors: Anchors, part: Guidance) -> Anchors:
    if anchors.neighbourhoods is None:
        return anchors
    return replace(anchors, neighbourhoods=anchors.neighbourhoods[:, : part.neighbourhood])  # the nearest come first


def _added(pulls: list[Pull]) -> Pull | None:
    if len(pulls) < 2:
        return pulls[0] if pulls else None
    one, two = pulls
    return Pull(
        scaled=_sum(one.scaled, two.scaled),
        plain=_sum(one.plain, two.plain),
        kept=one.kept if two.kept is None else two.kept,
        clean=_sum(one.clean, two.clean),
    )


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    if one is None or two is None:
        return two if one is None else one
    return one + two
