"""Which label of the prior stands for each class of the dataset.

A class mapped to the wrong label costs points silently, so nothing is guessed: names match exactly (or one of the
comma-separated synonyms ImageNet's labels have), or the dataset says the label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from manifoldgd.errors import UserError, require

SHOWN = 5  # names listed in an error


def _normalised(name: str) -> str:
    return name.strip().casefold().replace("_", " ")


def prior_labels(
    class_names: Sequence[str], given: Mapping[str, int] | None, prior_name: str, prior_class_names: Sequence[str]
) -> list[int]:
    """The prior's label for each class, in the dataset's order.

    Args:
        class_names: the dataset's classes.
        given: class name -> label of the prior, or ``None`` to match by name.
        prior_name: for messages.
        prior_class_names: the prior's classes, by label.

    Returns:
        One label in ``[0, len(prior_class_names))`` a class.

    Raises:
        UserError: a class has no label, an ambiguous one, one out of range, or shares its label with another class.
    """
    labels = _by_name(class_names, prior_name, prior_class_names) if given is None else _given(class_names, given)
    for name, label in zip(class_names, labels, strict=True):
        require(
            0 <= label < len(prior_class_names),
            f"class {name!r} is mapped to {label}, prior {prior_name} has labels 0 ... "
            f"{len(prior_class_names) - 1}; correct the label",
            key="prior_labels",
        )
    shared = sorted({label for label in labels if labels.count(label) > 1})
    require(
        not shared, f"several classes are mapped to label {shared}; give each class its own label", key="prior_labels"
    )
    return labels


def _given(class_names: Sequence[str], given: Mapping[str, int]) -> list[int]:
    missing = [name for name in class_names if name not in given]
    require(not missing, f"no label for {_listed(missing)}; add them", key="prior_labels")
    return [int(given[name]) for name in class_names]


def _by_name(class_names: Sequence[str], prior_name: str, prior_class_names: Sequence[str]) -> list[int]:
    labels_of: dict[str, set[int]] = defaultdict(set)
    for label, full_name in enumerate(prior_class_names):
        for synonym in {full_name, *full_name.split(",")}:
            labels_of[_normalised(synonym)].add(label)
    found = [labels_of.get(_normalised(name), set()) for name in class_names]
    unmatched = [name for name, labels in zip(class_names, found, strict=True) if len(labels) != 1]
    if unmatched:
        raise UserError(
            f"{len(unmatched)} of {len(class_names)} classes match no single class of prior "
            f"{prior_name}, which has {len(prior_class_names)} ({_listed(unmatched)} against "
            f"{_listed(prior_class_names)}); set it to a mapping from class to the prior's label, "
            "or choose a prior trained on this dataset: `manifoldgd prior output=my_prior` trains one, prior=my_prior "
            "takes it",
            key="prior_labels",
        )
    return [labels.copy().pop() for labels in found]


def _listed(names: Sequence[str]) -> str:
    tail = ", ..." if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + tail
