r"""One denoising step: DDPM and DDIM for diffusions, Euler for flows.

Symbols: ``x_t`` noisy latent at a respaced index ``t``, ``x_prev`` at ``t - 1``, ``x0`` predicted clean latent, ``eps``
predicted noise, ``abar`` cumulative product of alphas, ``sigma_t`` standard deviation of the noise of the step (in
:class:`Euler`, as in schedules, of the noise in ``x_t``).

Sources: Ho et al. 2020, equation 7 (posterior mean); Nichol and Dhariwal 2021, equation 15 (learned-range variance);
Song et al., *Denoising Diffusion Implicit Models*, 2021, equations 12 and 16; Salimans and Ho, *Progressive
Distillation*, 2022, section 4, for the prediction of v. Where a guidance enters follows the
released code of ManifoldGD (arXiv 2602.23295): DDPM shifts the posterior mean, DDIM shifts ``x0`` before the noise is
recomputed from it. Steps are pure: their noise is an argument. Coefficients are computed in float64, tensors stay
float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from manifoldgd.diffusion.flow import FlowSchedule
from manifoldgd.diffusion.protocol import Pull
from manifoldgd.diffusion.schedule import NoiseSchedule, Spacing
from manifoldgd.ranges import Guided, Range, Share, checked

VarianceKind = Literal["learned_range", "fixed_small", "fixed_large"]
# What a network predicts: eps; v = alpha_t eps - sigma_t x0; the velocity eps - x0 of a flow.
PredictionKind = Literal["epsilon", "v_prediction", "flow"]
Schedule = NoiseSchedule | FlowSchedule
Steps = Annotated[int, Range("[1, 4000]")]  # as many as the longest training schedule in use; a prior may have fewer


@dataclass(frozen=True)
class Prediction:
    """What the denoiser's output means at one step."""

    x0: Tensor  # [B, C, H, W] predicted clean latent
    # [B, C, H, W] if learned, else [1, 1, 1, 1]: log of DDPM's sigma_t squared; None of a flow
    log_variance: Tensor | None


@dataclass(frozen=True)
class Transition:
    """The result of one step and what was added to get there."""

    x_prev: Tensor  # [B, C, H, W]
    guidance: Tensor | None  # [B, C, H, W] how far the pull moved x_prev, None if nothing pulled
    noise: Tensor | None  # [B, C, H, W] noise in x_prev, None if the step is deterministic


class Sampler(Protocol):
    """A way to step from ``x_t`` to ``x_prev``."""

    spacing: ClassVar[Spacing]

    @property
    def steps(self) -> int:
        """Denoising steps."""
        ...

    @property
    def cfg_scale(self) -> float | None:
        """Classifier-free guidance scale; ``None`` for the one the prior recommends."""
        ...

    def draws_noise(self, index: int) -> bool:
        """Whether the step at this respaced index adds noise."""
        ...

    def step(
        self,
        schedule: Any,  # of the kind that `spacing` is for
        index: int,
        x_t: Tensor,
        prediction: Prediction,
        pull: Pull | None,
        noise: Tensor | None,
    ) -> Transition:
        """One step from ``index`` to ``index - 1``; ``noise`` is standard normal, ``None`` where none is drawn."""
        ...


def predict(
    schedule: Schedule,
    index: int,
    x_t: Tensor,
    output: Tensor,
    *,
    variance: VarianceKind,
    prediction: PredictionKind = "epsilon",
    clip_x0: float | None = None,
) -> Prediction:
    """Read a denoiser's output.

    Args:
        schedule: respaced schedule.
        index: respaced index, 0 ... T - 1.
        x_t: ``[B, C, H, W]`` noisy latents.
        output: ``[B, C or 2C, H, W]``: the prediction, then (learned range) the position of the log-variance between
            its bounds, -1 for the posterior variance and 1 for beta. Further channels are ignored by the fixed kinds.
        variance: the prior's variance type, as diffusers names it.
        prediction: what is predicted.
        clip_x0: bound on ``|x0|``; ``None`` (latents are unbounded) leaves it alone.
    """
    channels = x_t.shape[1]
    wanted = (2 * channels,) if variance == "learned_range" else (channels, 2 * channels)
    if output.shape[1] not in wanted:
        raise ValueError(f"output: expected {wanted} channels for variance {variance!r}, got {output.shape[1]}")
    output = output.float()
    x0 = _x0(schedule, index, x_t, output[:, :channels], prediction)
    if clip_x0 is not None:
        x0 = x0.clamp(-clip_x0, clip_x0)
    if isinstance(schedule, FlowSchedule):
        return Prediction(x0=x0, log_variance=None)
    return Prediction(x0=x0, log_variance=_log_variance(schedule, index, output[:, channels:], variance, x_t))


