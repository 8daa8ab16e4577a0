"""Trained networks that are kept: the embedding network of the metrics, teachers, and students where they are saved.

Embedding networks and teachers are trained here, once, on a real training split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from manifoldgd.dataset import Split, in_memory_split
from manifoldgd.machine import SINGLE, half_precision
from manifoldgd.randomness import generator
from manifoldgd.students.architectures import network_name
from manifoldgd.students.inference import Pixels, outputs, seen_at_once
from manifoldgd.students.network import ImageShape, Network, seeded
from manifoldgd.students.objectives import class_labels
from manifoldgd.students.recipe import STANDARD, Recipe, own_depth, untrained
from manifoldgd.students.unfinished import Unfinished

# Of the view that classifiers of another image size get: 256 pixels for 224, as ImageNet's classifiers are tested.
COVER = Fraction(8, 7)


class Classifier(nn.Module):
    """A network together with the normalisation it was trained with; takes uint8 images ``[n, C, H, W]``.

    ``image_shape`` is what the network sees; larger images are scaled and cropped at the centre. The description says
    the rest: what it is, what it was trained on, and by how much its images are covered and in what precision they are
    seen, where that is not what classifiers have by default.
    """

    def __init__(self, network: Network, pixels: Pixels, image_shape: ImageShape, description: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.pixels = pixels
        self.image_shape = image_shape
        self.description = description

    @property
    def name(self) -> str:
        """What pages call it, for instance ``ConvNet-3``."""
        return network_name(*_design(self.description))

    @property
    def test_accuracy(self) -> float:
        """Share of the real test images recognised, in [0, 1], as measured when it was made."""
        return self.description["test_accuracy"]

    @property
    def embedding_size(self) -> int:
        """Length ``E`` of an embedding."""
        return self.network.embedding_size

    @property
    def at_once(self) -> int:
        """Images that are seen at once."""
        return seen_at_once(self.image_shape[1:])

    def embed(self, images: Tensor) -> Tensor:
        """uint8 ``[n, C, H, W]`` -> penultimate features ``[n, E]`` float32 on the CPU."""
        return self._outputs(images, features=True)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 ``[n, C, H, W]`` -> ``[n, num_classes]`` float32 on the CPU."""
        return self._outputs(images, features=False)

    def _outputs(self, images: Tensor, *, features: bool) -> Tensor:
        cover, precision = Fraction(self.description.get("cover", COVER)), self.description.get("precision", SINGLE)
        size, device = self.image_shape[1:], next(self.network.parameters()).device
        with half_precision(precision, device):
            return outputs(self.network, images, self.pixels, size, cover=cover, features=features).float()

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of ``images`` recognised as ``labels`` ``[n]``, in [0, 1]."""
        return self.accuracy_on(in_memory_split(images, labels))

    def accuracy_on(self, split: Split) -> float:
        """Share of a split's images that are recognised, in [0, 1]."""
        parts = torch.arange(len(split)).split(self.at_once)
        found = torch.cat([self.logits(split.load(rows)).argmax(1) for rows in parts])
        return float((found == split.labels.cpu()).double().mean())

    @classmethod
    def restored(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> Classifier:
        """The classifier of a description, with trained weights.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: the description is of something else, or the weights are.
        """
        classifier = _blank(description)
        classifier.network.load_state_dict(weights)
        return classifier


def _design(description: dict[str, Any]) -> tuple[str, int | None, int]:
    """Architecture, width and depth."""
    recipe = description["recipe"]
    # Embedding networks of the first version state their width alone.
    depth = recipe.get("depth") or own_depth(description["image_shape"])
    return recipe.get("architecture", "convnet"), recipe["width"], depth


def _blank(description: dict[str, Any]) -> Classifier:
    shape = tuple(description["image_shape"])
    network = untrained(*_design(description), shape, description["num_classes"], seed=description["seed"])
    return Classifier(network, Pixels(tuple(description["mean"]), tuple(description["std"])), shape, description)


def train_classifier(
    images: Tensor | Callable[[Tensor], Tensor],
    labels: Tensor,
    *,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    flip: bool,
    recipe: Recipe = STANDARD,
    size: tuple[int, int] | None = None,
    title: str = "embedding network",
    progress: bool = True,
    accelerator: str = "auto",
    unfinished: Unfinished | None = None,
) -> Classifier:
    """Train a classifier on a real training split.

    Args:
        images: uint8 ``[n, C, H, W]``, which go to the training device; or what gives those of positions ``[b]`` int64,
            read batch by batch. Equal images give equal bits.
        labels: int64 ``[n]``.
        num_classes: Labels lie in [0, num_classes).
        mean: Of each channel, in units of [0, 1].
        std: As ``mean``.
        seed: Of weights, order and augmentation.
        flip: Whether mirror images keep their class.
        recipe: Leave it for the embedding network, whose values are to compare. It names an architecture.
        size: Height and width of what the network sees; ``None`` for those of the images.
        title: Of the progress bar.
        progress: Show a bar.
        accelerator: As for ``lightning.Trainer``.
        unfinished: Where a training of more than a minute keeps its state, and goes on from one that was stopped;
            ``None`` for nowhere.
    """
    from manifoldgd.students.training import ShuffledIndices, Supervised, fit  # here, because it imports Lightning

    epochs = recipe.passes(len(labels))
    shape = images.shape[1:] if isinstance(images, Tensor) else images(torch.zeros(1, dtype=torch.int64)).shape[1:]
    description = {
        "image_shape": [shape[0], *(size or shape[1:])],
        "num_classes": num_classes,
        "mean": list(mean),
        "std": list(std),
        "seed": seed,
        "flip": flip,
        "images": len(labels),
        "recipe": recipe.describe(),
    }
    classifier = _blank(description)
    loader = ShuffledIndices(len(labels), recipe.batch_size, generator(seed, "classifier", "order"))
    module = Supervised(
        classifier.network,
        images,
        labels,
        classifier.pixels,
        augmentation=recipe.augmentation if flip else recipe.augmentation.without_flip(),
        size=classifier.image_shape[1:],
        cutmix_alpha=0,
        generator=generator(seed, "classifier", "augmentation"),
        objective=class_labels,
        optimisation=lambda network: _one_cycle(network, recipe, epochs * len(loader)),
        after_epoch=lambda epoch, loss: {},
        name=f"{title} {classifier.name}",
    )
    with seeded(generator(seed, "classifier", "dropout")):
        shown = title if progress else None
        fit(module, loader, epochs=epochs, accelerator=accelerator, title=shown, unfinished=unfinished)
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
