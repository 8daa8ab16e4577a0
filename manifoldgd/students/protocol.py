"""Hard-label training protocols: the numbers a student's accuracy depends on, beside its architecture.

DC/DSA for small images, IDC and its successors for large ones; the values stand in ``conf/student/protocol``. An
accuracy means nothing without its protocol, so results of different ones never share a table column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from manifoldgd.errors import require
from manifoldgd.students.augmentation import Augmentation

KEY = "student.protocol"


@dataclass(frozen=True, kw_only=True)
class HardLabel:
    """SGD with momentum and a stepwise learning rate on integer labels.

    Attributes:
        name: What tables call it.
        epochs: Passes over the set; a mapping gives them by images per class: the entry of the smallest key that is
            at least ``ipc`` counts.
        short_from_classes: From this many classes on, two thirds of the epochs, rounded down to hundreds; 0 for never.
        most_classes: Classes the protocol is meant for; 0 for any number.
        learning_rate: At the start.
        momentum: Of SGD.
        weight_decay: L2 penalty on all parameters.
        batch_size: Images; a smaller last batch of an epoch is used, not dropped.
        milestones: Shares of the epochs, in (0, 1), after which the learning rate is multiplied by ``decay``; numbers,
            or fractions as text (``"2/3"``).
        decay: See ``milestones``.
        image_size: Side of the images students see, in pixels; ``None`` leaves them as they are. Test images are
            resized to 8/7 of it and cropped at the centre.
        augmentation: On training batches.
        cutmix_alpha: CutMix on every batch with Beta(alpha, alpha); 0 for none.
        evaluations: Times the test set is evaluated, evenly over the epochs, the last epoch always among them.

    Raises:
        UserError: On construction, for a number outside its range.
    """

    name: str
    epochs: int | Mapping[int, int]
    short_from_classes: int
    most_classes: int
    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    milestones: Sequence[float | str | Fraction]
    decay: float
    image_size: int | None
    augmentation: Augmentation
    cutmix_alpha: float
    evaluations: int

    def __post_init__(self) -> None:
        # Plain containers, so that equality and pickling do not depend on where the values came from.
        if isinstance(self.epochs, Mapping):
            object.__setattr__(self, "epochs", {int(ipc): int(epochs) for ipc, epochs in self.epochs.items()})
        object.__setattr__(self, "milestones", tuple(Fraction(str(each)) for each in self.milestones))
        counts = self.epochs.values() if isinstance(self.epochs, Mapping) else (self.epochs,)
        for each in counts:
            require(each >= 1, f"{KEY}.epochs: expected at least 1, got {each}; raise it")
        for name in ("batch_size", "evaluations"):
            value = getattr(self, name)
            require(value >= 1, f"{KEY}.{name}: expected at least 1, got {value}; raise it")
        require(self.learning_rate > 0, f"{KEY}.learning_rate: expected above 0, got {self.learning_rate}; raise it")
        require(self.cutmix_alpha >= 0, f"{KEY}.cutmix_alpha: expected 0 or more, got {self.cutmix_alpha}; raise it")
        inside = all(0 < share < 1 for share in self.milestones)
        shown = ", ".join(map(str, self.milestones))
        require(inside, f"{KEY}.milestones: expected shares in (0, 1), got {shown}; divide by the epochs")

    def epochs_for(self, ipc: int, num_classes: int) -> int:
        """Epochs for ``ipc`` images a class.

        Raises:
            UserError: More classes than the protocol is meant for, or ``ipc`` beyond its table.
        """
        require(
            not self.most_classes or num_classes <= self.most_classes,
            f"{KEY}: {self.name} is for at most {self.most_classes} classes, got {num_classes}; "
            "choose student/protocol=hard_many_classes",
        )
        epochs = self.epochs
        if isinstance(epochs, Mapping):
            reached = [key for key in epochs if key >= ipc]
            require(
                bool(reached),
                f"{KEY}.epochs: expected an entry for ipc={ipc} or more, got entries up to {max(epochs)}; add one",
            )
            epochs = epochs[min(reached)]
        if self.short_from_classes and num_classes >= self.short_from_classes:
            # In integers: two thirds of 1,500 must not become 999 by rounding.
            return max(1, epochs * 2 // 3 // 100 * 100)
        return epochs

    def rate_factor(self, epoch: int, epochs: int) -> float:
        """What the learning rate is multiplied by in ``epoch`` (from 0) of ``epochs``."""
        return self.decay ** sum(epoch >= int(Fraction(share) * epochs) for share in self.milestones)

    def evaluated_epochs(self, epochs: int) -> frozenset[int]:
        """Epochs (from 1) after which the test set is evaluated; ``epochs`` is one of them."""
        count = min(self.evaluations, epochs)
        return frozenset(round(epochs * (index + 1) / count) for index in range(count))
