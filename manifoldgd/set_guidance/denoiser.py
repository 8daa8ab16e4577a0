"""How far each synthetic image is from the real ones of its class in the features of the prior's own network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldgd.set_guidance.networks import Decode

Embed = Callable[[Tensor, Tensor], Tensor]  # clean latents [B, C, H, W], classes [B] -> [B, E], differentiable


class DenoiserEnergy:
    """``E(z) = sum_i || phi(f(z_i)) - mean_j phi(f(y_j)) ||^2`` up to a constant, with the ``y_j`` real, of its class.

    ``phi`` is the feature map of the Gaussian kernel ``exp(-||a - b||^2 / h_c)``, so this is ``-2 mean_j k(z_i, y_j)``.
    ``h_c`` is the median squared distance between the real features of the class.

    Args:
        embed: the features ``f``.
        real: ``[classes, N, E]`` features of real images.
        labels: ``[B]`` class of each row. Rows do not see one another.
    """

    def __init__(self, embed: Embed, real: Tensor, labels: Tensor) -> None:
        self.embed, self.labels = embed, labels
        self.real, self.bandwidths = real[labels], torch.stack([_median_squared(each) for each in real])[labels]

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar; ``draw`` does not matter."""
        features = self.embed(x0, self.labels.to(x0.device))
        squared = torch.cdist(features[:, None], self.real.to(features))[:, 0].square()
        return -2 * torch.exp(-squared / self.bandwidths.to(features)[:, None]).mean(1).sum()


def _median_squared(rows: Tensor) -> Tensor:
    return torch.nn.functional.pdist(rows).median().square().clamp(min=torch.finfo(rows.dtype).tiny)


@dataclass(frozen=True)
class DenoiserMatching:
    """What guidance by the denoiser's features needs of a dataset, for all batches of a set."""

    embed: Embed
    real: Tensor  # [classes, N, E]
    precision = "32-true"

    def energy(self, decode: Decode, labels: Tensor) -> DenoiserEnergy:
        """The energy of a batch with these labels ``[B]``."""
        return DenoiserEnergy(self.embed, self.real, labels)
