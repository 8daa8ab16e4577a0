"""Plain stacks of layers: the ConvNet of dataset condensation, and MLP, LeNet, AlexNet and VGG-11 beside it.

ConvNet is an evaluation network of DC (arXiv 2006.05929) and IDC (arXiv 2205.14959); the others stand in DC's and DSA's
tables of how sets made for one architecture serve others.
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldgd.errors import require
from manifoldgd.students import fused
from manifoldgd.students.network import (
    SMALL_SIDE,
    ImageShape,
    Network,
    check_depth,
    check_sides,
    instance_norm,
    seeded,
)

FUSED_SIDE = 64  # pixels; the fused first block holds nine copies of the input, which only small images can afford


class ConvBlock(nn.Module):
    """3x3 convolution, instance norm, ReLU, 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int, *, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=padding)
        self.norm = instance_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C, H_out // 2, W_out // 2]``."""
        return F.avg_pool2d(F.relu(self.norm(self.conv(x)), inplace=True), 2)


class ConvNet(Network):
    """The ConvNet-``depth`` of DC and IDC.

    28-pixel images are padded to 32 by the first convolution, as in DC, so that three poolings leave 4x4.

    Args:
        width: Filters of every block (128 in the literature).
        depth: Blocks (3 for 28 to 64 pixels, 6 for 224).
        fused: Take the fast path of :mod:`manifoldgd.students.fused` where it applies (small images with even sides on
            a CPU). Same function; the convolutions' biases, which instance norm cancels, then get no gradient.

    Raises:
        UserError: If the image has no pixel left after ``depth`` halvings.
    """

    label, usual_width = "ConvNet", 128

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        *,
        width: int,
        depth: int,
        generator: torch.Generator,
        fused: bool = True,
    ) -> None:
        super().__init__()
        channels, height, width_px = image_shape
        require(
            min(height, width_px) >= 2**depth,
            f"{depth} halvings need images of at least {2**depth} pixels, got {height}x{width_px}; "
            f"lower it to {int(math.log2(min(height, width_px)))} or take larger images",
            key="depth",
        )
        self.fused = fused
        paddings = [3 if height == width_px == 28 else 1] + [1] * (depth - 1)
        self.sides = [height + 2 * paddings[0] - 2, width_px + 2 * paddings[0] - 2]
        with seeded(generator):
            inputs = [channels] + [width] * (depth - 1)
            self.blocks = nn.ModuleList(
                ConvBlock(each, width, padding=padding) for each, padding in zip(inputs, paddings, strict=True)
            )
            self.embedding_size = width * math.prod(side >> depth for side in self.sides)
            self.classifier = nn.Linear(self.embedding_size, num_classes)

    def _can_fuse(self, x: Tensor) -> bool:
        cells = 2 ** len(self.blocks)
        fits = max(self.sides) <= FUSED_SIDE and all(side % cells == 0 for side in self.sides)
        return self.fused and fits and x.device.type == "cpu"

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, the flattened output of the last block."""
        if not self._can_fuse(x):
            for block in self.blocks:
                x = block(x)
            return x.flatten(1)
        first, *rest = cast(list[ConvBlock], list(self.blocks))  # torch's list knows them as modules
        norm, keep, half = first.norm, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False):  # the fused blocks choose themselves what to round
            y = fused.first_block(x, first.conv.weight, norm.weight, norm.bias, first.padding)
            for block in rest:
                y = fused.ConvNormReluPool.apply(y, block.conv.weight, block.norm.weight, block.norm.bias, keep, half)
        return y.permute(0, 3, 1, 2).flatten(1)


class MLP(Network):
    """A multilayer perceptron with ReLU: in DC's tables two hidden layers of 128 units.

    Args:
        width: Units of every hidden layer.
        depth: Layers, the last of which gives the logits; at least 2.

    Raises:
        UserError: No hidden layer.
    """

    label, usual_width, usual_depth = "MLP", 128, 3

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        require(depth >= 2, f"an MLP has a hidden layer, so expected 2 or more, got {depth}; raise it", key="depth")
        with seeded(generator):
            sizes = [math.prod(image_shape)] + [width] * (depth - 1)
            self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))
            self.embedding_size = width
            self.classifier = nn.Linear(width, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, the last hidden layer."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return x


class LeNet(Network):
    """LeNet-5 (LeCun et al. 1998) as in DC: ReLU, max pooling, every map connected to every one before.

    28-pixel images are padded by 2, so that they end at 5x5 like 32-pixel ones. DC pads where there is one channel.

    Args:
        width: Filters of the first convolution (6); those of the second (16) and the units of the two layers after
            them (120 and 84) are in proportion.
        depth: 5.

    Raises:
        UserError: Another depth, or images below 16 pixels.
    """

    label, usual_width, usual_depth = "LeNet", 6, 5

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        check_depth(depth, (5,), "a LeNet")
        channels, *sides = image_shape
        check_sides(sides, 16, self.label)
        padding = 2 if sides == [28, 28] else 0
        ends = [((side + 2 * padding - 4) // 2 - 4) // 2 for side in sides]
        filters, units, self.embedding_size = max(1, width * 16 // 6), width * 20, width * 14
        with seeded(generator):
            self.conv1 = nn.Conv2d(channels, width, 5, padding=padding)
            self.conv2 = nn.Conv2d(width, filters, 5)
            self.linear1 = nn.Linear(filters * math.prod(ends), units)
            self.linear2 = nn.Linear(units, self.embedding_size)
            self.classifier = nn.Linear(self.embedding_size, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, the last hidden layer."""
        for convolution in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        return F.relu(self.linear2(F.relu(self.linear1(x.flatten(1)))))


