"""Descent of a set-level energy inside the sampler: what guidances of many images at once have in common.

A guidance of sets holds its numbers, makes its real side once (``prepare``) and gives the energy of each batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Protocol

import torch
from torch import Tensor

from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.protocol import Anchors, Need, Pull, SetEnergy, SetSize, Step, Together
from manifoldgd.machine import Machine
from manifoldgd.prototypes import Clusterer, DenoiserFeatures
from manifoldgd.ranges import Range, Share, checked
from manifoldgd.set_guidance.coordinates import BoundCoordinates, NeighbourhoodCoordinates

BETAS = (0.9, 0.99)  # of Adam: the energy is another network's at each evaluation, so its gradients are averaged
EPS = 1e-12
LARGEST_DIFFERENCES = 2**24  # numbers; 64 MiB in single precision, five times on the way back
SINGLE, DOUBLE = 4, 8  # bytes of a number
HELD_LATENTS = 12  # of each image: the sampler's, Adam's, a gradient and what makes the next of each

OnStep = Callable[[], None]
Embed = Callable[[Tensor, Tensor], Tensor]  # clean latents [B, C, H, W], classes [B] -> features [B, E], differentiable


class RealSide(Protocol):
    """What a guidance of sets may ask about the real training images; the pipeline answers, from its cache or anew."""

    dataset: ImageDataset
    machine: Machine

    def cached(self, kind: str, numbers: Mapping[str, int], make: Callable[[OnStep], Tensor], steps: int) -> Tensor:
        """What ``make`` makes of the training images in ``steps`` steps, each of which it announces.

        Args:
            kind: tells tensors of equal ``numbers`` apart, and is what the progress bar names.
            numbers: all that it depends on, besides the images and the students' precision.
            make: gives the tensor.
            steps: how many.
        """
        ...

    def centres(self, clusterer: Clusterer, count: int) -> tuple[Tensor, Tensor]:
        """``count`` centres of the latents of each class ``[classes, count, D]``, and their shares of it, float64."""
        ...

    def denoiser_features(self, space: DenoiserFeatures, per_class: int) -> tuple[Tensor, Embed]:
        """Features ``[classes, per_class, E]`` of real images, a fixed draw, and what gives those of latents."""
        ...


@checked
@dataclass(frozen=True, kw_only=True)
class Descent:
    """``x0 <- x0 + sum of Adam steps down E(x0)`` at each of the last denoising steps.

    The noise still to come undoes what is done early, so the descent acts late: from ``t_start`` to the last step.

    Attributes:
        rate: length of an Adam step in each coordinate, latent units, >= 0; 0 is no descent, bit for bit.
        inner_steps: gradient steps at each denoising step, >= 1.
        t_start: fraction of the steps, in [0, 1], below which the descent acts.
        coordinates: in which it steps; ``None`` for those of the latent.
    """

    rate: Share  # of the latents' standard deviation: a longer step leaves their distribution at once
    inner_steps: Annotated[int, Range("[1, 10000]")]
    t_start: Share
    coordinates: NeighbourhoodCoordinates | None = None
    together: ClassVar[Together | None] = "class"
    random_networks: ClassVar[bool] = False

    @property
    def neighbourhood(self) -> int:
        """Real latents wanted around each prototype."""
        return self.coordinates.neighbourhood if self.judges_sets and self.coordinates is not None else 0

    @property
    def judges_sets(self) -> bool:
        """Without a rate there is no energy."""
        return self.rate > 0

    def rate_at(self, share: float) -> float:
        """The rate when ``share``, in [0, 1), of all gradient steps are done."""
        return self.rate

    def memory(self, size: SetSize) -> dict[str, Need]:
        """Of the latents of a batch, and of the directions in which they step."""
        rows, numbers = size.rows(self.together), math.prod(size.latent_shape)
        needs = {f"the latents of {rows:,} images at once": Need(HELD_LATENTS * SINGLE * rows * numbers, "lower ipc")}
        if self.neighbourhood:
            axes = Need(
                2 * SINGLE * rows * self.neighbourhood * numbers, "lower ipc, or neighbourhood of the coordinates"
            )
            needs[f"the coordinates of {rows:,} images at once"] = axes
        return needs

    def evaluations(self, steps: int, taken: int) -> int:
        """Gradient steps for a batch that takes the last ``taken`` of ``steps`` denoising steps."""
        return min(round(self.t_start * steps), taken) * self.inner_steps

    def bind(self, anchors: Anchors) -> _BoundDescent:
        """The guidance down ``anchors.energy``."""
        if anchors.energy is None and self.rate > 0:
            raise ValueError("energy: expected the set energy of the batch, got None")
        if self.rate == 0:
            return _BoundDescent(self, None)
        coordinates = None if self.coordinates is None else self.coordinates.bind(anchors)
        return _BoundDescent(self, anchors.energy, coordinates)


def gradient_of(energy: SetEnergy, x0: Tensor, draw: int) -> Tensor:
    """Gradient ``[B, C, H, W]`` of a set energy at clean latents, wherever gradients are off."""
    with torch.enable_grad():
        variable = x0.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(energy(variable, draw), variable)
    return gradient


def squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """``[n, m]`` from ``[n, D]`` and ``[m, D]``, differentiable; near rows lose no digits.

    By differences where they are few, and by products in double precision, which take far less memory and time, beyond
    :data:`LARGEST_DIFFERENCES` numbers.
    """
    if len(rows) * others.numel() <= LARGEST_DIFFERENCES:
        return (rows[:, None] - others).square().sum(-1)
    one, two = ((each.cpu() if each.device.type == "mps" else each).double() for each in (rows, others))
    squared = one.square().sum(1)[:, None] + two.square().sum(1) - 2 * one @ two.T
    return squared.clamp(min=0).to(rows)


def distances_need(rows: int, others: int, numbers: int) -> int:
    """Bytes of :func:`squared_distances` of ``D = numbers`` and of what is made of them, ``n, m = rows, others``."""
    few = rows * others * numbers <= LARGEST_DIFFERENCES
    made = 5 * SINGLE * rows * others * numbers if few else 3 * DOUBLE * (rows + others) * numbers
    return made + 6 * DOUBLE * rows * others


@dataclass
class Adam:
    """Directions of Adam (Kingma & Ba 2015, algorithm 1), without its rate."""

    count: int = 0  # gradients taken
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0

    def __call__(self, gradient: Tensor) -> Tensor:
        """The direction that goes up, about one in each coordinate, from the next gradient of any shape."""
        self.count += 1
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient.square()
        mean = self.first / (1 - BETAS[0] ** self.count)
        return mean / ((self.second / (1 - BETAS[1] ** self.count)).sqrt() + EPS)


@dataclass
class _BoundDescent:
    """Adam's averages live as long as the batch: the denoising steps continue one descent."""

    method: Descent
    energy: SetEnergy | None  # None where the rate is 0
    coordinates: BoundCoordinates | None = None
    adam: Adam = field(default_factory=Adam)
    total: int = 0  # gradient steps of the batch, known at the first

    def __call__(self, step: Step) -> Pull | None:
        method, energy = self.method, self.energy
        if energy is None or step.index >= round(method.t_start * step.num_steps):
            return None
        # Counted from here down to 0: a batch that starts from prototypes may take fewer steps than t_start allows.
        self.total = self.total or (step.index + 1) * method.inner_steps
        x0 = step.x0
        for _ in range(method.inner_steps):
            rate = method.rate_at(self.adam.count / self.total)
            gradient = gradient_of(energy, x0, self.adam.count)
            if self.coordinates is None:
                direction = self.adam(gradient)
            else:
                direction = self.adam(self.coordinates.gradient(gradient))
                direction = self.coordinates.moved(direction, x0.shape)
            x0 = x0 - rate * direction
        return Pull(scaled=None, plain=None, kept=None, clean=x0 - step.x0)
