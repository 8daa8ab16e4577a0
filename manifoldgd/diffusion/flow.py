r"""The schedule of a flow: straight paths from images to noise.

Forward process: ``x_t = (1 - t) x0 + t eps`` for ``t`` from 0 (image) to 1 (noise), so ``alpha_t = 1 - t`` and
``sigma_t = t``. The network predicts the velocity ``v = dx_t / dt = eps - x0``.

Divided by ``sqrt(alpha_t^2 + sigma_t^2)``, ``x_t`` is a latent of the diffusion with ``abar = alpha_t^2 / (alpha_t^2 +
sigma_t^2)``: the two hold the same and differ in scale. Guidances are shown that latent
(:meth:`FlowSchedule.as_diffusion`), so none has to know what it guides.

Sources: Lipman et al., *Flow Matching for Generative Modeling*, 2023; Ma et al., *SiT*, 2024, whose ``t`` runs the
other way; Esser et al., *Scaling Rectified Flow Transformers*, 2024, equation 23 for the shift. All coefficients are
float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from manifoldgd.diffusion.schedule import Spacing
from manifoldgd.errors import require

LEAST_SIGNAL = 1e-6  # abar of pure noise, as guidances see it: they divide by it


@dataclass(frozen=True)
class FlowSchedule:
    """Some times of a flow, whole or respaced. Build it with :meth:`training`, then :meth:`respaced`.

    Attributes:
        times: ``[T]`` float64 in (0, 1], ascending: index 0 is the cleanest.
        clean: what the network is told at ``t = 0``.
        noise: what it is told at ``t = 1``, and in between as far between the two.
        shift: how far respacing moves the times towards the noise, > 0; 1 spreads them evenly.

    Example:
        >>> FlowSchedule.training(num_timesteps=1000, shift=3.0).respaced(3, "flow").timesteps.tolist()
        [8.928571701049805, 751.12109375, 1000.0]
    """

    times: Tensor
    clean: float
    noise: float
    shift: float

    @classmethod
    def training(
        cls, *, num_timesteps: int, shift: float = 1.0, clean: float = 0.0, noise: float | None = None
    ) -> FlowSchedule:
        """The times a prior was trained on, ``num_timesteps`` of them, evenly spread.

        Args:
            num_timesteps: diffusers' ``num_train_timesteps``, >= 1.
            shift: diffusers' ``shift``.
            clean: what the network is told at ``t = 0``.
            noise: what it is told at ``t = 1``; ``None`` for ``num_timesteps``, as diffusers' networks.

        Raises:
            UserError: a number is out of range.
        """
        require(num_timesteps >= 1, f"num_train_timesteps: needs to be >= 1, got {num_timesteps}; correct the config")
        require(shift > 0, f"shift: needs to be > 0, got {shift}; correct the config")
        times = torch.arange(1, num_timesteps + 1, dtype=torch.float64) / num_timesteps
        return cls(times, clean, float(num_timesteps if noise is None else noise), shift)

    def respaced(self, num_steps: int, spacing: Spacing) -> FlowSchedule:
        """``num_steps`` times from pure noise down, as diffusers' ``FlowMatchEulerDiscreteScheduler`` spreads them.

        Raises:
            UserError: there are not that many, or the sampler is one of diffusions.
        """
        require(
            spacing == "flow",
            f"sampler: {spacing} steps through diffusions, and this prior is a flow; set sampler=euler",
        )
        require(
            1 <= num_steps <= len(self),
            f"needs to be in [1, {len(self)}], got {num_steps}; set it within that range",
            key="steps",
        )
        even = torch.linspace(1, float(self._shifted(self.times[0])), num_steps, dtype=torch.float64).flip(0)
        return FlowSchedule(self._shifted(even), self.clean, self.noise, self.shift)

    def _shifted(self, times: Tensor) -> Tensor:
        return self.shift * times / (1 + (self.shift - 1) * times)

    def __len__(self) -> int:
        """Number of times ``T``."""
        return len(self.times)

    @cached_property
    def timesteps(self) -> Tensor:
        """What the network is told ``[T]``, float32."""
        return (self.clean + (self.noise - self.clean) * self.times).float()

    @property
    def alphas(self) -> Tensor:
        """``alpha_t`` ``[T]``: how much of the image there is, in [0, 1)."""
        return 1 - self.times

    @property
    def sigmas(self) -> Tensor:
        """``sigma_t`` ``[T]``: how much of the noise there is, in (0, 1]."""
        return self.times

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance ``[T]`` of ``q(x_s | x_t, x0)``, ``s`` being the next cleaner time; 0 at index 0."""
        after = torch.cat([self.times.new_zeros(1), self.times[:-1]])
        return after.square() * (1 - (self.alphas * after / ((1 - after) * self.sigmas)).square())

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha_t`` and ``sigma_t`` ``[B]``, float64, of what the network is told ``[B]``."""
        times = (timesteps.double() - self.clean) / (self.noise - self.clean)
        return 1 - times, times

    def draw_timesteps(self, count: int, draws: torch.Generator) -> Tensor:
        """What the network is told in training ``[count]`` float32: times uniform between image and noise.

        Lipman et al. 2023, equation 23; SiT (Ma et al. 2024) draws so too. A shift is for sampling and moves none.
        """
        return self.clean + (self.noise - self.clean) * torch.rand(count, generator=draws)

    def add_noise(self, x0: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """``(1 - t) x0 + t noise`` for clean latents ``[B, ...]`` and indices ``[B]``."""
        times = self.times[index.cpu()].view(-1, *[1] * (x0.ndim - 1)).to(x0.dtype).to(x0.device)
        return (1 - times) * x0 + times * noise

    def as_diffusion(self, x_t: Tensor, index: int) -> tuple[Tensor, float]:
        """The latent of a diffusion that holds what ``x_t`` holds, and its ``abar``, :data:`LEAST_SIGNAL` at least."""
        alpha, sigma = float(self.alphas[index]), float(self.sigmas[index])
        length = (alpha**2 + sigma**2) ** 0.5
        return x_t / length, max((alpha / length) ** 2, LEAST_SIGNAL)

    def from_diffusion(self, seen: Tensor, index: int) -> Tensor:
        """The flow's latent that :meth:`as_diffusion` shows as ``seen``."""
        return seen * (float(self.alphas[index]) ** 2 + float(self.sigmas[index]) ** 2) ** 0.5
