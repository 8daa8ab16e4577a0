"""What is to be synthesised: one item an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manifoldgd.randomness import RowKey


@dataclass(frozen=True)
class WorkItem:
    """One synthetic image: its class, and its prototype within the class."""

    label: int  # index into the dataset's class_names
    class_name: str
    rank: int  # prototype within the class, 0 ... ipc - 1
    prior_label: int  # what the prior calls the class
    replica: int = 0  # which of the images sampled for the prototype

    @property
    def row_key(self) -> RowKey:
        """What the item's noise depends on, beside the seed."""
        return RowKey(self.class_name, self.rank, self.replica)


def work_items(
    class_names: Sequence[str],
    prior_labels: Sequence[int],
    ipc: int,
    *,
    replica: int = 0,
    prompts: Sequence[int] | None = None,
) -> list[WorkItem]:
    """All items of a set, class by class.

    Args:
        class_names: of the dataset.
        prior_labels: of each class.
        ipc: images a class.
        replica: sets of another one have other noise.
        prompts: how many labels each class has, counted on from its first; its images take turns. ``None``: one each.
    """
    counts = prompts or [1] * len(class_names)
    return [
        WorkItem(label, name, rank, prior_labels[label] + rank % counts[label], replica)
        for label, name in enumerate(class_names)
        for rank in range(ipc)
    ]