def _x0(schedule: Schedule, index: int, x_t: Tensor, output: Tensor, prediction: PredictionKind) -> Tensor:
    alpha, sigma = float(schedule.alphas[index]), float(schedule.sigmas[index])
    if prediction == "flow":
        return x_t - sigma * output  # alpha_t + sigma_t = 1
    if prediction == "v_prediction":
        return alpha * x_t - sigma * output  # alpha_t^2 + sigma_t^2 = 1
    if isinstance(schedule, FlowSchedule):
        raise ValueError(f"prediction: expected 'flow' of a flow, got {prediction!r}")
    return schedule.x0_from_noise(x_t, output, index)


def _log_variance(
    schedule: NoiseSchedule, index: int, position: Tensor, variance: VarianceKind, like: Tensor
) -> Tensor:
    low = float(schedule.posterior_log_variance_clipped[index])
    high = math.log(float(schedule.betas[index]))
    if variance == "learned_range":
        share = (position + 1) / 2
        return share * high + (1 - share) * low
    # DDPM's fixed-large variance also starts from the clipped entry: beta_0 alone would be no variance of a step.
    value = high if variance == "fixed_large" and index > 0 else low
    return torch.full((1, 1, 1, 1), value, dtype=like.dtype, device=like.device)


@checked
@dataclass(frozen=True, kw_only=True)
class DDPM:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) on DiT's fractional-stride respacing.

    Attributes:
        steps: denoising steps, 1 to the prior's training timesteps.
        cfg_scale: classifier-free guidance scale; ``None`` for the one the prior recommends. Resolved by the caller.
    """

    steps: Steps
    cfg_scale: Guided | None
    spacing: ClassVar[Spacing] = "ddpm"

    def draws_noise(self, index: int) -> bool:
        """Every step but the last."""
        return index > 0

    def step(
        self,
        schedule: NoiseSchedule,
        index: int,
        x_t: Tensor,
        prediction: Prediction,
        pull: Pull | None,
        noise: Tensor | None,
    ) -> Transition:
        """``x_prev = posterior mean + sigma_t * pull.scaled + pull.plain + sigma_t * noise`` (no noise at index 0).

        The posterior mean is that of ``x0 + pull.clean``.
        """
        assert prediction.log_variance is not None
        sigma = (0.5 * prediction.log_variance).exp()
        weights = float(schedule.posterior_mean_coef1[index]), float(schedule.posterior_mean_coef2[index])
        x_prev = weights[0] * prediction.x0 + weights[1] * x_t
        shift = None
        if pull is not None:
            scaled = None if pull.scaled is None else sigma * pull.scaled
            shift = _total(scaled, pull.plain, None if pull.clean is None else weights[0] * pull.clean)
            x_prev = x_prev if shift is None else x_prev + shift
        return _noised(x_prev, shift, sigma if self.draws_noise(index) else None, noise)


@dataclass(frozen=True, kw_only=True)
class _Implicit:
    """A step along ``x0' = x0 + pull.scaled + pull.plain + pull.clean`` and the noise that ``x0'`` implies.

    Attributes:
        steps: denoising steps.
        eta: share of the ancestral step's noise, in [0, 1]; 0 is deterministic, 1 has the posterior variance.
        cfg_scale: classifier-free guidance scale; ``None`` for the one the prior recommends. Resolved by the caller.
    """

    steps: Steps
    eta: Share
    cfg_scale: Guided | None

    def draws_noise(self, index: int) -> bool:
        """Every step but the last, unless ``eta`` is 0."""
        return index > 0 and self.eta > 0

    def step(
        self,
        schedule: Any,
        index: int,
        x_t: Tensor,
        prediction: Prediction,
        pull: Pull | None,
        noise: Tensor | None,
    ) -> Transition:
        """``x_prev`` as the class says, with no noise at index 0."""
        towards, response, spread = self._path(schedule, index, x_t)
        shift = None if pull is None else _total(pull.scaled, pull.plain, pull.clean)
        x_prev = towards(prediction.x0 if shift is None else prediction.x0 + shift)
        moved = None if shift is None else response * shift
        return _noised(x_prev, moved, spread if self.draws_noise(index) else None, noise)

    def _path(self, schedule: Any, index: int, x_t: Tensor) -> tuple[Callable[[Tensor], Tensor], float, float]:
        """``x_prev`` less its new noise as a function of ``x0'``, its slope, and the deviation of that noise."""
        raise NotImplementedError


