"""Trained classifiers as files: weights and description in one safetensors file, students with a card beside it."""

from __future__ import annotations

import json
from pathlib import Path

from manifoldgd.data.imagenet import readable
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_write_text
from manifoldgd.store.tensors import read_tensors, write_tensors
from manifoldgd.students import Classifier

FORMAT = "manifoldgd-classifier-1"
STUDENT = "student.safetensors"  # in a folder of its own, written last: where it is, the student is whole


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
    except UserError:  # a model of timm where timm is not
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{file}: expected a saved classifier, got a damaged or foreign file ({type(error).__name__}); "
            "remove it to have it trained again"
        ) from error


def save_student(student: Classifier, folder: Path) -> None:
    """Write a trained student and its card into a folder of its own.

    Args:
        student: its description says, beside what every classifier's does, ``dataset``, ``class_names``, ``set`` (of
            what it was trained on: ``method``, ``ipc``, ``seed``, ``fingerprint``), ``label_protocol``, ``protocol``
            (all numbers of it), ``epochs``, ``train_accuracy`` and ``test_accuracy``.
        folder: made if missing.

    Raises:
        OSError: the folder is not writable, or the disk is full.
    """
    atomic_write_text(folder / "README.md", _student_card(student))
    save_classifier(student, folder / STUDENT)


def is_saved(folder: Path) -> bool:
    """Whether a folder holds a whole saved student."""
    return (folder / STUDENT).is_file()


def load_student(folder: Path) -> Classifier:
    """A saved student, from its own folder or from a result folder that holds one.

    Raises:
        UserError: there is none, there are several, or the file is damaged.
    """
    found = [folder / STUDENT] if is_saved(folder) else sorted(folder.glob(f"students/*/{STUDENT}"))
    names = [str(file.parent) for file in found]
    require(
        len(found) == 1,
        f"{folder}: expected a saved student, got {f'{len(found)} of them; name one of {names}' if found else 'none'}"
        f"{'' if found else '; students are saved by save_students=true'}",
    )
    return load_classifier(found[0])


def _student_card(student: Classifier) -> str:
    facts = student.description
    made, shape = facts["set"], " x ".join(map(str, facts["image_shape"]))
    names = readable(facts["class_names"])
    return f"""---
library_name: manifoldgd
pipeline_tag: image-classification
---
# {student.name}, trained on a distilled set of {facts["dataset"]}

| | |
|---|---|
| network | {student.name}: {json.dumps(facts["recipe"])} |
| input | {shape}, uint8 divided by 255, then less the mean and over the deviation of each channel |
| mean, standard deviation | {facts["mean"]}, {facts["std"]} |
| trained on | {made["method"]}, {made["ipc"]} images a class, seed {made["seed"]}, set {made["fingerprint"]} |
| protocol | {facts["label_protocol"]}, {facts["epochs"]} epochs, student seed {facts["seed"]} |
| accuracy on the test split of {facts["dataset"]} | {100 * facts["test_accuracy"]:.2f} % after the last epoch |
| accuracy on the set itself | {100 * facts["train_accuracy"]:.2f} % |

`{STUDENT}` holds the weights and, in its metadata, all that stands here.

```python
import manifoldgd as mgd
student = mgd.load_student("FOLDER")
student.logits(images)  # uint8 [n, C, H, W] -> [n, {len(names)}]
```

Classes, from label 0 on: {", ".join(names)}

```json
{json.dumps(facts["protocol"], indent=2, sort_keys=True)}
```
"""
