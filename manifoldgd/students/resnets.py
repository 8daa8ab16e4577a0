"""ResNet and ResNetAP with instance norm, evaluation networks of dataset condensation.

Those of IDC (arXiv 2205.14959), which Minimax, MGD3 and ManifoldGD (arXiv 2602.23295, section 4) report on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldgd.errors import require
from manifoldgd.students.network import (
    MID_SIDE,
    SMALL_SIDE,
    ImageShape,
    Network,
    check_depth,
    instance_norm,
    seeded,
)

STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}  # residual blocks of each stage by depth


class Shrink(nn.Module):
    """A convolution without bias that divides the resolution by ``stride``: by its stride or by average pooling."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int, pooled: bool) -> None:
        super().__init__()
        steps = 1 if pooled else stride
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=steps, padding=kernel // 2, bias=False)
        self.pool = stride if pooled else 1

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C, H / stride, W / stride]``."""
        x = self.conv(x)
        return F.avg_pool2d(x, self.pool) if self.pool > 1 else x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. ``pooled``: downsample by average pooling after the first ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, pooled: bool) -> None:
        super().__init__()
        self.pool = stride if pooled else 1
        steps = 1 if pooled else stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=steps, padding=1, bias=False)
        self.norm1 = instance_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = instance_norm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            shrink = Shrink(in_channels, out_channels, 1, stride=stride, pooled=pooled)
            self.shortcut = nn.Sequential(shrink, instance_norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C, H / stride, W / stride]``."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        if self.pool > 1:
            y = F.avg_pool2d(y, self.pool)
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class ResNet(Network):
    """ResNet-18 or -10 with instance norm, in IDC's variant for the image's size.

    The stem of images up to 64 pixels is a 3x3 convolution of stride 1 without pooling; up to 128 pixels a pooling
    follows; above, a 7x7 convolution and pooling quarter the resolution. Initial weights are normal with variance
    ``2 / fan_out``.

    Args:
        width: Filters of the first stage, doubled at each of the three others (64 in the literature).
        depth: 10 or 18.

    Raises:
        UserError: Unknown depth, or images so small that the last stage would see one pixel, of which instance norm
            makes zero whatever it is.
    """

    label, usual_width = "ResNet", 64
    pooled = False  # whether average pooling, not strides, lowers the resolution

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        check_depth(depth, STAGES, "a ResNet")
        channels, *sides = image_shape
        self._check_sides(*sides)
        with seeded(generator):
            self.stem = self._stem(channels, width, max(sides))
            stages, inputs = [], width
            for index, blocks in enumerate(STAGES[depth]):
                outputs = width * 2**index
                for block in range(blocks):
                    stride = 2 if index and block == 0 else 1
                    stages.append(ResidualBlock(inputs, outputs, stride=stride, pooled=self.pooled))
                    inputs = outputs
            self.stages = nn.Sequential(*stages)
            self.embedding_size = inputs
            self.classifier = nn.Linear(inputs, num_classes)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def _check_sides(self, height: int, width: int) -> None:
        side = max(height, width)
        shrinkage = 8 * (1 if side <= SMALL_SIDE else 2 if side <= MID_SIDE else 4)
        require(
            min(height, width) >= 2 * shrinkage,
            f"student: a ResNet needs sides of at least {2 * shrinkage} pixels here, got {height}x{width}; "
            "take larger images or student=convnet3",
        )

    def _stem(self, channels: int, width: int, side: int) -> nn.Sequential:
        kernel, stride, pool = (3, 1, 1) if side <= SMALL_SIDE else (3, 1, 2) if side <= MID_SIDE else (7, 2, 2)
        if self.pooled:
            stride, pool = 1, stride * pool
        conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        pooling = nn.AvgPool2d(pool) if self.pooled else nn.MaxPool2d(3, stride=2, padding=1)
        return nn.Sequential(conv, instance_norm(width), nn.ReLU(inplace=True), *([pooling] if pool > 1 else []))

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, the spatial mean of the last stage."""
        return self.stages(self.stem(x)).mean((2, 3))


class ResNetAP(ResNet):
    """A ResNet that lowers the resolution by average pooling where the other strides (ResNetAP-10 of IDC)."""

    label = "ResNetAP"
    pooled = True
