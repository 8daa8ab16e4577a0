"""Student networks: ConvNet, ResNet and ResNetAP, all with instance norm.

They are the evaluation networks of dataset condensation (DC, arXiv 2006.05929; IDC, arXiv 2205.14959), which Minimax,
MGD3 and ManifoldGD (arXiv 2602.23295, section 4) report on. Each has ``features(x) -> [B, E]`` (penultimate) and
``forward(x) -> [B, num_classes]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldgd.errors import UserError, require
from manifoldgd.ranges import Range
from manifoldgd.students import fused

SMALL_SIDE = 64  # pixels; up to here the ResNet stem keeps the resolution (IDC)
MID_SIDE = 128  # pixels; up to here the stem halves it, above it quarters it (IDC)
FUSED_SIDE = 64  # pixels; the fused first block holds nine copies of the input, which only small images can afford
STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}  # residual blocks of each stage by depth

ImageShape = tuple[int, int, int]  # channels, height, width
Depth = Annotated[int, Range("[1, 18]")]  # a ConvNet halves its images as often


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Draws inside depend on ``generator`` alone; the global random state is as before afterwards."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also reseed accelerators, whose state fork_rng does not hold here.
        torch.default_generator.manual_seed(seed)
        yield


def instance_norm(channels: int) -> nn.GroupNorm:
    """Instance norm with learned scale and shift and no running statistics."""
    return nn.GroupNorm(channels, channels)


class ConvBlock(nn.Module):
    """3x3 convolution, instance norm, ReLU, 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int, *, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=padding)
        self.norm = instance_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C, H_out // 2, W_out // 2]``."""
        return F.avg_pool2d(F.relu(self.norm(self.conv(x)), inplace=True), 2)


class ConvNet(nn.Module):
    """The ConvNet-``depth`` of DC and IDC.

    28-pixel images are padded to 32 by the first convolution, as in DC, so that three poolings leave 4x4.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Outputs.
        width: Filters of every block (128 in the literature).
        depth: Blocks (3 for 28 to 64 pixels, 6 for 224).
        generator: Source of the initial weights.
        fused: Take the fast path of :mod:`manifoldgd.students.fused` where it applies (small images with even sides on
            a CPU). Same function; the convolutions' biases, which instance norm cancels, then get no gradient.

    Raises:
        UserError: If the image has no pixel left after ``depth`` halvings.
    """

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
        first, *rest = self.blocks
        norm, keep, half = first.norm, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False):  # the fused blocks choose themselves what to round
            y = fused.first_block(x, first.conv.weight, norm.weight, norm.bias, first.conv.padding[0])
            for block in rest:
                y = fused.ConvNormReluPool.apply(y, block.conv.weight, block.norm.weight, block.norm.bias, keep, half)
        return y.permute(0, 3, 1, 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> logits ``[B, num_classes]``."""
        return self.classifier(self.features(x))


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


class ResNet(nn.Module):
    """ResNet-18 or -10 with instance norm, in IDC's variant for the image's size.

    The stem of images up to 64 pixels is a 3x3 convolution of stride 1 without pooling; up to 128 pixels a pooling
    follows; above, a 7x7 convolution and pooling quarter the resolution.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Outputs.
        width: Filters of the first stage, doubled at each of the three others (64 in the literature).
        depth: 10 or 18.
        generator: Source of the initial weights: normal with variance ``2 / fan_out``.

    Raises:
        UserError: Unknown depth, or images so small that the last stage would see one pixel, of which instance norm
            makes zero whatever it is.
    """

    pooled = False  # whether average pooling, not strides, lowers the resolution

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        if depth not in STAGES:
            raise UserError(f"expected one of {sorted(STAGES)} for a ResNet, got {depth}; choose one", key="depth")
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

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> logits ``[B, num_classes]``."""
        return self.classifier(self.features(x))


class ResNetAP(ResNet):
    """A ResNet that lowers the resolution by average pooling where the other strides (ResNetAP-10 of IDC)."""

    pooled = True


ARCHITECTURES: dict[str, type[ConvNet] | type[ResNet]] = {"convnet": ConvNet, "resnet": ResNet, "resnet_ap": ResNetAP}
LABELS = {"convnet": "ConvNet", "resnet": "ResNet", "resnet_ap": "ResNetAP"}


def network_name(architecture: str, width: int, depth: int) -> str:
    """What tables call a network, for instance ``ConvNet-3``; the width is named where it is not the literature's."""
    usual = 128 if architecture == "convnet" else 64
    suffix = "" if width == usual else f" (width {width})"
    return f"{LABELS[architecture]}-{depth}{suffix}"
