"""Trained classifiers as files: weights and description in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

from manifoldgd.errors import UserError
from manifoldgd.store.tensors import read_tensors, write_tensors
from manifoldgd.students import Classifier

FORMAT = "manifoldgd-classifier-1"


def save_classifier(classifier: Classifier, file: Path) -> None:
    """Write weights and description; the file appears complete or not at all.

    Raises:
        OSError: the folder is not writable, or the disk is full.
    """
    metadata = {"format": FORMAT, "description": json.dumps(classifier.description)}
    write_tensors(file, classifier.network.state_dict(), metadata)


def load_classifier(file: Path, *, ours: bool = True) -> Classifier:
    """Read what :func:`save_classifier` wrote; ``ours`` as for :func:`~manifoldgd.store.tensors.read_tensors`.

    Raises:
        UserError: the file is damaged or something else.
    """
    weights, metadata = read_tensors(file, again="have it trained again", ours=ours)
    try:
        return Classifier.restored(json.loads(metadata["description"]), weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{file}: expected a saved classifier, got a damaged or foreign file ({type(error).__name__}); "
            "remove it to have it trained again"
        ) from error
