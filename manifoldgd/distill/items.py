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

    @property
    def row_key(self) -> RowKey:
        """What the item's noise depends on, beside the seed."""
        return RowKey(self.class_name, self.rank)


def work_items(class_names: Sequence[str], prior_labels: Sequence[int], ipc: int) -> list[WorkItem]:
    """All items of a set, class by class."""
    return [
        WorkItem(label, name, rank, prior_labels[label])
        for label, name in enumerate(class_names)
        for rank in range(ipc)
    ]
