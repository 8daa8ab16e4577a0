"""SVHN (Netzer et al. 2011), format 2: 73,257 + 26,032 cropped digits of 32x32 in MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import numpy as np

from manifoldgd.data.image_dataset import Found, ImageOptions, check_options, image_dataset
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import UserError, argument, require
from manifoldgd.files import content_hash

MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
}


def svhn(*, folder: str, extra: bool, checksums: bool, **options: Unpack[ImageOptions]) -> ImageDataset:
    """SVHN's cropped digits; its class 10 is the digit 0.

    Args:
        folder: with ``train_32x32.mat`` and ``test_32x32.mat``.
        extra: whether ``extra_32x32.mat``, 531,131 easier images, joins the training split.
        checksums: whether the files must be the official ones.
        options: see :class:`manifoldgd.data.image_dataset.ImageOptions`.

    Raises:
        UserError: files are missing, damaged or others; and see
            :func:`manifoldgd.data.image_dataset.image_dataset`.
    """
    check_options(**options)
    root = Path(folder).expanduser()
    trained = [_read(root / f"{name}_32x32.mat", checksums) for name in ("train", *(("extra",) if extra else ()))]
    images, labels = map(np.concatenate, zip(*trained, strict=True))
    test = Found(*_read(root / "test_32x32.mat", checksums))
    return image_dataset("svhn", root, [str(digit) for digit in range(10)], Found(images, labels), test, **options)


def _read(file: Path, checksums: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, 32, 32, 3]`` uint8 and digits ``[N]``."""
    from scipy.io import loadmat

    require(
        file.is_file(),
        f"expected {file.name} in {file.parent}, found none; get format 2 from "
        "ufldl.stanford.edu/housenumbers and set it to where it lies",
        key="folder",
    )
    if checksums:
        found = content_hash(file, "md5")
        require(
            found == MD5[file.name],
            f"{file} has MD5 {found}, the official file {MD5[file.name]}; get it again, or set "
            f"{argument('checksums')}=false with a {argument('name')} of its own if it is another one of this form",
            key="folder",
        )
    try:
        held = loadmat(file, variable_names=("X", "y"))
        images, labels = held["X"], held["y"].reshape(-1).astype(np.int64)
    except Exception as error:  # a damaged file raises nearly anything
        raise UserError(f"{file} cannot be read ({error}); get it again", key="folder") from error
    require(
        images.dtype == np.uint8 and images.ndim == 4 and images.shape[2:] == (3, len(labels)),
        f"expected X of {file} to be uint8 [32, 32, 3, {len(labels)}], got {images.dtype} "
        f"{list(images.shape)}; get format 2 of SVHN",
        key="folder",
    )
    require(
        bool(((labels >= 1) & (labels <= 10)).all()),
        f"expected labels 1 ... 10 in y of {file}, got {sorted(set(labels.tolist()))[:12]}; get it again",
        key="folder",
    )
    return np.ascontiguousarray(np.moveaxis(images, 3, 0)), labels % 10
