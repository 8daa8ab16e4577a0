"""Training protocols: the numbers a student's accuracy depends on, beside its architecture.

:class:`HardLabel` trains on class labels: DC/DSA for small images, IDC and its successors for large ones.
:class:`SoftLabel` trains on a teacher's outputs: RDED (Sun et al. 2024, arXiv 2312.03526). The values stand in
``conf/student/protocol``. An accuracy means nothing without its protocol, so results of different ones never share a
table column.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

import torch
from torch import nn

from manifoldgd.errors import require
from manifoldgd.ranges import Batch, LearningRate, Million, Momentum, Range, Ratio, Share, checked
from manifoldgd.students.augmentation import Augmentation
from manifoldgd.students.objectives import Objective, TeacherOutputs, class_labels
from manifoldgd.students.recipe import Recipe

Classes = Annotated[int, Range("[0, 1000000]")]  # 0 for a rule that never applies


@dataclass(frozen=True, kw_only=True)
class LabelProtocol(ABC):
    """What every protocol says.

    Attributes:
        name: What tables call it.
        epochs: Passes over the set; a mapping gives them by images per class: the entry of the smallest key that is
            at least ``ipc`` counts.
        learning_rate: At the start.
        weight_decay: See the optimizers of the protocols.
        batch_size: Images, or a mapping as for ``epochs``; a smaller last batch of an epoch is used, not dropped.
        image_size: Side of the images students see, in pixels; ``None`` leaves them as they are.
        test_cover: Test images of another size are scaled to cover this many times ``image_size``, then cropped at the
            centre; at least 1, a number or a fraction as text (``"8/7"``).
        augmentation: On training batches.
        cutmix_alpha: CutMix on every batch with Beta(alpha, alpha); 0 for none.
        evaluations: Times the test set is evaluated, evenly over the epochs, the last epoch always among them.

    Raises:
        UserError: On construction, for a number outside its range.
    """

    name: str
    epochs: Million | Mapping[Million, Million]
    learning_rate: LearningRate
    weight_decay: Share
    batch_size: Batch | Mapping[Million, Batch]
    image_size: Annotated[int, Range("[1, 2048]")] | None
    test_cover: Annotated[Ratio, Range("[1, 4]")]
    augmentation: Augmentation
    cutmix_alpha: Annotated[float, Range("[0, 100]")]
    evaluations: Million

    def __post_init__(self) -> None:
        object.__setattr__(self, "test_cover", Fraction(str(self.test_cover)))
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                # A plain one, so that equality and pickling do not depend on where the values came from.
                object.__setattr__(self, name, {int(ipc): int(count) for ipc, count in value.items()})

    @property
    def teacher_recipe(self) -> Recipe | None:
        """The teacher that gives the labels; ``None`` where the set's own labels count."""
        return None

    @property
    def labels(self) -> Literal["hard", "soft"]:
        """What students learn: ``hard`` class labels, or a teacher's ``soft`` ones. The two are never compared."""
        return "hard" if self.teacher_recipe is None else "soft"

    @abstractmethod
    def objective(self, teacher: nn.Module | None) -> Objective:
        """The loss. ``teacher``: images -> logits, where the protocol asks for one."""

    @abstractmethod
    def rate_factor(self, epoch: int, epochs: int) -> float:
        """What the learning rate is multiplied by in ``epoch`` (from 0) of ``epochs``."""

    @abstractmethod
    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """On all parameters of the network."""

    def optimisation(self, network: nn.Module, epochs: int) -> dict[str, Any]:
        """Optimizer and schedule in Lightning's terms."""
        optimizer = self.optimizer(network)
        factor = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: self.rate_factor(epoch, epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "epoch"}}

    def epochs_for(self, ipc: int, num_classes: int) -> int:
        """Epochs for ``ipc`` images a class.

        Raises:
            UserError: More classes than the protocol is meant for, or ``ipc`` beyond its table.
        """
        return _at(self.epochs, ipc, "epochs")

    def batch_for(self, ipc: int, num_classes: int) -> int:
        """Images of a batch for ``ipc`` images a class.

        Raises:
            UserError: ``ipc`` beyond the protocol's table.
        """
        return _at(self.batch_size, ipc, "batch_size")

    def evaluated_epochs(self, epochs: int) -> frozenset[int]:
        """Epochs (from 1) after which the test set is evaluated; ``epochs`` is one of them."""
        count = min(self.evaluations, epochs)
        return frozenset(round(epochs * (index + 1) / count) for index in range(count))


