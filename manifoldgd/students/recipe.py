"""How a classifier of real images is made: the embedding network and judge of samples, and the teachers of soft labels.

The embedding network is an instrument, not an experiment: its recipe (:data:`STANDARD`) is fixed, so that values
measured with it compare across runs. Inception features, the usual choice, know nothing of grey 28-pixel images and
would have to be downloaded. The recipe of a teacher is part of the label protocol.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from manifoldgd.errors import require
from manifoldgd.randomness import generator
from manifoldgd.ranges import Batch, LearningRate, Million, Momentum, Range, Share, Width, checked
from manifoldgd.students.architectures import TIMM, build_network, check_architecture
from manifoldgd.students.augmentation import Augmentation, Space
from manifoldgd.students.network import Depth, ImageShape, Network


@checked
class ShiftFlip:
    """Shift by whole pixels into zeros, the same way for a whole batch, and mirror each image with probability 1/2.

    Args:
        shift: Largest shift either way, as a share of the side.
        flip: Whether to mirror.
    """

    space: ClassVar[Space] = "normalised"

    def __init__(self, *, shift: Annotated[float, Range("[0, 0.5]")], flip: bool) -> None:
        self.shift, self.flip = shift, flip

    def without_flip(self) -> ShiftFlip:
        """The same without mirroring."""
        return ShiftFlip(shift=self.shift, flip=False)

    def __call__(self, images: Tensor, generator: Generator, size: tuple[int, int]) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> augmented ones ``[B, C, *size]``, resized beforehand."""
        if tuple(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        reach = [round(side * self.shift) for side in size]
        down, right = (int(torch.randint(-each, each + 1, (), generator=generator)) for each in reach)
        images = F.pad(images, (right, -right, down, -down))
        if self.flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
        return images


@checked
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a classifier is and how it is trained: SGD with Nesterov's correction on a one-cycle schedule.

    Attributes:
        architecture: As for a student; ``None``: the student's own network, then ``width`` and ``depth`` are ``None``
            too, as they are for a model of timm.
        width: Filters of the first block.
        depth: As for a student; ``None`` for a ConvNet as deep as leaves at least 4 pixels a side.
        epochs: Passes over the training split; ``None`` where ``images_shown`` is given.
        images_shown: Training images seen in all, which makes the cost independent of the dataset's size; ``None``
            where ``epochs`` is given.
        batch_size: Images.
        learning_rate: Peak of the one-cycle schedule (Smith & Topin 2017, arXiv 1708.07120).
        momentum: Of SGD.
        weight_decay: L2 penalty.
        augmentation: On training batches.

    Raises:
        UserError: On construction, for numbers that contradict each other or lie outside their range.
    """

    architecture: str | None
    width: Width | None
    depth: Depth | None
    epochs: Million | None
    images_shown: Annotated[int, Range("[1, 10000000000]")] | None
    batch_size: Batch
    learning_rate: LearningRate
    momentum: Momentum
    weight_decay: Share
    augmentation: Augmentation

    def __post_init__(self) -> None:
        if self.architecture is not None:
            check_architecture(self.architecture)
        sizeless = self.architecture is None or self.architecture.startswith(TIMM)
        require(
            (self.width is None) is sizeless and (self.depth is None or not sizeless),
            "null is the student's own network, without width and depth like one of timm, another one needs a "
            f"width; got {self.architecture}, width {self.width}, depth {self.depth}; set all or none",
            key="architecture",
        )
        require(
            (self.epochs is None) is not (self.images_shown is None),
            f"expected either epochs or images_shown, got {self.epochs} and {self.images_shown}; "
            "set the other one to null",
            key="epochs",
        )

    def for_student(self, architecture: str, width: int | None, depth: int | None) -> Recipe:
        """With the student's own network where none is named."""
        if self.architecture is not None:
            return self
        return replace(self, architecture=architecture, width=width, depth=depth)

    def passes(self, images: int) -> int:
        """Epochs over a training split of so many images, at least 1."""
        return self.epochs or max(1, round((self.images_shown or 0) / images))

    def describe(self) -> dict[str, Any]:
        """All of it in plain numbers and names, for keys and for people."""
        numbers = {name: value for name, value in vars(self).items() if name != "augmentation"}
        return numbers | {"augmentation": {"name": type(self.augmentation).__name__, **vars(self.augmentation)}}


STANDARD = Recipe(
    architecture="convnet",
    width=32,
    depth=None,
    epochs=None,
    images_shown=180_000,
    batch_size=64,
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=1e-4,
    augmentation=ShiftFlip(shift=1 / 28, flip=True),
)


def own_depth(image_shape: Sequence[int]) -> int:
    """Blocks of a ConvNet whose recipe names no depth, so many that an embedding keeps some sense of place.

    >>> own_depth((1, 28, 28)), own_depth((1, 8, 8)), own_depth((3, 224, 224))
    (2, 1, 5)
    """
    return max(1, min(6, int(math.log2(min(image_shape[1:]) / 4))))


def untrained(
    architecture: str, width: int | None, depth: int | None, image_shape: ImageShape, num_classes: int, *, seed: int
) -> Network:
    """The network of a classifier before training.

    Raises:
        UserError: Images too small for it, or a depth it does not come in.
    """
    source = generator(seed, "classifier", "weights")
    return build_network(architecture, width, depth, image_shape, num_classes, source)
