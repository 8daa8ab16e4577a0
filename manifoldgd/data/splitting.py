"""A test split for data that have none: a share of each class, by what its images are called.

A fixed key orders the names of a class, and the first are the test images. So the split is the same for everyone who
has the images, is exact in every class, and hardly changes when images are added: each one that is added moves at most
one other.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from manifoldgd.errors import UserError, argument, require, required

STEM = "stem"


def split_off(
    names: Sequence[str], labels: np.ndarray, class_names: Sequence[str], share: float, group_by: str | None
) -> np.ndarray:
    """Which images are test images.

    Args:
        names: what each image is called, with its extension.
        labels: ``[N]`` class of each.
        class_names: by label.
        share: of each class, in (0, 1); at least one group goes to either side.
        group_by: images with equal groups stay together: ``"stem"`` for what stands before the last ``_``, ``-``,
            space or bracket of a name (``dog7_03.jpg`` and ``dog7_04.jpg`` are of one dog); a regular expression for
            what its first bracket matches, or all of it if it has none; ``None`` for each image by itself.

    Returns:
        ``[N]`` bool.

    Raises:
        UserError: a class has fewer than two groups, or the expression matches some name nowhere.
    """
    tests = np.zeros(len(names), bool)
    for label, class_name in enumerate(class_names):
        rows = np.flatnonzero(labels == label)
        groups: dict[str, list[int]] = {}
        for row in rows.tolist():
            groups.setdefault(group_of(names[row], group_by), []).append(row)
        kind = "image" if group_by is None else f"group of images by {argument('group_by')}"
        require(
            len(groups) >= 2,
            f"class {class_name!r} has {len(groups)} {kind}, so there is nothing to split off; add "
            f"images, leave the class out by {argument('classes')}, or "
            + (
                "put test images into a split of their own"
                if group_by is None
                else f"set another {argument('group_by')}"
            ),
            key="test_share",
        )
        wanted = max(1, round(share * len(rows)))
        in_order = sorted(groups, key=lambda group: _place(class_name, group))
        taken = 0
        for group in in_order[:-1]:
            more = len(groups[group])
            # The count nearest to the share, at group borders.
            if taken and abs(taken + more - wanted) >= abs(taken - wanted):
                break
            tests[groups[group]] = True
            taken += more
    return tests


def check_group_by(group_by: str | None) -> None:
    """Raise :class:`UserError` unless ``group_by`` is nothing, ``"stem"`` or a regular expression."""
    if group_by is None or group_by == STEM:
        return
    try:
        re.compile(group_by)
    except re.error as error:
        raise UserError(
            f"expected null, stem, or a regular expression, got {group_by!r} ({error}); correct it", key="group_by"
        ) from error


def group_of(name: str, group_by: str | None) -> str:
    """The group of an image by its name; the name itself where there are no groups."""
    if group_by is None:
        return name
    if group_by == STEM:
        stem = name.rpartition(".")[0] or name
        return re.split(r"[ _(-]+(?=[^ _(-]*$)", stem, maxsplit=1)[0]
    found = required(
        re.search(group_by, name),
        f"{group_by!r} matches nothing in the name {name!r}; set an expression that all names match",
        key="group_by",
    )
    return found.group(1 if found.re.groups else 0) or ""


def _place(class_name: str, group: str) -> bytes:
    """Where a group comes among the others of its class: a hash, as good as a draw and the same everywhere."""
    text = unicodedata.normalize("NFC", f"{class_name}\0{group}")
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
