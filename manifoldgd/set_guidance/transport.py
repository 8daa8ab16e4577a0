"""How far the synthetic latents of a class are, together, from weighted centres of its real ones: optimal transport."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldgd.set_guidance.networks import Decode

ITERATIONS = 200  # of Sinkhorn's; the plan's marginals are then off by less than a thousandth at the ranges in use


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
        labels: ``[B]`` class of each row; all images of a class are there.
        regularisation: see :func:`transport_plan`.
    """

    def __init__(self, centres: Tensor, weights: Tensor, labels: Tensor, regularisation: float) -> None:
        self.centres, self.weights, self.regularisation = centres, weights, regularisation
        self.groups = {int(label): torch.nonzero(labels == label).flatten() for label in labels.unique()}

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar; ``draw`` does not matter."""
        flat = x0.flatten(1)
        return torch.stack([self._of(flat[group.to(x0.device)], label) for label, group in self.groups.items()]).sum()

    def _of(self, rows: Tensor, label: int) -> Tensor:
        centres = self.centres[label].to(rows)
        cost = (rows[:, None] - centres).square().sum(-1)
        with torch.no_grad():
            source = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64, device=rows.device)
            target = self.weights[label].to(source)
            plan = transport_plan(cost.detach().double(), source, target, self.regularisation)
        return len(rows) / 2 * (plan.to(cost) * cost).sum()


@dataclass(frozen=True)
class Transport:
    """What transport guidance needs of a dataset, for all batches of a set."""

    centres: Tensor  # [classes, M, D]
    weights: Tensor  # [classes, M], rows sum to 1
    regularisation: float
    precision = "32-true"

    def energy(self, decode: Decode, labels: Tensor) -> TransportEnergy:
        """The energy of a batch with these labels ``[B]``."""
        return TransportEnergy(self.centres, self.weights, labels, self.regularisation)