def _at(value: int | Mapping[int, int], ipc: int, key: str) -> int:
    if not isinstance(value, Mapping):
        return value
    reached = [entry for entry in value if entry >= ipc]
    require(bool(reached), f"expected an entry for ipc={ipc} or more, got entries up to {max(value)}; add one", key=key)
    return value[min(reached)]


@checked
@dataclass(frozen=True, kw_only=True)
class HardLabel(LabelProtocol):
    """SGD with momentum and a stepwise learning rate on integer labels; the weight decay is an L2 penalty on all.

    Attributes:
        short_from_classes: From this many classes on, two thirds of the epochs, rounded down to hundreds; 0 for never.
        most_classes: Classes the protocol is meant for; 0 for any number.
        momentum: Of SGD.
        milestones: Shares of the epochs, in (0, 1), after which the learning rate is multiplied by ``decay``; numbers,
            or fractions as text (``"2/3"``).
        decay: See ``milestones``.
    """

    short_from_classes: Classes
    most_classes: Classes
    momentum: Momentum
    milestones: Sequence[Annotated[Ratio, Range("(0, 1)")]]
    decay: Annotated[float, Range("(0, 1]")]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "milestones", tuple(Fraction(str(each)) for each in self.milestones))

    def objective(self, teacher: nn.Module | None) -> Objective:
        """Cross-entropy; a teacher is not asked."""
        return class_labels

    def epochs_for(self, ipc: int, num_classes: int) -> int:
        """As for every protocol, and fewer with many classes."""
        require(
            not self.most_classes or num_classes <= self.most_classes,
            f"{self.name} is for at most {self.most_classes} classes, got {num_classes}; "
            "choose student/protocol=hard_many_classes",
            key="most_classes",
        )
        epochs = super().epochs_for(ipc, num_classes)
        if self.short_from_classes and num_classes >= self.short_from_classes:
            # In integers: two thirds of 1,500 must not become 999 by rounding.
            return max(1, epochs * 2 // 3 // 100 * 100)
        return epochs

    def rate_factor(self, epoch: int, epochs: int) -> float:
        """A power of ``decay``."""
        return self.decay ** sum(epoch >= int(Fraction(share) * epochs) for share in self.milestones)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """SGD."""
        return torch.optim.SGD(
            network.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )


@checked
@dataclass(frozen=True, kw_only=True)
class SoftLabel(LabelProtocol):
    """AdamW with a cosine schedule on the softened outputs of a teacher, which sees the same augmented, mixed batch.

    The loss is :func:`manifoldgd.students.objectives.softened_divergence`. Biases and norms are not decayed (RDED).

    Attributes:
        double_batch_from_classes: From this many classes on, twice the batch; 0 for never.
        temperature: Of the teacher's and the student's softmax, above 0.
        cosine_span: Share of the falling half of a cosine, in [0, 1], that the epochs go through: at 1 the learning
            rate ends at 0, at 0.5 at half of what it was.
        teacher: What it is and how it is trained on the real training split.
    """

    double_batch_from_classes: Classes
    temperature: Annotated[float, Range("[0.01, 1000]")]
    cosine_span: Share
    teacher: Recipe

    @property
    def teacher_recipe(self) -> Recipe:
        """The teacher that gives the labels."""
        return self.teacher

    def objective(self, teacher: nn.Module | None) -> Objective:
        """The divergence from the teacher.

        Raises:
            ValueError: There is none.
        """
        if teacher is None:
            raise ValueError(f"teacher: {self.name} takes its labels from one, got None")
        return TeacherOutputs(teacher, self.temperature)

    def batch_for(self, ipc: int, num_classes: int) -> int:
        """As for every protocol, and larger with many classes."""
        doubled = self.double_batch_from_classes and num_classes >= self.double_batch_from_classes
        return super().batch_for(ipc, num_classes) * (2 if doubled else 1)

    def rate_factor(self, epoch: int, epochs: int) -> float:
        """A cosine from 1 downwards."""
        return (1 + math.cos(math.pi * self.cosine_span * epoch / epochs)) / 2

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW in two groups: matrices and kernels are decayed, vectors are not."""
        decayed = [each for each in network.parameters() if each.ndim > 1]
        others = [each for each in network.parameters() if each.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
