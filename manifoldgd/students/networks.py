"""Student networks: those of the field's tables, each with instance norm or without any, and any model of timm.

ConvNet, ResNet and ResNetAP are the evaluation networks of dataset condensation (DC, arXiv 2006.05929; IDC, arXiv
2205.14959), which Minimax, MGD3 and ManifoldGD (arXiv 2602.23295, section 4) report on. MLP, LeNet, AlexNet and VGG-11
stand beside them in DC's and DSA's tables of how sets made for one architecture serve others; later ones add ViT-Tiny.
Each has ``features(x) -> [B, E]`` (penultimate) and ``forward(x) -> [B, num_classes]``.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

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
TIMM = "timm:"  # before the name of one of timm's models, where an architecture is named

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


class Network(nn.Module):
    """What a student or a classifier is: features, and a linear map of them to logits.

    Attributes:
        embedding_size: Length ``E`` of the features.
        classifier: The linear map.
    """

    label: ClassVar[str]  # what tables call it
    usual_width: ClassVar[int]  # of the literature; another one is named beside the label
    usual_depth: ClassVar[int | None] = None  # as the width; None: the depth is part of the label
    embedding_size: int
    classifier: nn.Module

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> logits ``[B, num_classes]``."""
        return self.classifier(self.features(x))


class ConvBlock(nn.Module):
    """3x3 convolution, instance norm, ReLU, 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int, *, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=padding)
        self.norm = instance_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C, H_out // 2, W_out // 2]``."""
        return F.avg_pool2d(F.relu(self.norm(self.conv(x)), inplace=True), 2)


class ConvNet(Network):
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
        first, *rest = self.blocks
        norm, keep, half = first.norm, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False):  # the fused blocks choose themselves what to round
            y = fused.first_block(x, first.conv.weight, norm.weight, norm.bias, first.conv.padding[0])
            for block in rest:
                y = fused.ConvNormReluPool.apply(y, block.conv.weight, block.norm.weight, block.norm.bias, keep, half)
        return y.permute(0, 3, 1, 2).flatten(1)


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

    label, usual_width = "ResNet", 64
    pooled = False  # whether average pooling, not strides, lowers the resolution

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        _check_depth(depth, STAGES, "a ResNet")
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


