"""A prior whose exact denoiser is known: a mixture of isotropic Gaussians with class labels.

With it a sampler or a guidance can be checked end to end, without a network: unguided samples must follow the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldgd.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class GaussianMixtureDenoiser:
    r"""The exact noise prediction for ``x0 ~ sum_q weight_q N(mean_q, std_q^2 I)``, given a label or none.

    At noise level ``abar`` component ``q`` is ``N(sqrt(abar) mean_q, v_q I)`` with ``v_q = abar std_q^2 + 1 - abar``,
    and given the component ``E[x0 | x_t] = mean_q + sqrt(abar) std_q^2 / v_q (x_t - sqrt(abar) mean_q)``. The
    posterior mean is the average of these over the components' responsibilities, and the noise follows from it.

    Attributes:
        means: ``[Q, C, H, W]``.
        stds: ``[Q]``, > 0.
        weights: ``[Q]``, > 0; need not sum to one.
        labels: ``[Q]`` int64 class of each component.
        schedule: the training schedule, indexed by original timesteps.
        null_class: label for which all components take part.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor
    labels: Tensor
    schedule: NoiseSchedule
    null_class: int

    def __call__(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """``[B, C, H, W]``, original timesteps ``[B]``, labels ``[B]`` -> exact noise ``[B, C, H, W]``."""
        alpha_bar = self.schedule.alphas_cumprod[timesteps][:, None]  # [B, 1]
        x, means = x_t.flatten(1).double(), self.means.flatten(1).double()  # [B, D], [Q, D]
        signal, variances = alpha_bar.sqrt(), self.stds.double().square()  # [B, 1], [Q]
        total = alpha_bar * variances + 1 - alpha_bar  # [B, Q]
        residual = x[:, None] - signal[:, :, None] * means  # [B, Q, D]
        logits = self.weights.double().log() - residual.square().sum(-1) / (2 * total) - x.shape[1] / 2 * total.log()
        allowed = (labels[:, None] == self.labels) | (labels[:, None] == self.null_class)
        responsibilities = torch.softmax(logits.masked_fill(~allowed, -torch.inf), dim=1)  # [B, Q]
        component_x0 = means + (signal * variances / total)[:, :, None] * residual
        x0 = (responsibilities[:, :, None] * component_x0).sum(1)
        return ((x - signal * x0) / (1 - alpha_bar).sqrt()).view_as(x_t).to(x_t.dtype)
