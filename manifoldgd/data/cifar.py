"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images of 32x32, as its page gives them.

Both forms are read: the binary one, a label or two and then three planes of pixels, and Python's, whose pickles are
opened by a reader that knows arrays, lists and dictionaries and can run nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np

from manifoldgd.data.image_dataset import Found, ImageOptions, check_options, image_dataset
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import UserError, argument, require
from manifoldgd.files import content_hash

PIXELS = 3 * 32 * 32
# MD5 of the files in the archives for Python.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
_PLAIN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),  # how bytes are written for Python 2
}


def cifar10(*, folder: str, checksums: bool, **options: Unpack[ImageOptions]) -> ImageDataset:
    """CIFAR-10 from its archive for Python or its binary one, unpacked.

    Args:
        folder: ``cifar-10-batches-py``, ``cifar-10-batches-bin``, or where one of them lies.
        checksums: whether Python's files must be the official ones.
        options: see :class:`manifoldgd.data.image_dataset.ImageOptions`.

    Raises:
        UserError: files are missing, damaged or others; and see
            :func:`manifoldgd.data.image_dataset.image_dataset`.
    """
    check_options(**options)
    root, reads = _located(folder, "cifar-10-batches", "test_batch")
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    if reads == "py":
        read, names = _python(root, checksums, b"labels"), _pickled(root / "batches.meta", checksums)[b"label_names"]
    else:
        read, names = _binary(root, (0,)), (root / "batches.meta.txt").read_bytes().split()
    train, test = (_joined([read(name) for name in files]) for files in (batches, ["test_batch"]))
    return image_dataset("cifar10", root, _text(names), train, test, **options)


def cifar100(
    *, folder: str, checksums: bool, labels: Literal["fine", "coarse"], **options: Unpack[ImageOptions]
) -> ImageDataset:
    """CIFAR-100 from its archive for Python or its binary one, unpacked.

    Args:
        folder: ``cifar-100-python``, ``cifar-100-binary``, or where one of them lies.
        checksums: whether Python's files must be the official ones.
        labels: ``fine`` for its 100 classes, ``coarse`` for its 20 superclasses.
        options: see :class:`manifoldgd.data.image_dataset.ImageOptions`.

    Raises:
        UserError: as :func:`cifar10`.
    """
    check_options(**options)
    root, reads = _located(folder, "cifar-100", "test")
    if reads == "py":
        read = _python(root, checksums, f"{labels}_labels".encode())
        names = _pickled(root / "meta", checksums)[f"{labels}_label_names".encode()]
    else:
        read = _binary(root, (1, 0) if labels == "fine" else (0, 1))
        names = (root / f"{labels}_label_names.txt").read_bytes().split()
    return image_dataset("cifar100", root, _text(names), _joined([read("train")]), _joined([read("test")]), **options)


def _located(folder: str, called: str, test_file: str) -> tuple[Path, str]:
    """The folder with the files, and in which form they are."""
    root = Path(folder).expanduser()
    places = [root, *(root / f"{called}-{form}" for form in ("py", "python", "bin", "binary"))]
    for place in places:
        for form, file in (("py", test_file), ("bin", f"{test_file}.bin")):
            if (place / file).is_file():
                return place, form
    raise UserError(
        f"expected {test_file} or {test_file}.bin in one of {', '.join(map(str, places))}, found none; "
        "unpack the archive from www.cs.toronto.edu/~kriz/cifar.html and set it to it",
        key="folder",
    )


def _python(root: Path, checksums: bool, key: bytes) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        held = _pickled(root / name, checksums)
        pixels, labels = held.get(b"data"), held.get(key)
        if (
            isinstance(pixels, np.ndarray)
            and isinstance(labels, list)
            and pixels.dtype == np.uint8
            and pixels.shape == (len(labels), PIXELS)
        ):
            return pixels, np.array(labels, np.int64)
        raise UserError(
            f"expected pixels and {key.decode()} in {root / name}, got {_kinds(held)}; unpack the archive again",
            key="folder",
        )

    return read


def _binary(root: Path, columns: tuple[int, ...]) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """Reads records of ``len(columns)`` labels, of which the one at ``columns[0]`` counts, and three planes."""

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        file = root / f"{name}.bin"
        try:
            rows = np.fromfile(file, np.uint8)
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error}); unpack the archive again", key="folder") from error
        size = len(columns) + PIXELS
        require(
            len(rows) > 0 and len(rows) % size == 0,
            f"expected records of {size} bytes in {file}, got {len(rows):,} bytes; unpack the archive again",
            key="folder",
        )
        rows = rows.reshape(-1, size)
        return rows[:, len(columns) :], rows[:, columns[0]].astype(np.int64)

    return read


def _joined(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> Found:
    pixels, labels = map(np.concatenate, zip(*batches, strict=True))
    return Found(np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels)


def _text(names: Sequence[Any]) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _kinds(held: Mapping[Any, Any]) -> str:
    return ", ".join(f"{key!r}: {type(value).__name__}" for key, value in held.items()) or "nothing"


class _PlainUnpickler(pickle.Unpickler):
    """Knows what the official files are made of; a file that names anything else is refused before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"names {module}.{name}, which no file of CIFAR does")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _pickled(file: Path, checksums: bool) -> Mapping[Any, Any]:
    try:
        if checksums:
            found = content_hash(file, "md5")
            require(
                found == MD5[file.name],
                f"{file} has MD5 {found}, the official file {MD5[file.name]}; unpack the archive "
                f"again, or set {argument('checksums')}=false, with a {argument('name')} of its own, if it is another "
                "of this form",
                key="folder",
            )
        with file.open("rb") as stream:
            held = _PlainUnpickler(stream, encoding="bytes").load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file} cannot be read ({reason}); unpack the archive again", key="folder") from error
    require(isinstance(held, dict), f"{file} holds no dictionary; unpack the archive again", key="folder")
    return held