class AlexNet(Network):
    """AlexNet (Krizhevsky et al. 2012) for small images as in DC: five convolutions, three poolings, one linear layer.

    28-pixel images are padded by 4, so that they end at 4x4 like 32-pixel ones; DC pads where there is one channel.
    Neither norm nor dropout. Above 64 pixels, which DC does not see, the first convolution strides by 4 as in the
    original.

    Args:
        width: Filters of the first convolution (128); those of the others (192, 256, 192, 192) are in proportion.
        depth: 6.

    Raises:
        UserError: Another depth, or images below 8 pixels.
    """

    label, usual_width, usual_depth = "AlexNet", 128, 6

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        check_depth(depth, (6,), "an AlexNet")
        channels, *sides = image_shape
        padding, stride = 4 if sides == [28, 28] else 2, 4 if max(sides) > SMALL_SIDE else 1
        check_sides(sides, 8 * stride, self.label)
        ends = [((side + 2 * padding - 5) // stride + 1) // 8 for side in sides]
        wide, widest = max(1, width * 3 // 2), width * 2
        with seeded(generator):
            self.convolutions = nn.Sequential(
                *(nn.Conv2d(channels, width, 5, stride=stride, padding=padding), nn.ReLU(inplace=True)),
                nn.MaxPool2d(2),
                *(nn.Conv2d(width, wide, 5, padding=2), nn.ReLU(inplace=True)),
                nn.MaxPool2d(2),
                *(nn.Conv2d(wide, widest, 3, padding=1), nn.ReLU(inplace=True)),
                *(nn.Conv2d(widest, wide, 3, padding=1), nn.ReLU(inplace=True)),
                *(nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(inplace=True)),
                nn.MaxPool2d(2),
            )
            self.embedding_size = wide * math.prod(ends)
            self.classifier = nn.Linear(self.embedding_size, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, the flattened last pooling."""
        return self.convolutions(x).flatten(1)


class VGG(Network):
    """VGG-11 (Simonyan & Zisserman 2015, arXiv 1409.1556) with instance norm as in DC, and one linear layer.

    28-pixel images are padded by 3 in the first convolution, so that five poolings leave one pixel of them as of
    32-pixel ones; DC pads where there is one channel. Of larger images, which DC does not see, the spatial mean is
    taken of what the poolings leave.

    Args:
        width: Filters of the first convolution (64); the stages have 1, 2, 4, 8 and 8 times as many.
        depth: 11.

    Raises:
        UserError: Another depth, or images below 32 pixels that are not padded: the last stage would see one pixel, of
            which instance norm makes zero whatever it is.
    """

    label, usual_width = "VGG", 64
    stages: ClassVar = {11: ((1,), (2,), (4, 4), (8, 8), (8, 8))}  # filters over width, by depth

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        check_depth(depth, self.stages, "a VGG")
        inputs, *sides = image_shape
        padded = sides == [28, 28]
        check_sides(sides, 28 if padded else 32, f"{self.label}-{depth}")
        layers: list[nn.Module] = []
        with seeded(generator):
            for stage in self.stages[depth]:
                for factor in stage:
                    padding = 3 if padded and not layers else 1
                    layers.append(nn.Conv2d(inputs, width * factor, 3, padding=padding))
                    layers += [instance_norm(width * factor), nn.ReLU(inplace=True)]
                    inputs = width * factor
                layers.append(nn.MaxPool2d(2))
            self.convolutions = nn.Sequential(*layers)
            self.embedding_size = inputs
            self.classifier = nn.Linear(inputs, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, the spatial mean of the last pooling."""
        return self.convolutions(x).mean((2, 3))
