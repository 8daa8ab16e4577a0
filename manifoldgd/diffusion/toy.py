"""A prior whose exact denoiser is known: a mixture of isotropic Gaussians with class labels.

With it a sampler or a guidance can be checked end to end, without a network: unguided samples must follow the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldgd.diffusion.samplers import PredictionKind, Schedule


@dataclass(frozen=True)
class GaussianMixtureDenoiser:
    r"""The exact prediction for ``x0 ~ sum_q weight_q N(mean_q, std_q^2 I)``, given a label or none.

    At a level ``x_t = a x0 + s eps`` component ``q`` is ``N(a mean_q, v_q I)`` with ``v_q = a^2 std_q^2 + s^2``, and
    given the component ``E[x0 | x_t] = mean_q + a std_q^2 / v_q (x_t - a mean_q)``. The posterior mean is the average
    of these over the components' responsibilities, and what is predicted follows from it.

    Attributes:
        means: ``[Q, C, H, W]``.
        stds: ``[Q]``, > 0.
        weights: ``[Q]``, > 0; need not sum to one.
        labels: ``[Q]`` int64 class of each component.
        schedule: the training schedule.
        null_class: label for which all components take part.
        prediction: what is predicted.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor
    labels: Tensor
    schedule: Schedule
    null_class: int
    prediction: PredictionKind = "epsilon"

    def __call__(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """``[B, C, H, W]``, original timesteps ``[B]``, labels ``[B]`` -> exact prediction ``[B, C, H, W]``."""
        signal, spread = (level[:, None] for level in self.schedule.levels(timesteps))  # [B, 1]
        x, means = x_t.flatten(1).double(), self.means.flatten(1).double()  # [B, D], [Q, D]
        variances = self.stds.double().square()  # [Q]
        total = signal.square() * variances + spread.square()  # [B, Q]
        residual = x[:, None] - signal[:, :, None] * means  # [B, Q, D]
        logits = self.weights.double().log() - residual.square().sum(-1) / (2 * total) - x.shape[1] / 2 * total.log()
        allowed = (labels[:, None] == self.labels) | (labels[:, None] == self.null_class)
        responsibilities = torch.softmax(logits.masked_fill(~allowed, -torch.inf), dim=1)  # [B, Q]
        component_x0 = means + (signal * variances / total)[:, :, None] * residual
        x0 = (responsibilities[:, :, None] * component_x0).sum(1)
        noise = (x - signal * x0) / spread
        predicted = {"epsilon": noise, "v_prediction": signal * noise - spread * x0, "flow": noise - x0}
        return predicted[self.prediction].view_as(x_t).to(x_t.dtype)
