"""The thousand classes of ImageNet-1K (ILSVRC2012): WordNet ids in the order by which priors know them, and names.

Names are the first of each synset in WordNet; *crane* the bird and the second *maillot* are told from their namesakes.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from importlib import resources

from manifoldgd.errors import require


@functools.cache
def names_by_wnid() -> Mapping[str, str]:
    """What each class is called, by its WordNet id, in the order of their labels 0 ... 999."""
    text = resources.files("manifoldgd.data").joinpath("imagenet.csv").read_text(encoding="utf-8")
    return {wnid: name for wnid, name in list(csv.reader(text.splitlines()))[1:]}


def labels_of(wnids: Sequence[str]) -> dict[str, int]:
    """The label in ImageNet-1K of each class.

    Raises:
        UserError: one is none of its classes.
    """
    place_of = {wnid: place for place, wnid in enumerate(names_by_wnid())}
    unknown = [wnid for wnid in wnids if wnid not in place_of]
    require(
        not unknown,
        f"expected WordNet ids of ImageNet-1K as classes, got "
        f"{', '.join(map(repr, unknown[:5]))}; map class names to labels in "
        "prior_labels, or set it to null to match by name",
        key="prior_labels",
    )
    return {wnid: place_of[wnid] for wnid in wnids}


def readable(class_names: Sequence[str]) -> tuple[str, ...]:
    """The classes for people: a name before each WordNet id of ImageNet-1K, others as they are.

    >>> readable(["n02086240", "my cat"])
    ('Shih-Tzu n02086240', 'my cat')
    """
    known = names_by_wnid()
    return tuple(f"{known[name]} {name}" if name in known else name for name in class_names)
