"""How images are shown to a network, and what it says to them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from manifoldgd.dataset import check_statistics
from manifoldgd.finite import check_finite
from manifoldgd.students.augmentation import constant
from manifoldgd.students.network import Network

# Pixels seen at once in a test pass, and images at most. A first block of 64 filters at full size, a ResNetAP's, then
# gives half a GiB (500 images of 64x64, 41 of 224x224).
EVALUATION_PIXELS = 2**21
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Pixels:
    """How uint8 images become network input, per channel in units of [0, 1].

    Raises:
        UserError: no pixels in [0, 1] have such a mean or deviation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_statistics(self.mean, self.std, len(self.mean))

    def unit(self, images: Tensor) -> Tensor:
        """uint8 ``[B, C, H, W]`` -> float32 in [0, 1]."""
        return images.float().div_(255)

    def normalised(self, images: Tensor) -> Tensor:
        """Float ``[B, C, H, W]`` in [0, 1] -> zero mean and unit variance over the dataset."""
        mean, std = (constant(each, images.dtype, images.device).view(1, -1, 1, 1) for each in (self.mean, self.std))
        return (images - mean) / std


def centre_view(images: Tensor, size: tuple[int, int], cover: Fraction) -> Tensor:
    """Test images ``[B, C, H, W]`` at ``size``: scaled to cover ``cover`` times its sides, then cropped at the centre.

    ``cover`` is at least 1. Images that have the size already stay as they are.
    """
    if tuple(images.shape[2:]) == size:
        return images
    factor = max(round(target * cover) / side for target, side in zip(size, images.shape[2:], strict=True))
    covering = [max(target, round(side * factor)) for target, side in zip(size, images.shape[2:], strict=True)]
    images = F.interpolate(images, covering, mode="bilinear", antialias=True)
    top, left = ((have - want) // 2 for have, want in zip(covering, size, strict=True))
    return images[:, :, top : top + size[0], left : left + size[1]]


def seen_at_once(size: tuple[int, int]) -> int:
    """Images of a test pass at this size that a network sees at once."""
    return min(EVALUATION_BATCH, max(1, EVALUATION_PIXELS // (size[0] * size[1])))


@torch.no_grad()  # not inference mode: its tensors could never meet autograd again
def outputs(
    network: Network,
    images: Tensor,
    pixels: Pixels,
    size: tuple[int, int],
    *,
    cover: Fraction,
    features: bool = False,
) -> Tensor:
    """Logits ``[n, num_classes]`` or features ``[n, E]`` of uint8 images ``[n, C, H, W]``, float32 on the CPU.

    Args:
        network: On any device.
        images: On any device.
        pixels: Normalisation.
        size: Height and width of the network's input.
        cover: See :func:`centre_view`.
        features: The penultimate layer's output instead of logits.

    Raises:
        NotFinite: An output is NaN or infinite; its largest value would be that of class 0.
    """
    device = next(network.parameters()).device
    apply = network.features if features else network
    trains = network.training
    network.eval()  # of what students are made of by default nothing behaves differently; batch norm and dropout do
    batches = (centre_view(pixels.unit(each.to(device)), size, cover) for each in images.split(seen_at_once(size)))
    found = torch.cat([apply(pixels.normalised(batch)).cpu() for batch in batches])
    network.train(trains)
    check_finite(found, "network under test: the outputs", "its training diverged, or its weights are damaged")
    return found