@checked
@dataclass(frozen=True, kw_only=True)
class DDIM(_Implicit):
    """Implicit sampling (Song et al. 2021, equation 12), respaced by an integer stride that gives exactly the steps.

    ``x_prev = sqrt(abar_prev) x0' + sqrt(1 - abar_prev - sigma_t^2) eps' + sigma_t noise``, so a pull moves ``x_prev``
    by ``sqrt(abar_prev) - sqrt(1 - abar_prev - sigma_t^2) sqrt(abar / (1 - abar))`` times itself.
    """

    spacing: ClassVar[Spacing] = "ddim"

    def _path(
        self, schedule: NoiseSchedule, index: int, x_t: Tensor
    ) -> tuple[Callable[[Tensor], Tensor], float, float]:
        alpha_bar, before = float(schedule.alphas_cumprod[index]), float(schedule.alphas_cumprod_prev[index])
        sigma = self.eta * math.sqrt((1 - before) / (1 - alpha_bar) * (1 - alpha_bar / before))
        to_noise = math.sqrt(max(1 - before - sigma**2, 0.0))
        return (
            lambda x0: math.sqrt(before) * x0 + to_noise * schedule.noise_from_x0(x_t, x0, index),
            math.sqrt(before) - to_noise * math.sqrt(alpha_bar / (1 - alpha_bar)),
            sigma,
        )


@checked
@dataclass(frozen=True, kw_only=True)
class Euler(_Implicit):
    """Euler's method along a flow, with or without noise.

    ``x_prev = alpha_prev x0' + sqrt(sigma_prev^2 - added^2) eps' + added * noise`` with ``eps' = (x_t - alpha_t x0') /
    sigma_t``. Without noise that is ``x_t + (t_prev - t) v``, an Euler step of the flow's differential equation; with
    noise it goes to ``q(x_prev | x_t, x0)``: at ``eta`` 1 the ancestral step, whose limit is the stochastic equation of
    the same marginals. As a diffusion (:mod:`manifoldgd.diffusion.flow`) the step is DDIM's.
    """

    spacing: ClassVar[Spacing] = "flow"

    def _path(self, schedule: FlowSchedule, index: int, x_t: Tensor) -> tuple[Callable[[Tensor], Tensor], float, float]:
        alpha, sigma = float(schedule.alphas[index]), float(schedule.sigmas[index])
        alpha_prev, sigma_prev = 1.0, 0.0
        if index > 0:
            alpha_prev, sigma_prev = float(schedule.alphas[index - 1]), float(schedule.sigmas[index - 1])
        spread = self.eta * math.sqrt(float(schedule.posterior_variance[index]))
        to_noise = math.sqrt(max(sigma_prev**2 - spread**2, 0.0))
        return (
            lambda x0: alpha_prev * x0 + to_noise / sigma * (x_t - alpha * x0),
            alpha_prev - to_noise * alpha / sigma,
            spread,
        )


def sampler_of(schedule: Schedule, steps: int) -> DDPM | Euler:
    """The sampler of a prior for which none was asked: DDPM for a diffusion, Euler without noise for a flow.

    Its classifier-free guidance scale is the one that the prior recommends.
    """
    if isinstance(schedule, FlowSchedule):
        return Euler(steps=steps, eta=0.0, cfg_scale=None)
    return DDPM(steps=steps, cfg_scale=None)


def _total(*parts: Tensor | None) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return functools.reduce(torch.add, given) if given else None


def _noised(x_prev: Tensor, shift: Tensor | None, sigma: Tensor | float | None, noise: Tensor | None) -> Transition:
    """The end of a step, with noise of deviation ``sigma``; ``None``: without."""
    if sigma is None:
        return Transition(x_prev, shift, None)
    if noise is None:
        raise ValueError("noise: expected standard normal draws for this step, got None")
    added = sigma * noise
    return Transition(x_prev + added, shift, added)
