"""A student: an architecture and a protocol, ready to be trained on any set."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from manifoldgd.artifacts import StudentResult
from manifoldgd.errors import require, under
from manifoldgd.machine import half_precision
from manifoldgd.randomness import generator
from manifoldgd.ranges import Width, checked
from manifoldgd.students.architectures import TIMM, build_network, check_architecture, network_name, timm_library
from manifoldgd.students.classifier import Classifier
from manifoldgd.students.inference import Pixels, outputs
from manifoldgd.students.network import Depth, ImageShape, Network, seeded
from manifoldgd.students.protocol import LabelProtocol
from manifoldgd.students.recipe import Recipe, own_depth, untrained
from manifoldgd.students.unfinished import Unfinished

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

OnEpoch = Callable[[int, int, Mapping[str, float]], None]
OnTrained = Callable[[Classifier], None]


@dataclass(frozen=True)
class Split:
    """Images uint8 ``[n, C, H, W]`` and labels int64 ``[n]``."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(f"images: expected uint8 [n, C, H, W], got {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.shape != (len(self.images),) or self.labels.dtype != torch.int64 or not len(self.images):
            raise ValueError(
                f"labels: expected int64 ({len(self.images)},), at least one, got {self.labels.dtype} "
                f"{tuple(self.labels.shape)}"
            )


def _shape(images: Tensor) -> ImageShape:
    return images.shape[1], images.shape[2], images.shape[3]


@dataclass(frozen=True)
class Judge:
    """A network under training, and how images are shown to it."""

    network: Network
    pixels: Pixels
    size: tuple[int, int]
    cover: Fraction
    precision: str = "32-true"

    def hits(self, split: Split) -> Tensor:
        """Whether each image is recognised, bool ``[n]``."""
        device = next(self.network.parameters()).device
        with half_precision(self.precision, device):
            found = outputs(self.network, split.images, self.pixels, self.size, cover=self.cover)
            return found.argmax(1) == split.labels.cpu()

    def accuracy(self, split: Split) -> float:
        """Share of images recognised."""
        return float(self.hits(split).double().mean())


class Watch:
    """Follows a training: evaluates the test set where the protocol asks for it and keeps the curve."""

    def __init__(
        self, judge: Judge, test: Split, epochs: int, evaluated: frozenset[int], seed: int, on_epoch: OnEpoch | None
    ) -> None:
        self.judge, self.test, self.epochs, self.evaluated = judge, test, epochs, evaluated
        self.seed, self.on_epoch = seed, on_epoch
        self.curve: list[tuple[int, float]] = []
        self.hits = torch.zeros(len(test.labels), dtype=torch.bool)
        self.started, self.before = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Of the training so far, in all processes that went on with it."""
        return self.before + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        """What was seen, for the process that goes on."""
        return {"curve": [list(point) for point in self.curve], "hits": self.hits, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was seen."""
        self.curve = [(int(epoch), float(top1)) for epoch, top1 in state["curve"]]
        self.hits, self.before = state["hits"], state["seconds"]
        self.started = time.perf_counter()

    def __call__(self, epoch: int, loss: float) -> Mapping[str, float]:
        """Take note of a finished epoch (from 1); returns what a logger shall record."""
        metrics = {"loss": loss}
        if epoch in self.evaluated:
            self.hits = self.judge.hits(self.test)
            metrics["top1"] = float(self.hits.double().mean())
            self.curve.append((epoch, metrics["top1"]))
        if self.on_epoch is not None:
            self.on_epoch(epoch, self.epochs, metrics)
        return {f"student/{self.seed}/{name}": value for name, value in metrics.items()}

    def result(self, train_accuracy: float, num_classes: int) -> StudentResult:
        """The outcome; the earliest of equally good epochs counts as the best."""
        best_epoch, best = max(self.curve, key=lambda point: point[1])
        last_epoch, last = self.curve[-1]
        labels = self.test.labels.cpu()
        per_class = tuple(float(self.hits[labels == label].double().mean()) for label in range(num_classes))
        return StudentResult(
            seed=self.seed,
            last_top1=last,
            best_top1=best,
            last_epoch=last_epoch,
            best_epoch=best_epoch,
            train_accuracy=train_accuracy,
            per_class=per_class,
            curve=tuple(self.curve),
            seconds=self.seconds,
        )


@checked
class Student:
    """A network trained from scratch on a set and tested on real images.

    Args:
        architecture: A key of :data:`manifoldgd.students.architectures.ARCHITECTURES`.
        width: Filters of the first block, units of an MLP's layers, or the width of a transformer's tokens.
        depth: Blocks of a ConvNet or a transformer, layers of the others.
        protocol: How it is trained.

    Raises:
        UserError: Unknown architecture, or a width or depth below 1.
    """

    width: int | None
    depth: int | None

    def __init__(self, *, architecture: str, width: Width, depth: Depth, protocol: LabelProtocol) -> None:
        check_architecture(architecture)
        self.architecture = architecture
        self.width = width
        self.depth = depth
        self.protocol = protocol

    @property
    def name(self) -> str:
        """What tables call it, for instance ``ConvNet-3``."""
        return network_name(self.architecture, self.width, self.depth)

    @property
    def teacher_recipe(self) -> Recipe | None:
        """The teacher that the protocol asks for; ``None`` for hard labels."""
        recipe = self.protocol.teacher_recipe
        return None if recipe is None else self.of_own_design(recipe)

    def of_own_design(self, recipe: Recipe) -> Recipe:
        """The recipe of a classifier, with this student's network where it names none."""
        return recipe.for_student(self.architecture, self.width, self.depth)

    def input_shape(self, image_shape: ImageShape) -> ImageShape:
        """Channels, height, width of what the network sees, given those of the images."""
        side = self.protocol.image_size
        return image_shape if side is None else (image_shape[0], side, side)

    def network(self, image_shape: ImageShape, num_classes: int, *, seed: int) -> Network:
        """A fresh network for images of this shape; the initial weights depend on ``seed`` alone."""
        source = generator(seed, "student", "weights")
        shape = self.input_shape(image_shape)
        return build_network(self.architecture, self.width, self.depth, shape, num_classes, source)

    def check(self, image_shape: ImageShape, num_classes: int, ipc: int) -> None:
        """Raise what :meth:`train` would raise about these numbers, before long work starts.

        Raises:
            UserError: Images too small for the architecture, or numbers the protocol is not meant for.
        """
        with under("protocol"):
            self.protocol.epochs_for(ipc, num_classes)
            batch = self.protocol.batch_for(ipc, num_classes)
        network = self.network(image_shape, num_classes, seed=0)
        require(
            ipc * num_classes % batch != 1 or not any(isinstance(each, _BatchNorm) for each in network.modules()),
            f"{self.name} has batch norm, which learns nothing of one image, and {ipc * num_classes} images in batches "
            f"of {batch} leave one over; change it by one",
            key="protocol.batch_size",
        )
        teacher, seen = self.teacher_recipe, self.input_shape(image_shape)
        if teacher is not None:
            assert teacher.architecture is not None  # this student's own where the protocol names none
            depth = teacher.depth or own_depth(seen)
            with under("protocol.teacher"):
                untrained(teacher.architecture, teacher.width, depth, seen, num_classes, seed=0)

    def train(
        self,
        train_images: Tensor,
        train_labels: Tensor,
        test_images: Tensor,
        test_labels: Tensor,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        ipc: int,
        flip: bool = True,
        teacher: Classifier | None = None,
        on_epoch: OnEpoch | None = None,
        on_trained: OnTrained | None = None,
        progress: bool = True,
        accelerator: str = "auto",
        logger: Logger | Literal[False] = False,
        precision: str = "32-true",
        compile: bool = False,
        unfinished: Unfinished | None = None,
    ) -> StudentResult:
        """Train on one set, test on another. Equal arguments give equal bits on a CPU with the same thread count.

        Args:
            train_images: uint8 ``[n, C, H, W]``.
            train_labels: int64 ``[n]``.
            test_images: uint8 ``[m, C, H, W]``.
            test_labels: int64 ``[m]``.
            num_classes: Labels lie in [0, num_classes).
            mean: Of each channel over the real training split, in units of [0, 1].
            std: As ``mean``.
            seed: Of initial weights, batch order and augmentation.
            ipc: Images per class, by which the protocol chooses the epochs.
            flip: Whether a mirrored image keeps its class; if not, the augmentation leaves mirroring out.
            teacher: Gives the soft labels where the protocol asks for them; it sees what the student sees.
            on_epoch: Called after each epoch with its number (from 1), the number of epochs and ``loss``, and ``top1``
                where the test set was evaluated.
            on_trained: Called at the end with the trained network, which sees images as the test did.
            progress: Show a bar.
            accelerator: As for ``lightning.Trainer``.
            logger: Gets what ``on_epoch`` gets, under ``student/<seed>/``.
            precision: Of training, as for ``lightning.Trainer``; ``bf16-mixed`` rounds the convolutions' inputs and
                outputs, and is judged with the same rounding.
            compile: Have torch compile the network: minutes at first, then fewer and other kernels. Their bits differ.
            unfinished: Where a training of more than a minute keeps its state, and goes on from one that was stopped;
                ``None`` for nowhere.

        Raises:
            UserError: See :meth:`check`.
            ValueError: Tensors of another shape or type.
        """
        from manifoldgd.students.training import ShuffledIndices, Supervised, fit  # here, because it imports Lightning

        train, test = Split(train_images, train_labels), Split(test_images, test_labels)
        shape = _shape(train_images)
        epochs = self.protocol.epochs_for(ipc, num_classes)
        network = self.network(shape, num_classes, seed=seed)
        if compile:
            network.compile()
        cover = Fraction(self.protocol.test_cover)
        judge = Judge(network, Pixels(tuple(mean), tuple(std)), self.input_shape(shape)[1:], cover, precision)
        watch = Watch(judge, test, epochs, self.protocol.evaluated_epochs(epochs), seed, on_epoch)
        module = Supervised(
            network,
            train.images,
            train.labels,
            judge.pixels,
            augmentation=self.protocol.augmentation if flip else self.protocol.augmentation.without_flip(),
            size=judge.size,
            cutmix_alpha=self.protocol.cutmix_alpha,
            generator=generator(seed, "student", "augmentation"),
            objective=self.protocol.objective(None if teacher is None else teacher.network),
            optimisation=lambda network: self.protocol.optimisation(network, epochs),
            after_epoch=watch,
            name=f"student {self.name}, seed {seed}",
        )
        batch_size = self.protocol.batch_for(ipc, num_classes)
        loader = ShuffledIndices(len(train.images), batch_size, generator(seed, "student", "order"))
        title = f"{self.name}, seed {seed}" if progress else None
        numbers: dict[str, Any] = {"epochs": epochs, "accelerator": accelerator, "precision": precision}
        with seeded(generator(seed, "student", "dropout")):
            fit(module, loader, **numbers, title=title, logger=logger, unfinished=unfinished, watched=watch)
        result = watch.result(judge.accuracy(train), num_classes)
        if on_trained is not None:
            on_trained(self._trained(judge, shape, num_classes, result))
        return result

    def _trained(self, judge: Judge, shape: ImageShape, num_classes: int, result: StudentResult) -> Classifier:
        shape = self.input_shape(shape)
        description = {
            "recipe": {"architecture": self.architecture, "width": self.width, "depth": self.depth},
            "image_shape": list(shape),
            "num_classes": num_classes,
            "mean": list(judge.pixels.mean),
            "std": list(judge.pixels.std),
            "seed": result.seed,
            "cover": str(judge.cover),
            "precision": judge.precision,
            "label_protocol": self.protocol.name,
            "epochs": result.last_epoch,
            "train_accuracy": result.train_accuracy,
            "test_accuracy": result.last_top1,
        }
        return Classifier(judge.network, judge.pixels, shape, description)


@checked
class TimmStudent(Student):
    """A model of the library timm, untrained, as a student.

    Args:
        name: Of the model, as in ``timm.list_models()``.
        protocol: How it is trained.

    Raises:
        UserError: timm cannot be imported, or has no such model.
    """

    def __init__(self, *, name: str, protocol: LabelProtocol) -> None:
        timm_library(name)
        self.architecture, self.width, self.depth = f"{TIMM}{name}", None, None
        self.protocol = protocol
