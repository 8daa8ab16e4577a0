r"""The noise schedule: how much signal and how much noise a latent holds at each timestep.

Forward process: ``x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps`` with ``abar_t = prod_{s <= t} (1 - beta_s)``.
A sampler visits only some of the training timesteps (*respacing*). The respaced schedule is a schedule in its own
right, with the betas that lead from one kept ``abar`` to the next; its *index* runs from 0 (cleanest) to ``T - 1``
(noisiest), while ``timesteps[index]`` is the original timestep that the network was trained with.

Source: Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, equations 4 to 7; Nichol and Dhariwal, *Improved
Denoising Diffusion Probabilistic Models*, 2021, for the respacing and for the clipped posterior log-variance.
All coefficients are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from manifoldgd.errors import require

BetaKind = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Spacing = Literal["ddpm", "ddim", "flow"]  # of the sampler; the last is for flows


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete noise schedule of ``T`` steps, whole or respaced.

    Build it with :meth:`training` or :meth:`from_betas`, then :meth:`respaced`.

    Attributes:
        timesteps: ``[T]`` int64, original timesteps in ascending order.
        betas: ``[T]`` float64 in (0, 1), variance added from one kept timestep to the next.

    Example:
        >>> schedule = NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="linear", num_timesteps=1000)
        >>> schedule.respaced(50, "ddpm").timesteps[:4].tolist()
        [0, 20, 41, 61]
        >>> schedule.respaced(50, "ddim").timesteps[:4].tolist()
        [0, 20, 40, 60]
    """

    timesteps: Tensor
    betas: Tensor

    def __post_init__(self) -> None:
        if self.timesteps.ndim != 1 or self.timesteps.shape != self.betas.shape or not len(self.betas):
            shapes = tuple(self.timesteps.shape), tuple(self.betas.shape)
            raise ValueError(f"timesteps and betas: expected two vectors of one length >= 1, got shapes {shapes}")
        if self.timesteps.dtype != torch.int64 or self.betas.dtype != torch.float64:
            raise ValueError(
                f"expected int64 timesteps and float64 betas, got {self.timesteps.dtype}, {self.betas.dtype}"
            )

    @classmethod
    def training(cls, *, beta_start: float, beta_end: float, kind: BetaKind, num_timesteps: int) -> NoiseSchedule:
        """The schedule a prior was trained with, from the numbers of a diffusers scheduler config.

        Args:
            beta_start: first beta, in (0, 1); not used by ``squaredcos_cap_v2``.
            beta_end: last beta, in [beta_start, 1); not used by ``squaredcos_cap_v2``.
            kind: diffusers' ``beta_schedule``.
            num_timesteps: diffusers' ``num_train_timesteps``, >= 1.

        Raises:
            UserError: if a number is out of range or the kind is unknown.
        """
        require(num_timesteps >= 1, f"num_train_timesteps: needs to be >= 1, got {num_timesteps}; correct the config")
        require(
            0 < beta_start <= beta_end < 1,
            f"beta_start, beta_end: need 0 < start <= end < 1, got {beta_start}, {beta_end}; correct the config",
        )
        if kind == "linear":
            return cls.from_betas(torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64))
        if kind == "scaled_linear":
            roots = torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_timesteps, dtype=torch.float64)
            return cls.from_betas(roots.square())
        require(
            kind == "squaredcos_cap_v2",
            f"beta_schedule: expected linear, scaled_linear or squaredcos_cap_v2, got {kind}; use such a prior",
        )
        return cls.from_betas(_cosine_betas(num_timesteps))

    @classmethod
    def from_betas(cls, betas: Tensor) -> NoiseSchedule:
        """The schedule with training betas ``[T]`` in (0, 1); timesteps are 0 ... T - 1."""
        if bool(((betas <= 0) | (betas >= 1)).any()):
            raise ValueError("betas: expected values in (0, 1)")
        return cls(timesteps=torch.arange(len(betas)), betas=betas.to(torch.float64))

    def respaced(self, num_steps: int, spacing: Spacing) -> NoiseSchedule:
        """The schedule restricted to ``num_steps`` of its timesteps.

        ``ddpm`` (DiT's "50") spreads them from first to last with a fractional stride; ``ddim`` (DiT's "ddim50") takes
        every n-th timestep from 0 on, so the last training timesteps may never be visited.

        Args:
            num_steps: steps to keep, in [1, T].
            spacing: how they are spread.

        Raises:
            UserError: if ``num_steps`` is out of range, or if no integer stride gives exactly that many.
        """
        total = len(self.timesteps)
        require(
            1 <= num_steps <= total,
            f"needs to be in [1, {total}], got {num_steps}; set it within that range",
            key="steps",
        )
        require(
            spacing != "flow", "sampler: euler steps through flows, and this prior is a diffusion; set sampler=ddim"
        )
        if spacing not in ("ddpm", "ddim"):
            raise ValueError(f"spacing: expected 'ddpm' or 'ddim', got {spacing!r}")
        kept = _fractional_stride(total, num_steps) if spacing == "ddpm" else _integer_stride(total, num_steps)
        alphas_cumprod = self.alphas_cumprod[kept]
        previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
        return NoiseSchedule(timesteps=self.timesteps[kept], betas=1 - alphas_cumprod / previous)

    def __len__(self) -> int:
        """Number of steps ``T``."""
        return len(self.timesteps)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """``abar`` ``[T]``: share of the variance that is signal, in (0, 1), falling."""
        return torch.cumprod(1 - self.betas, dim=0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        """``abar`` of the next cleaner index ``[T]``; 1 at index 0."""
        return torch.cat([self.betas.new_ones(1), self.alphas_cumprod[:-1]])

    @cached_property
    def alphas(self) -> Tensor:
        """``alpha_t = sqrt(abar)`` ``[T]``: how much of the image there is."""
        return self.alphas_cumprod.sqrt()

    @cached_property
    def sigmas(self) -> Tensor:
        """``sigma_t = sqrt(1 - abar)`` ``[T]``: how much of the noise there is."""
        return (1 - self.alphas_cumprod).sqrt()

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha_t`` and ``sigma_t`` ``[B]``, float64, of timesteps ``[B]`` of the training schedule."""
        return self.alphas[timesteps], self.sigmas[timesteps]

    def draw_timesteps(self, count: int, draws: torch.Generator) -> Tensor:
        """Timesteps to train on ``[count]`` int64, each equally likely (Ho et al. 2020, algorithm 1)."""
        return torch.randint(len(self), (count,), generator=draws)

    def as_diffusion(self, x_t: Tensor, index: int) -> tuple[Tensor, float]:
        """What guidances see of ``x_t``: itself and its ``abar``. A flow's schedule shows another latent."""
        return x_t, float(self.alphas_cumprod[index])

    def from_diffusion(self, seen: Tensor, index: int) -> Tensor:
        """The latent that :meth:`as_diffusion` shows as ``seen``: itself."""
        return seen

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance ``[T]`` of ``q(x_{t-1} | x_t, x0)``; 0 at index 0."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> Tensor:
        """Log of the posterior variance ``[T]``, the first entry replaced by the second, as its own log is infinite."""
        if len(self) == 1:
            return self.betas.log()
        return torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]]).log()

    @cached_property
    def posterior_mean_coef1(self) -> Tensor:
        """Weight ``[T]`` of ``x0`` in the mean of ``q(x_{t-1} | x_t, x0)``."""
        return self.betas * self.alphas_cumprod_prev.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Tensor:
        """Weight ``[T]`` of ``x_t`` in the mean of ``q(x_{t-1} | x_t, x0)``."""
        return (1 - self.alphas_cumprod_prev) * (1 - self.betas).sqrt() / (1 - self.alphas_cumprod)

    def add_noise(self, x0: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """Carry clean latents to a noise level.

        Args:
            x0: ``[B, ...]`` clean scaled latents.
            noise: standard normal draws, shape of ``x0``.
            index: ``[B]`` int64, positions in this schedule, 0 ... T - 1 (training timesteps if it is not respaced).

        Returns:
            ``sqrt(abar) x0 + sqrt(1 - abar) noise``, dtype and device of ``x0``.
        """
        alpha_bar = self.alphas_cumprod[index.cpu()].view(-1, *[1] * (x0.ndim - 1))
        # Rounded before it moves: Apple's devices have no double precision.
        signal, spread = (part.sqrt().to(x0.dtype).to(x0.device) for part in (alpha_bar, 1 - alpha_bar))
        return signal * x0 + spread * noise

    def x0_from_noise(self, x_t: Tensor, noise: Tensor, index: int) -> Tensor:
        """The clean latent that ``noise`` (shape of ``x_t``) implies at ``index``: ``add_noise`` solved for ``x0``."""
        alpha_bar = float(self.alphas_cumprod[index])
        return x_t / math.sqrt(alpha_bar) - math.sqrt(1 / alpha_bar - 1) * noise

    def noise_from_x0(self, x_t: Tensor, x0: Tensor, index: int) -> Tensor:
        """The noise that ``x0`` (shape of ``x_t``) implies at ``index``: ``add_noise`` solved for the noise."""
        alpha_bar = float(self.alphas_cumprod[index])
        return (x_t / math.sqrt(alpha_bar) - x0) / math.sqrt(1 / alpha_bar - 1)


def _cosine_betas(num_timesteps: int) -> Tensor:
    """Betas whose ``abar`` is a squared cosine, capped at 0.999 (Nichol and Dhariwal 2021, equation 17)."""
    edges = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    alpha_bar = torch.cos((edges + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def _fractional_stride(total: int, num_steps: int) -> Tensor:
    """``num_steps`` of ``total`` positions, first and last included, rounded half to even as DiT rounds."""
    stride = (total - 1) / (num_steps - 1) if num_steps > 1 else 1.0
    # Summed, not multiplied: positions that fall on a half then round to the side to which DiT's running sum rounds.
    positions, position = [], 0.0
    for _ in range(num_steps):
        positions.append(round(position))
        position += stride
    return torch.tensor(positions)


def _integer_stride(total: int, num_steps: int) -> Tensor:
    """Every n-th of ``total`` positions from 0 on, for the smallest n that keeps exactly ``num_steps``."""
    counts = {len(range(0, total, stride)): stride for stride in range(total, 0, -1)}
    nearest = sorted(counts, key=lambda count: abs(count - num_steps))[:2]
    require(
        num_steps in counts,
        f"no integer stride visits exactly {num_steps} of {total} timesteps; "
        f"set it to {min(nearest)} or {max(nearest)}, or use sampler=ddpm",
        key="steps",
    )
    return torch.arange(0, total, counts[num_steps])