class MLP(Network):
    """A multilayer perceptron with ReLU: in DC's tables two hidden layers of 128 units.

    Args:
        image_shape: Channels, height, width of the input, any.
        num_classes: Outputs.
        width: Units of every hidden layer.
        depth: Layers, the last of which gives the logits; at least 2.
        generator: Source of the initial weights, torch's own.

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
        image_shape: Channels, height, width of the input.
        num_classes: Outputs.
        width: Filters of the first convolution (6); those of the second (16) and the units of the two layers after
            them (120 and 84) are in proportion.
        depth: 5.
        generator: Source of the initial weights, torch's own.

    Raises:
        UserError: Another depth, or images below 16 pixels.
    """

    label, usual_width, usual_depth = "LeNet", 6, 5

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        _check_depth(depth, (5,), "a LeNet")
        channels, *sides = image_shape
        _check_sides(sides, 16, self.label)
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
        image_shape: Channels, height, width of the input.
        num_classes: Outputs.
        width: Filters of the first convolution (128); those of the others (192, 256, 192, 192) are in proportion.
        depth: 6.
        generator: Source of the initial weights, torch's own.

    Raises:
        UserError: Another depth, or images below 8 pixels.
    """

    label, usual_width, usual_depth = "AlexNet", 128, 6

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        _check_depth(depth, (6,), "an AlexNet")
        channels, *sides = image_shape
        padding, stride = 4 if sides == [28, 28] else 2, 4 if max(sides) > SMALL_SIDE else 1
        _check_sides(sides, 8 * stride, self.label)
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
        image_shape: Channels, height, width of the input.
        num_classes: Outputs.
        width: Filters of the first convolution (64); the stages have 1, 2, 4, 8 and 8 times as many.
        depth: 11.
        generator: Source of the initial weights, torch's own.

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
        _check_depth(depth, self.stages, "a VGG")
        inputs, *sides = image_shape
        padded = sides == [28, 28]
        _check_sides(sides, 28 if padded else 32, f"{self.label}-{depth}")
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


class TransformerBlock(nn.Module):
    """Self-attention and a layer of four times the width, each on normed input and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, tokens, width]`` -> the same."""
        query, key, value = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.projection(attended)
        return x + self.mlp(self.norm2(x))


class ViT(Network):
    """ViT-Tiny: DeiT-Ti (Touvron et al. 2021, arXiv 2012.12877) with patches that suit the size of the image.

    Patches of 4 pixels up to 64 pixels, of 8 up to 128, above of 16 as in DeiT; so many that 32 pixels are 64 patches.
    A class token, learned positions. Neither dropout nor stochastic depth: what regularises a student is its protocol.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Outputs.
        width: Of a token; 64 of it for each attention head, one at least.
        depth: Blocks.
        generator: Source of the initial weights: normal, cut off, with standard deviation 0.02.

    Raises:
        UserError: Images that are no whole number of patches, or a width that heads do not share evenly.
    """

    label, usual_width, usual_depth = "ViT-Tiny", 192, 12

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        heads, patch = max(1, width // 64), 4 if max(sides) <= SMALL_SIDE else 8 if max(sides) <= MID_SIDE else 16
        require(width % heads == 0, f"expected a multiple of its {heads} heads, got {width}; take 64 a head", "width")
        require(
            all(side % patch == 0 for side in sides),
            f"student: {self.label} needs sides that are multiples of {patch} pixels here, got {sides[0]}x{sides[1]}; "
            "take such images or student=convnet3",
        )
        with seeded(generator):
            self.patches = nn.Conv2d(channels, width, patch, stride=patch)
            self.token = nn.Parameter(torch.empty(1, 1, width))
            self.positions = nn.Parameter(torch.empty(1, 1 + math.prod(sides) // patch**2, width))
            self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.embedding_size = width
            self.classifier = nn.Linear(width, num_classes)
            for name, weights in self.named_parameters():
                if weights.ndim > 1:
                    nn.init.trunc_normal_(weights, std=0.02)
                elif name.endswith("bias"):
                    nn.init.zeros_(weights)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, the normed class token."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class TimmNetwork(Network):
    """A model of the library timm, untrained, with timm's own initial weights.

    Args:
        image_shape: Channels, height, width of the input; a model that is built for one size is built for this one.
        num_classes: Outputs.
        model: Its name in ``timm.list_models()``.
        generator: Source of the initial weights.

    Raises:
        UserError: timm cannot be imported, knows no such model, or does not build it for such images.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, *, model: str, generator: torch.Generator) -> None:
        super().__init__()
        timm = timm_library(model)
        channels, height, width = image_shape
        numbers = {"pretrained": False, "in_chans": channels, "num_classes": num_classes}
        with seeded(generator):
            try:
                try:
                    self.model = timm.create_model(model, img_size=(height, width), **numbers)
                except TypeError:  # a network of convolutions takes images of any size, and no such argument
                    self.model = timm.create_model(model, **numbers)
            except Exception as error:  # whatever a model raises at sizes that it is not made for
                reason = " ".join(str(error).split())
                raise UserError(
                    f"timm does not build {model} for images of {channels}x{height}x{width} ({reason}); choose "
                    "another model or another size",
                    "name",
                ) from error
        self.embedding_size = getattr(self.model, "head_hidden_size", None) or self.model.num_features

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, what goes into the model's last linear layer."""
        return self.model.forward_head(self.model.forward_features(x), pre_logits=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> logits ``[B, num_classes]``."""
        return self.model(x)


def timm_library(model: str) -> Any:
    """The module timm, which has a model of this name.

    Raises:
        UserError: It cannot be imported, or has no such model.
    """
    try:
        timm = importlib.import_module("timm")
    except Exception as error:  # timm imports torchvision, which raises what it likes beside another torch
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{model} is a model of timm, which cannot be imported ({reason}); install it with "
            "`pip install 'manifoldgd[timm]'`, with a torchvision that fits torch, or choose another student",
            "name",
        ) from error
    near = timm.list_models(f"*{model}*")[:5]
    require(
        timm.is_model(model),
        f"expected a model of timm, got {model!r}{f', near {near}' if near else ''}; `timm.list_models()` names all",
        key="name",
    )
    return timm


def _check_depth(depth: int, known: Iterable[int], what: str) -> None:
    known = sorted(known)
    expected = f"one of {known}" if len(known) > 1 else known[0]
    require(depth in known, f"expected {expected} for {what}, got {depth}; choose that", key="depth")


def _check_sides(sides: Sequence[int], least: int, what: str) -> None:
    require(
        min(sides) >= least,
        f"student: {what} needs sides of at least {least} pixels here, got {sides[0]}x{sides[1]}; take larger images, "
        "or student=convnet3",
    )


ARCHITECTURES: dict[str, type[Network]] = {
    "convnet": ConvNet,
    "resnet": ResNet,
    "resnet_ap": ResNetAP,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg": VGG,
    "vit": ViT,
}


def check_architecture(architecture: str) -> None:
    """Raise :class:`UserError` unless there is such an architecture; a model of timm is looked up when it is built."""
    require(
        architecture in ARCHITECTURES or architecture.startswith(TIMM),
        f"expected one of {sorted(ARCHITECTURES)} or {TIMM}MODEL, got {architecture!r}; choose one",
        key="architecture",
    )


def build_network(
    architecture: str,
    width: int | None,
    depth: int | None,
    image_shape: ImageShape,
    num_classes: int,
    generator: torch.Generator,
) -> Network:
    """A fresh network; see the classes for what they raise. A model of timm has its own width and depth."""
    if architecture.startswith(TIMM):
        model = architecture.removeprefix(TIMM)
        return TimmNetwork(image_shape, num_classes, model=model, generator=generator)
    kind: Any = ARCHITECTURES[architecture]
    return kind(image_shape, num_classes, width=width, depth=depth, generator=generator)


def network_name(architecture: str, width: int | None, depth: int | None) -> str:
    """What tables call a network, for instance ``ConvNet-3``; what is not the literature's is named beside it."""
    if architecture.startswith(TIMM):
        return f"{architecture.removeprefix(TIMM)} (timm)"
    kind = ARCHITECTURES[architecture]
    remarks = [] if width == kind.usual_width else [f"width {width}"]
    if kind.usual_depth is not None and depth != kind.usual_depth:
        remarks.append(f"depth {depth}")
    label = kind.label if kind.usual_depth is not None else f"{kind.label}-{depth}"
    return f"{label} ({', '.join(remarks)})" if remarks else label
