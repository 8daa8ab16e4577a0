"""Arrays of pixels and labels in NumPy's ``.npz`` and ``.npy`` files, as Keras, MedMNIST and many scripts have them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from manifoldgd.data.image_dataset import Found, ImageOptions, check_options, image_dataset, some
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import UserError, argument, require, required

# What images and labels are called: Keras's files, MedMNIST's, scripts of the field's.
CALLED = (
    ("x_{}", "y_{}"),
    ("{}_images", "{}_labels"),
    ("images_{}", "labels_{}"),
    ("{}_x", "{}_y"),
    ("X_{}", "y_{}"),
)
ALONE = (("images", "labels"), ("x", "y"), ("X", "y"), ("arr_0", "arr_1"))


def npz(
    *, file: str, train: str, test: str, names: Sequence[str | int] | None, **options: Unpack[ImageOptions]
) -> ImageDataset:
    """Images in an ``.npz`` file, or in a folder of ``.npy`` files, of the names in :data:`CALLED`.

    Args:
        file: the file, or the folder.
        train: what stands for ``{}`` in the names of the training split's arrays.
        test: the same of the test split; with ``test_share`` there is none, and the names may be those in
            :data:`ALONE`.
        names: of the classes, for labels 0, 1, ...; ``None`` to call each by its label.
        options: see :class:`manifoldgd.data.image_dataset.ImageOptions`.

    Raises:
        UserError: there is no such file, arrays are missing, hold no images or do not go together; and see
            :func:`manifoldgd.data.image_dataset.image_dataset`.
    """
    check_options(**options)
    place = Path(file).expanduser()
    try:
        arrays = _arrays(place)
        alone = options["test_share"] is not None
        held = _pair(arrays, train, place, ALONE if alone else ())
        judged = None if alone else _pair(arrays, test, place, ())
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{place} cannot be read ({error}); restore it", key="file") from error
    top = max(int(labels.max(initial=0)) for _, labels in filter(None, (held, judged)))
    called = tuple(map(str, range(top + 1) if names is None else names))
    require(
        len(called) > top,
        f"expected a name for each label up to {top}, got {some(called)}; add the others",
        key="names",
    )
    present = set(np.unique(held[1]).tolist())
    missing = [name for label, name in enumerate(called) if label not in present]
    require(
        not missing or options["classes"] is not None,
        f"no training image in {place} is of class {some(missing)}; name those to use in {argument('classes')}",
        key="file",
    )
    return image_dataset("npz", place, called, Found(*held), judged and Found(*judged), **_named(place, options))


def _named(place: Path, options: ImageOptions) -> ImageOptions:
    return {**options, "name": place.stem if options["name"] is None else options["name"]}  # type: ignore[return-value]


def _arrays(place: Path) -> Mapping[str, np.ndarray]:
    require(
        place.exists(),
        f"expected an .npz file or a folder of .npy files, found no {place}; set another one",
        key="file",
    )
    if place.is_dir():
        return {each.stem: np.load(each, mmap_mode="r", allow_pickle=False) for each in sorted(place.glob("*.npy"))}
    found = np.load(place, allow_pickle=False)
    require(
        not isinstance(found, np.ndarray),
        f"{place} holds one array, expected images and labels; put both .npy files into a folder and set it to that",
        key="file",
    )
    return found


def _pair(
    arrays: Mapping[str, np.ndarray], split: str, place: Path, others: Sequence[tuple[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, h, w]`` or ``[N, h, w, 3]`` uint8 and labels ``[N]`` of a split."""
    pairs = [(images.format(split), labels.format(split)) for images, labels in CALLED] + list(others)
    pair = required(
        next(((images, labels) for images, labels in pairs if images in arrays and labels in arrays), None),
        f"expected arrays {' or '.join(map(' and '.join, pairs))} in {place}, found "
        f"{some(sorted(arrays), 12)}; rename them, set {argument('train')} and {argument('test')} to how splits are "
        "called, or "
        f"{argument('test_share')}=0.2 where there is one only",
        key="file",
    )
    images, labels = arrays[pair[0]], np.asarray(arrays[pair[1]])
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = np.moveaxis(images, 1, 3)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    require(
        images.dtype == np.uint8 and (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)),
        f"expected {pair[0]} of {place} to be uint8 of shape [N, h, w] or [N, h, w, 3], got "
        f"{images.dtype} {list(images.shape)}; save it as whole numbers 0 ... 255",
        key="file",
    )
    whole = labels.reshape(-1) if labels.size == len(images) else labels
    require(
        whole.shape == (len(images),) and whole.dtype.kind in "iu" and whole.min(initial=0) >= 0,
        f"expected {pair[1]} of {place} to be {len(images):,} whole numbers from 0 on, got "
        f"{labels.dtype} {list(labels.shape)}; save one label an image",
        key="file",
    )
    return images, whole.astype(np.int64)
