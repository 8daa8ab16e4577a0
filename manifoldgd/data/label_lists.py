"""Lists of the class of each image, for images that do not lie in class folders."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from manifoldgd.errors import UserError, require

# Where ImageNet's own lists lie: in the development kit of ILSVRC2012, and in Kaggle's archive.
DEVKIT = "ILSVRC2012_devkit_t12"
_GROUND_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_KAGGLE = "LOC_val_solution.csv"


def find_list(folder: Path) -> Path | None:
    """ImageNet's own list of its validation images, where it lies in their folder or in its development kit there."""
    places = (folder / _KAGGLE, folder / DEVKIT / "data" / _GROUND_TRUTH, folder / "data" / _GROUND_TRUTH)
    return next((place for place in (*places, folder / _GROUND_TRUTH) if place.is_file()), None)


def read_list(file: Path) -> Mapping[str, str]:
    """The class of each image, by the image's file name (Kaggle's list: without extension).

    Args:
        file: one of three. The ground truth of ImageNet's development kit, or its folder: the n-th line is the number
            of the class of ``ILSVRC2012_val_<n>.JPEG``, and ``meta.mat`` beside it knows the WordNet ids. Kaggle's
            ``LOC_val_solution.csv``: a name, and a prediction that begins with the WordNet id. Any CSV or
            tab-separated file of two columns, file and class, with or without a heading.

    Raises:
        UserError: there is no such file, or it is none of these.
    """
    file = next((place for place in (find_list(file),) if file.is_dir() and place), file)
    require(
        file.is_file(),
        f"expected a list of labels, found no file {file}; set it to ImageNet's "
        f"{_GROUND_TRUTH} or {_KAGGLE}, or to a CSV file of names and classes",
        key="test_labels",
    )
    try:
        found = _devkit(file) if file.name == _GROUND_TRUTH else _table(file)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}); restore or correct it", key="test_labels") from error
    require(bool(found), f"{file} is empty; restore it", key="test_labels")
    return found


def _devkit(file: Path) -> Mapping[str, str]:
    from scipy.io import loadmat

    require(
        (file.parent / _META).is_file(),
        f"expected {_META} beside {file}, which says what its numbers stand for; unpack all of the development kit",
        key="test_labels",
    )
    synsets = loadmat(file.parent / _META, squeeze_me=True)["synsets"]
    class_of = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    numbers = map(int, file.read_text().split())
    return {f"ILSVRC2012_val_{place:08d}.JPEG": class_of[number] for place, number in enumerate(numbers, start=1)}


def _table(file: Path) -> Mapping[str, str]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        tabs = "\t" in stream.readline()
        stream.seek(0)
        rows = [row for row in csv.reader(stream, delimiter="\t" if tabs else ",") if row]
    if rows and rows[0][:2] == ["ImageId", "PredictionString"]:
        return {name: prediction.split()[0] for name, prediction in rows[1:]}
    short = [number for number, row in enumerate(rows, start=1) if len(row) < 2]
    if short:
        raise ValueError(f"line {short[0]} has no second column")
    heading = rows and not Path(rows[0][0]).suffix and Path(rows[-1][0]).suffix
    return {name: class_name for name, class_name, *_ in rows[1 if heading else 0 :]}
