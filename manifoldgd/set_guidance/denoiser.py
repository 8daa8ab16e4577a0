"""Guidance by the denoiser's own features: each image becomes more like the real ones of its class there.

The middle of a diffusion network holds what is in a picture. DAP (*Diffusion Models as Dataset Distillation Priors*, Su
et al. 2026, arXiv 2510.17421) takes a kernel distance between synthetic and real images there as an energy and follows
its gradient while sampling; no other network is needed. It departs from that description: clean latents are compared,
at one low noise level, as everywhere here; the real side is a fixed sample of the class; and the gradient is followed
by Adam in the last steps, like every energy here, so that its unit does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import EnergyOf, Need, SetSize
from manifoldgd.prototypes import DenoiserFeatures
from manifoldgd.ranges import Range, checked
from manifoldgd.set_guidance.descent import SINGLE, Descent, Embed, RealSide


@checked
@dataclass(frozen=True, kw_only=True)
class DenoiserFeatureGuidance(Descent):
    """Descent of :class:`DenoiserEnergy`; for its other numbers see :class:`Descent`.

    Attributes:
        space: which features.
        real_per_class: real images of each class that images are compared with, >= 2.
    """

    space: DenoiserFeatures
    real_per_class: Annotated[int, Range("[2, 1000000]")]
    together: ClassVar[None] = None

    def memory(self, size: SetSize) -> dict[str, Need]:
        """Of the features of real images, those of its class for each image of a batch, and of their distances."""
        rows, count = size.rows(self.together), self.real_per_class
        chosen = (2 * rows + len(size.real)) * count * size.features
        lower = "lower machine.batch_size or the guidance's real_per_class"
        return super().memory(size) | {
            f"features of {count:,} real images of a class for {rows:,} images": Need(SINGLE * chosen, lower),
            f"the pairs of {count:,} real images of a class": Need(
                2 * SINGLE * count * (count - 1) // 2, "lower the guidance's real_per_class", on_host=True
            ),
        }

    def prepare(self, real: RealSide) -> EnergyOf:
        """The features of real images of each class."""
        features, embed = real.denoiser_features(self.space, self.real_per_class)
        return lambda decode, labels: DenoiserEnergy(embed, features, labels)


class DenoiserEnergy:
    """``E(z) = sum_i || phi(f(z_i)) - mean_j phi(f(y_j)) ||^2`` up to a constant, with the ``y_j`` real, of its class.

    ``phi`` is the feature map of the Gaussian kernel ``exp(-||a - b||^2 / h_c)``, so this is ``-2 mean_j k(z_i, y_j)``.
    ``h_c`` is the median squared distance between the real features of the class.

    Args:
        embed: the features ``f``.
        real: ``[classes, N, E]`` features of real images.
        labels: ``[B]`` class of each row, on the latents' device. Rows do not see one another.
    """

    def __init__(self, embed: Embed, real: Tensor, labels: Tensor) -> None:
        self.embed, self.labels = embed, labels
        own = labels.to(real.device)
        self.real = real[own].to(labels.device)
        self.bandwidths = torch.stack([_median_squared(each) for each in real])[own].to(labels.device)

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar; ``draw`` does not matter."""
        features = self.embed(x0, self.labels)
        squared = torch.cdist(features[:, None], self.real)[:, 0].square()
        return -2 * torch.exp(-squared / self.bandwidths[:, None]).mean(1).sum()


def _median_squared(rows: Tensor) -> Tensor:
    return torch.nn.functional.pdist(rows).median().square().clamp(min=torch.finfo(rows.dtype).tiny)
