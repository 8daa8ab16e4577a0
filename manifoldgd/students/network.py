"""What every student network is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from manifoldgd.errors import require
from manifoldgd.ranges import Range

SMALL_SIDE = 64  # pixels; up to here the ResNet stem keeps the resolution (IDC)
MID_SIDE = 128  # pixels; up to here the stem halves it, above it quarters it (IDC)

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

    Every architecture is built of ``image_shape``, channels, height and width of the input; ``num_classes``, its
    outputs; and ``generator``, the source of its initial weights, which are torch's own unless its class says more.

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


def check_depth(depth: int, known: Iterable[int], what: str) -> None:
    """Raise :class:`UserError` unless ``what`` comes in this depth."""
    known = sorted(known)
    expected = f"one of {known}" if len(known) > 1 else known[0]
    require(depth in known, f"expected {expected} for {what}, got {depth}; choose that", key="depth")


def check_sides(sides: Sequence[int], least: int, what: str) -> None:
    """Raise :class:`UserError` unless height and width ``sides`` reach ``least`` pixels."""
    require(
        min(sides) >= least,
        f"student: {what} needs sides of at least {least} pixels here, got {sides[0]}x{sides[1]}; take larger images, "
        "or student=convnet3",
    )
