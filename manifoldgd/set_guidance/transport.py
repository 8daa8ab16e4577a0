"""Transport guidance: the images of a class share out weighted centres of the real ones by optimal transport.

Mode guidance gives every image one prototype, whatever the share of the class that it stands for. Here every step
transports the predicted clean latents of a class to many centres, each weighted by its cluster's share, and pulls each
latent to the mean of what it got. This is DMGD's distribution matching (*Train-Free Dataset Distillation with
Semantic-Distribution Matching in Diffusion Models*, Wang et al. 2026, arXiv 2605.03877), after its description:
weighted centres in place of the real distribution, optimal transport to them as guidance. It departs: the plan is
entropic; all images of a class move at once, where DMGD matches them progressively, one part after another; and its
semantic matching and dynamic labels, which act on the prior's conditioning, are left to the class label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors, EnergyOf, Need, Pull, SetEnergy, SetSize, Step, Together
from manifoldgd.guidance.window import acts
from manifoldgd.prototypes import Clusterer
from manifoldgd.ranges import Range, Share, Strength, checked
from manifoldgd.set_guidance.descent import (
    SINGLE,
    RealSide,
    distances_need,
    gradient_of,
    squared_distances,
)

ITERATIONS = 200  # of Sinkhorn's; the plan's marginals are then off by less than a thousandth at the ranges in use


@checked
@dataclass(frozen=True, kw_only=True)
class TransportGuidance:
    """``pull = scale * (T(x0) - x0)``: descent of :class:`TransportEnergy`.

    Attributes:
        scale: strength, >= 0; 0 is the unguided run bit for bit.
        clusterer: that finds the centres of each class, a ``manifoldgd.prototypes.Clusterer``.
        centres: of each class, >= 1.
        regularisation: of the transport plan, > 0, share of the mean cost.
        t_stop: fraction of the steps, in [0, 1], at which guidance ends.
    """

    scale: Strength
    clusterer: Clusterer
    centres: Annotated[int, Range("[1, 10000]")]
    regularisation: Annotated[float, Range("[0.0001, 1000]")]  # below, its exponentials underflow
    t_stop: Share
    neighbourhood: ClassVar[int] = 0
    together: ClassVar[Together] = "class"
    random_networks: ClassVar[bool] = False

    @property
    def judges_sets(self) -> bool:
        """Without a scale there are no centres."""
        return self.scale > 0

    def prepare(self, real: RealSide) -> EnergyOf:
        """The centres, and their shares of each class."""
        centres, weights = real.centres(self.clusterer, self.centres)
        return lambda decode, labels: TransportEnergy(centres, weights, labels, self.regularisation)

    def memory(self, size: SetSize) -> dict[str, Need]:
        """Of the transport plan of a class, and of the centres of all."""
        numbers = math.prod(size.latent_shape)
        plan = distances_need(size.ipc, self.centres, numbers)
        centres = SINGLE * len(size.real) * self.centres * numbers
        return {
            f"the plan from {size.ipc:,} images of a class to {self.centres:,} centres": Need(
                plan, "lower ipc or the guidance's centres"
            ),
            f"{self.centres:,} centres of each class": Need(2 * centres, "lower the guidance's centres"),
        }

    def evaluations(self, steps: int, taken: int) -> int:
        """One a guided step."""
        return max(0, taken - 1 - round(self.t_stop * steps))

    def bind(self, anchors: Anchors) -> _BoundTransport:
        """The guidance down ``anchors.energy``."""
        if anchors.energy is None and self.scale > 0:
            raise ValueError("energy: expected the transport energy of the batch, got None")
        return _BoundTransport(self, anchors.energy)


@dataclass(frozen=True)
class _BoundTransport:
    method: TransportGuidance
    energy: SetEnergy | None  # None where the scale is 0

    def __call__(self, step: Step) -> Pull | None:
        if self.energy is None or self.method.scale == 0 or not acts(step, self.method.t_stop):
            return None
        gradient = gradient_of(self.energy, step.x0, step.index)
        return Pull(scaled=-self.method.scale * gradient, plain=None, kept=None)


def transport_plan(cost: Tensor, source: Tensor, target: Tensor, regularisation: float) -> Tensor:
    """The entropic transport plan between two discrete distributions (Cuturi 2013), in the log domain.

    Args:
        cost: ``[n, m]``, >= 0.
        source: ``[n]``, > 0, sums to 1.
        target: ``[m]``, > 0, sums to 1.
        regularisation: > 0, share of the mean cost; the plan tends to the unregularised one as it tends to 0.

    Returns:
        ``[n, m]``, its rows sum to ``source`` exactly, its columns to ``target`` as the iterations converge.

    Example:
        >>> cost, half = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0.5, 0.5])
        >>> [[round(mass, 3) for mass in row] for row in transport_plan(cost, half, half, 0.05).tolist()]
        [[0.5, 0.0], [0.0, 0.5]]
    """
    scaled = -cost / (regularisation * cost.mean().clamp(min=torch.finfo(cost.dtype).tiny))
    rows, columns = torch.zeros_like(source), torch.zeros_like(target)
    for _ in range(ITERATIONS):
        columns = target.log() - torch.logsumexp(scaled + rows[:, None], dim=0)
        rows = source.log() - torch.logsumexp(scaled + columns, dim=1)
    return torch.exp(scaled + rows[:, None] + columns)


class TransportEnergy:
    """``E(z) = sum_c n_c / 2 sum_ij P_ij ||z_i - y_j||^2`` with ``P`` the plan from the ``n_c`` images to the centres.

    No gradient flows through the plan, so the gradient of row ``i`` is ``z_i - T(z_i)`` with ``T(z_i)`` the mean of the
    centres under its share of the plan, the barycentric projection.

    Args:
        centres: ``[classes, M, D]`` of real latents.
        weights: ``[classes, M]``, the shares of the class that they stand for.
        labels: ``[B]`` class of each row, on the latents' device; all images of a class are there.
        regularisation: see :func:`transport_plan`.
    """

    def __init__(self, centres: Tensor, weights: Tensor, labels: Tensor, regularisation: float) -> None:
        self.centres, self.weights = centres.to(labels.device), weights.to(labels.device)
        self.regularisation = regularisation
        self.groups = {int(label): torch.nonzero(labels == label).flatten() for label in labels.unique()}

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar; ``draw`` does not matter."""
        flat = x0.flatten(1)
        return torch.stack([self._of(flat[group], label) for label, group in self.groups.items()]).sum()

    def _of(self, rows: Tensor, label: int) -> Tensor:
        centres = self.centres[label].to(rows)
        cost = squared_distances(rows, centres)
        with torch.no_grad():
            source = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64, device=rows.device)
            target = self.weights[label].to(source)
            plan = transport_plan(cost.detach().double(), source, target, self.regularisation)
        return len(rows) / 2 * (plan.to(cost) * cost).sum()
