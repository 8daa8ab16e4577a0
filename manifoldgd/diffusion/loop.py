"""The sampling loop: there is one, for every sampler and every guidance."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import BoundGuidance, Denoiser, Pull, Step
from manifoldgd.diffusion.samplers import (
    Prediction,
    PredictionKind,
    Sampler,
    Schedule,
    Transition,
    VarianceKind,
    predict,
)
from manifoldgd.diffusion.start import Origin
from manifoldgd.finite import NotFinite, row_sums
from manifoldgd.randomness import RowKey, RowNoise

# A pull that moves ``x_prev`` by more than this many times the step's noise has run away. Largest factor over 50 images
# and all steps, mode guidance on the bundled priors of Fashion-MNIST and the digits: 0.4 and 0.3 at scale 0.1, 0.7 and
# 0.6 at 0.2. From 0.4 and 0.5 on a step overshoots by more than it corrects, and the factor grows to 1e8 and 1e13.
RUNAWAY = 2.0


@dataclass(frozen=True)
class StepRecord:
    """What one step added to each row. Norms are Euclidean, in latent units.

    ``guidance_norm`` is how far the pull moved ``x_prev``: for DDPM what was added to the posterior mean, for the
    others the pull on ``x0`` times its coefficient in ``x_prev``. ``noise_norm`` is that of the noise in ``x_prev``. A
    step without noise has none to compare with, so it reports what an ancestral step would add there on average, the
    posterior ``sigma_t`` times ``sqrt(D)``. No sampler adds noise at index 0.
    """

    index: int
    guidance_norm: Tensor  # [B], 0 where guidance does not act
    noise_norm: Tensor  # [B]
    kept: Tensor | None  # [B] share of the mode vector's energy that the projector keeps, None without a projector
    runaway: Tensor  # [B] bool: the guidance is beyond RUNAWAY times the noise; see _record for where it may be


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    schedule: Schedule,
    sampler: Sampler,
    *,
    labels: Tensor,
    noise: RowNoise,
    shape: Sequence[int],
    variance: VarianceKind,
    prediction: PredictionKind = "epsilon",
    guidance: BoundGuidance | None = None,
    clip_x0: float | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    origin: Origin | None = None,
) -> Tensor:
    """Draw one latent for each row.

    Args:
        denoiser: the network, classifier-free guidance included; called with the original timesteps of ``schedule``.
        schedule: schedule already respaced to the sampler's steps.
        sampler: DDPM or DDIM for a diffusion, Euler for a flow.
        labels: ``[B]`` int64 prior labels.
        noise: the rows' own random streams: start latents from ``"start"``, noise of a step from ``"step"``. Its
            device is where sampling happens.
        shape: ``(C, H, W)`` of a latent.
        variance: the prior's variance type.
        prediction: what the prior predicts.
        guidance: guidance bound to the rows' anchors. Where it is ``None`` or returns ``None`` the step is the
            unguided one bit for bit.
        clip_x0: bound on ``|x0|``, ``None`` for no clipping.
        on_step: called with a :class:`StepRecord` after each step.
        origin: clean latents of the rows and how many steps remain from them; ``None`` for all steps from pure noise.
            Both take the same draws, and steps and their indices stay those of the whole schedule.

    Returns:
        ``[B, C, H, W]`` float32 scaled latents, all finite.

    Raises:
        RunError: a row met NaN or infinity. Every step is checked, and the outcome read when the last one is done.
    """
    if labels.shape != (len(noise.rows),):
        raise ValueError(f"labels: expected shape ({len(noise.rows)},) to match the rows, got {tuple(labels.shape)}")
    labels = labels.to(noise.device)
    x_t = noise.normal("start", len(schedule), shape)
    if origin is not None:
        x_t = origin.noised(schedule, x_t)
    checks: list[Tensor] = []  # of each step, on the device
    aside = torch.cuda.Stream(x_t.device) if x_t.device.type == "cuda" else None
    for index in reversed(range(len(schedule) if origin is None else origin.steps)):
        beside = None
        if aside is not None:
            beside = functools.partial(_beside, aside, torch.cuda.current_stream(x_t.device).record_event())
        timesteps = torch.full_like(labels, schedule.timesteps[index].item(), dtype=schedule.timesteps.dtype)
        kind: dict[str, Any] = {"variance": variance, "prediction": prediction, "clip_x0": clip_x0}
        asked = functools.partial(_predicted, denoiser, schedule, index, timesteps, labels, kind)
        predicted = asked(x_t)
        pull = None
        if guidance is not None:
            seen, alpha_bar = schedule.as_diffusion(x_t, index)
            exact = None if torch.is_autocast_enabled(x_t.device.type) else predicted.x0
            change_of = functools.partial(_change_of, asked, schedule, index, seen, exact)
            with torch.autocast(x_t.device.type, enabled=False):  # networks may run in half precision, geometry may not
                pull = guidance(Step(index, len(schedule), seen, predicted.x0, alpha_bar, noise, beside, change_of))
        draws = noise.normal("step", index, shape) if sampler.draws_noise(index) else None
        transition = sampler.step(schedule, index, x_t, predicted, pull, draws)
        x_t = transition.x_prev
        record = _record(schedule, index, transition, pull)
        moved = torch.zeros_like(record.guidance_norm) if transition.guidance is None else row_sums(transition.guidance)
        sums = torch.stack([row_sums(predicted.x0), moved, row_sums(x_t)])
        checks.append(torch.cat([~sums.isfinite(), record.runaway[None]]))
        if on_step is not None:
            on_step(record)
    if checks:
        _check(torch.stack(checks).cpu(), noise.rows)
    return x_t


def _predicted(
    denoiser: Denoiser,
    schedule: Schedule,
    index: int,
    timesteps: Tensor,
    labels: Tensor,
    kind: dict[str, Any],
    x_t: Tensor,
) -> Prediction:
    return predict(schedule, index, x_t, denoiser(x_t, timesteps, labels), **kind)


def _change_of(
    asked: Callable[[Tensor], Prediction],
    schedule: Schedule,
    index: int,
    seen: Tensor,
    x0: Tensor | None,
    change: Tensor,
) -> Tensor:
    """``Step.change_of`` at ``seen``, where the prediction was ``x0``; ``None`` where it has too few digits."""
    before = asked(schedule.from_diffusion(seen, index)).x0 if x0 is None else x0
    return asked(schedule.from_diffusion(seen + change, index)).x0 - before


@contextmanager
def _beside(aside: torch.cuda.Stream, ready: torch.cuda.Event) -> Iterator[None]:
    """Run what is inside on another stream, from the event on at which ``x_t`` was ready.

    The other stream's memory is safe: it reuses a block at the next step at the earliest, which begins with an event of
    the main stream that comes after all reading of it.
    """
    aside.wait_event(ready)
    with torch.cuda.stream(aside):
        yield
    torch.cuda.current_stream().wait_stream(aside)


CAUSES = {
    "denoiser": "its weights may be damaged, machine.precision too coarse (set 32-true) or sampler.cfg_scale too large",
    "guidance": "its strength may be too large (guidance.scale or guidance.rate), or what it is given damaged",
    "sampler": "the latent outgrew single precision: lower guidance.scale or sampler.cfg_scale",
    "runaway": "its guidance ran away before: lower guidance.scale",
}


def _check(checks: Tensor, rows: Sequence[RowKey]) -> None:
    """Raise :class:`NotFinite` about the first row that met a number that is not finite.

    Args:
        checks: ``[T, 4, B]`` bool, of each step in order: the denoiser's prediction, the guidance or the latent is not
            finite; the guidance has run away.
        rows: the images.
    """
    bad = checks[:, :3].any(1)  # [T, B]
    if not bad.any():
        return
    step, row = (int(each) for each in bad.nonzero()[0])
    source = ("denoiser", "guidance", "sampler")[int(checks[step, :3, row].byte().argmax())]
    # A latent that ran away makes the denoiser overflow; the denoiser is not at fault.
    cause = CAUSES["runaway" if checks[:step, 3, row].any() else source]
    key = rows[row]
    message = (
        f"sampling: class {key.class_name!r}, prototype {key.prototype}, replica {key.replica}: NaN or infinity from "
        f"the {source} at step {step + 1} of {len(checks)} ({int(bad.any(0).sum())} of {len(rows)} images of the "
        f"batch); {cause}. Images finished before are kept"
    )
    raise NotFinite(message, bad.any(0).nonzero().flatten().tolist())


def _record(schedule: Schedule, index: int, transition: Transition, pull: Pull | None) -> StepRecord:
    zeros = transition.x_prev.new_zeros(len(transition.x_prev))
    guidance_norm = zeros if transition.guidance is None else transition.guidance.flatten(1).norm(dim=1)
    if transition.noise is None:
        numbers = transition.x_prev[0].numel()
        noise_norm = zeros + math.sqrt(float(schedule.posterior_variance[index]) * numbers)
    else:
        noise_norm = transition.noise.flatten(1).norm(dim=1)
    # A pull on x0 alone goes a share of the way and cannot overshoot: it may outweigh what little noise is left.
    bounded = pull is None or (pull.scaled is None and pull.plain is None)
    runaway = torch.zeros_like(zeros, dtype=torch.bool)
    if not bounded and index > 0:
        runaway = ~(guidance_norm <= RUNAWAY * noise_norm)
    return StepRecord(index, guidance_norm, noise_norm, None if pull is None else pull.kept, runaway)
