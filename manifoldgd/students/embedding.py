"""The embedding network of the metrics and judge of samples: a small classifier trained once on real images.

It is an instrument, not an experiment: its recipe is fixed, so that values measured with it compare across runs.
Inception features, the usual choice, know nothing of grey 28-pixel images and would have to be downloaded.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from manifoldgd.errors import UserError
from manifoldgd.randomness import generator
from manifoldgd.students.augmentation import Space
from manifoldgd.students.networks import ConvNet, ImageShape
from manifoldgd.students.training import Pixels, ShuffledIndices, Supervised, fit, outputs

FORMAT = "manifoldgd-classifier-1"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the classifier is made.

    Attributes:
        width: Filters of each block.
        images_shown: Training images seen in all, which makes the cost independent of the dataset's size.
        batch_size: Images.
        learning_rate: Peak of the one-cycle schedule (Smith & Topin 2017, arXiv 1708.07120).
        momentum: Of SGD with Nesterov's correction.
        weight_decay: L2 penalty.
        shift: Largest shift of the augmentation either way, as a share of the side.
    """

    width: int
    images_shown: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    shift: float


STANDARD = Recipe(
    width=32, images_shown=180_000, batch_size=64, learning_rate=0.05, momentum=0.9, weight_decay=1e-4, shift=1 / 28
)


class ShiftFlip:
    """Shift by whole pixels into zeros, the same way for a whole batch, and mirror each image with probability 1/2."""

    space: ClassVar[Space] = "normalised"

    def __init__(self, *, shift: float, flip: bool) -> None:
        self.shift, self.flip = shift, flip

    def __call__(self, images: Tensor, generator: Generator, size: tuple[int, int]) -> Tensor:
        """Normalised images ``[B, C, *size]`` -> augmented ones."""
        reach = [round(side * self.shift) for side in size]
        down, right = (int(torch.randint(-each, each + 1, (), generator=generator)) for each in reach)
        images = F.pad(images, (right, -right, down, -down))
        if self.flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
        return images


class Classifier(nn.Module):
    """A network together with the normalisation it was trained with; takes uint8 images ``[n, C, H, W]``."""

    def __init__(self, network: ConvNet, pixels: Pixels, image_shape: ImageShape, description: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.pixels = pixels
        self.image_shape = image_shape
        self.description = description

    @property
    def embedding_size(self) -> int:
        """Length ``E`` of an embedding."""
        return self.network.embedding_size

    def embed(self, images: Tensor) -> Tensor:
        """uint8 ``[n, C, H, W]`` -> penultimate features ``[n, E]`` float32 on the CPU."""
        return outputs(self.network, images, self.pixels, self.image_shape[1:], features=True)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 ``[n, C, H, W]`` -> ``[n, num_classes]`` float32 on the CPU."""
        return outputs(self.network, images, self.pixels, self.image_shape[1:])

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of ``images`` recognised as ``labels`` ``[n]``, in [0, 1]."""
        return float((self.logits(images).argmax(1) == labels.cpu()).double().mean())

    def save(self, path: Path) -> None:
        """Write weights and description to one safetensors file; it appears under ``path`` complete or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        tensors = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        save_file(tensors, part, metadata={"format": FORMAT, "description": json.dumps(self.description)})
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: The file is damaged or something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                description = json.loads(file.metadata()["description"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            classifier = _blank(description)
            classifier.network.load_state_dict(weights)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: expected a saved classifier, got a damaged or foreign file ({type(error).__name__}); "
                "delete it, and it is trained again"
            ) from error
        return classifier


def _blank(description: dict[str, Any]) -> Classifier:
    channels, height, width = description["image_shape"]
    shape = (channels, height, width)
    # As deep as leaves at least 4 pixels a side, so that an embedding keeps some sense of place.
    depth = max(1, min(6, int(math.log2(min(height, width) / 4))))
    source = generator(description["seed"], "classifier", "weights")
    network = ConvNet(
        shape, description["num_classes"], width=description["recipe"]["width"], depth=depth, generator=source
    )
    return Classifier(network, Pixels(tuple(description["mean"]), tuple(description["std"])), shape, description)


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    flip: bool,
    recipe: Recipe = STANDARD,
    progress: bool = True,
    accelerator: str = "auto",
) -> Classifier:
    """Train the embedding network on a real training split.

    Args:
        images: uint8 ``[n, C, H, W]``.
        labels: int64 ``[n]``.
        num_classes: Labels lie in [0, num_classes).
        mean: Of each channel, in units of [0, 1].
        std: As ``mean``.
        seed: Of weights, order and augmentation.
        flip: Whether mirror images keep their class.
        recipe: Leave it, for values that compare.
        progress: Show a bar.
        accelerator: As for ``lightning.Trainer``.
    """
    epochs = max(1, round(recipe.images_shown / len(images)))
    description = {
        "image_shape": list(images.shape[1:]),
        "num_classes": num_classes,
        "mean": list(mean),
        "std": list(std),
        "seed": seed,
        "flip": flip,
        "images": len(images),
        "recipe": asdict(recipe),
    }
    classifier = _blank(description)
    loader = ShuffledIndices(len(images), recipe.batch_size, generator(seed, "classifier", "order"))
    module = Supervised(
        classifier.network,
        images,
        labels,
        classifier.pixels,
        augmentation=ShiftFlip(shift=recipe.shift, flip=flip),
        size=classifier.image_shape[1:],
        cutmix_alpha=0,
        generator=generator(seed, "classifier", "augmentation"),
        optimisation=lambda network: _one_cycle(network, recipe, epochs * len(loader)),
        after_epoch=lambda epoch, loss: {},
    )
    fit(module, loader, epochs=epochs, accelerator=accelerator, title="embedding network" if progress else None)
    return classifier


def _one_cycle(network: nn.Module, recipe: Recipe, steps: int) -> dict[str, Any]:
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=steps, cycle_momentum=False
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
