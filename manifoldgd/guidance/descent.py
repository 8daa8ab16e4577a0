"""Descent of a set-level energy inside the sampler: what guidances of many images at once have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, Pull, SetEnergy, Step
from manifoldgd.ranges import Million, Range, Seed, Share, Width, checked

BETAS = (0.9, 0.99)  # of Adam: the energy is another network's at each evaluation, so its gradients are averaged
EPS = 1e-12


@checked
@dataclass(frozen=True, kw_only=True)
class Descent:
    """``x0 <- x0 + sum of Adam steps down E(x0)`` at each of the last denoising steps.

    The noise still to come undoes what is done early, so the descent acts late: from ``t_start`` to the last step.

    Attributes:
        rate: length of an Adam step in each coordinate, latent units, >= 0; 0 is no descent, bit for bit.
        inner_steps: gradient steps at each denoising step, >= 1.
        t_start: fraction of the steps, in [0, 1], below which the descent acts.
    """

    rate: Share  # of the latents' standard deviation: a longer step leaves their distribution at once
    inner_steps: Annotated[int, Range("[1, 10000]")]
    t_start: Share
    neighbourhood: ClassVar[int] = 0

    def rate_at(self, share: float) -> float:
        """The rate when ``share``, in [0, 1), of all gradient steps are done."""
        return self.rate

    def evaluations(self, steps: int, taken: int) -> int:
        """Gradient steps for a batch that takes the last ``taken`` of ``steps`` denoising steps."""
        return min(round(self.t_start * steps), taken) * self.inner_steps

    def bind(self, anchors: Anchors) -> _BoundDescent:
        """The guidance down ``anchors.energy``."""
        if anchors.energy is None and self.rate > 0:
            raise ValueError("energy: expected the set energy of the batch, got None")
        return _BoundDescent(self, anchors.energy)


@checked
@dataclass(frozen=True, kw_only=True)
class SetDescent(Descent):
    """Descent of an energy that looks at images through random networks.

    Attributes:
        networks: random networks in the pool, >= 1.
        width: their filters, >= 1.
        real_per_class: real images of each class that the energy knows, >= 1.
        pool_seed: of the draw of networks and real images. ``None`` is one draw that sets of all seeds share, so that
            the spread between them leaves out what another draw would change.
    """

    networks: Annotated[int, Range("[1, 1000]")]  # all are held in memory
    width: Width
    real_per_class: Million
    pool_seed: Seed | None


@dataclass
class _BoundDescent:
    """Adam's averages live as long as the batch: the denoising steps continue one descent."""

    method: Descent
    energy: SetEnergy | None  # None where the rate is 0
    count: int = 0  # gradient steps done
    total: int = 0  # gradient steps of the batch, known at the first
    first: Tensor | float = field(default=0.0)
    second: Tensor | float = field(default=0.0)

    def __call__(self, step: Step) -> Pull | None:
        method = self.method
        if method.rate == 0 or step.index >= round(method.t_start * step.num_steps):
            return None
        # Counted from here down to 0: a batch that starts from prototypes may take fewer steps than t_start allows.
        self.total = self.total or (step.index + 1) * method.inner_steps
        x0 = step.x0
        for _ in range(method.inner_steps):
            rate = method.rate_at(self.count / self.total)
            x0 = x0 - rate * self._direction(self._gradient(x0))
        return Pull(scaled=None, plain=None, kept=None, clean=x0 - step.x0)

    def _gradient(self, x0: Tensor) -> Tensor:
        with torch.enable_grad():
            variable = x0.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.energy(variable, self.count), variable)
        return gradient

    def _direction(self, gradient: Tensor) -> Tensor:
        """Adam (Kingma & Ba 2015, algorithm 1) without its rate."""
        self.count += 1
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient.square()
        mean = self.first / (1 - BETAS[0] ** self.count)
        return mean / ((self.second / (1 - BETAS[1] ** self.count)).sqrt() + EPS)
