"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747): 60,000 + 10,000 grey images of 28x28, IDX files.

The files are looked for in the folder given, then where Debian's package ``dataset-fashion-mnist`` puts them, and are
downloaded (checksums below) only if neither has them.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import struct
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manifoldgd.artifacts import Key
from manifoldgd.dataset import HeldOut, ImageDataset, Images, fingerprint_of, hold_out, in_memory_split, limit_per_class
from manifoldgd.errors import UserError, argument, require
from manifoldgd.files import atomic_write_bytes

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
SIDE = 28
CLASS_NAMES = (
    "t-shirt_top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle_boot",
)
# SHA-256 of the *unpacked* files: repacked copies (Debian's, for one) differ in their gzip headers.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fashion_mnist(
    *, folder: str | None, download: bool, train_per_class: Images | None, validation: HeldOut | None
) -> ImageDataset:
    """Fashion-MNIST with its own train/test split.

    Args:
        folder: where the four IDX files (plain or ``.gz``) lie, or ``None`` to look in the usual places.
        download: fetch missing files into ``folder`` (default ``~/.cache/manifoldgd/fashion_mnist``).
        train_per_class: keep only the first images of each class of the training split; ``None`` keeps all.
        validation: hold out this many training images, or this share, to tune on
            (:func:`manifoldgd.dataset.hold_out`).

    Raises:
        UserError: a file is missing and may not or cannot be downloaded, is truncated, is not an IDX file, or does
            not go with the others.
    """
    root = _locate(folder, download)
    contents = _split(root, "train"), _split(root, "t10k")
    train, test = limit_per_class(in_memory_split(*contents[0]), train_per_class), in_memory_split(*contents[1])
    former = [f"fashion_mnist-{_digest(*contents[0], *contents[1])}-first{train_per_class}"]
    whole = ImageDataset(
        name="fashion_mnist",
        class_names=CLASS_NAMES,
        image_shape=(1, 28, 28),
        train=train,
        test=test,
        mean=(0.2861,),
        std=(0.3530,),
        flip=True,
        train_fingerprint=Key(fingerprint_of(train.labels, train.digests, CLASS_NAMES), former),
        test_fingerprint=Key(fingerprint_of(test.labels, test.digests, CLASS_NAMES), former),
    )
    return hold_out(whole, validation)


def _locate(folder: str | None, download: bool) -> Path:
    cache = Path("~/.cache/manifoldgd/fashion_mnist").expanduser()
    candidates = [Path(folder).expanduser()] if folder is not None else [DEBIAN_FOLDER, cache]
    for candidate in candidates:
        if all(_existing(candidate, name) for name in SHA256):
            return candidate
    places = ", ".join(map(str, candidates))
    if not download:
        raise UserError(
            f"expected the four Fashion-MNIST IDX files in {places}, found none or not all; "
            f"set it, install Debian's dataset-fashion-mnist, or set {argument('download')}=true",
            key="folder",
        )
    for name in SHA256:
        if not _existing(candidates[-1], name):
            _download(name, candidates[-1])
    return candidates[-1]


def _existing(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _download(name: str, folder: Path) -> None:
    url = f"{DOWNLOAD_URL}{name}.gz"
    by_hand = f"put the four IDX files in a folder yourself and set {argument('folder')}"
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            packed = response.read()
        found = hashlib.sha256(gzip.decompress(packed)).hexdigest()
    except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:  # no network, or half a file
        raise UserError(
            f"could not fetch {url} ({error}); {by_hand}, or install Debian's dataset-fashion-mnist", key="download"
        ) from error
    require(
        found == SHA256[name],
        f"{url} has SHA-256 {found}, expected {SHA256[name]}; try again, or {by_hand}",
        key="download",
    )
    try:
        atomic_write_bytes(folder / f"{name}.gz", packed)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error}); set one that is writable", key="folder") from error


def _read(folder: Path, name: str, magic: int, header_ints: int) -> tuple[tuple[int, ...], np.ndarray]:
    """Header sizes and payload of an IDX file (big-endian magic number and sizes, then unsigned bytes)."""
    path = _existing(folder, name)
    assert path is not None
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found, *sizes = struct.unpack(f">{header_ints}i", raw[: 4 * header_ints])
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(
            f"{path} is not a readable IDX file ({error}); replace it with an intact copy", key="folder"
        ) from error
    payload = np.frombuffer(raw, np.uint8, offset=4 * header_ints)
    expected = int(np.prod(sizes))
    require(
        found == magic and len(payload) == expected,
        f"{path} should have IDX magic {magic} and {expected} bytes, got magic {found} and "
        f"{len(payload)} bytes; replace it with an intact copy",
        key="folder",
    )
    return tuple(sizes), payload


def _split(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Images ``[N, 1, 28, 28]`` uint8 and labels ``[N]`` int64 of one split."""
    sizes, pixels = _read(folder, f"{prefix}-images-idx3-ubyte", magic=2051, header_ints=4)
    (count,), labels = _read(folder, f"{prefix}-labels-idx1-ubyte", magic=2049, header_ints=2)
    require(
        sizes == (count, SIDE, SIDE) and bool((labels < len(CLASS_NAMES)).all()),
        f"{folder}/{prefix}-* should hold {SIDE}x{SIDE} images and as many labels below "
        f"{len(CLASS_NAMES)}, got {sizes[0]} of {sizes[1]}x{sizes[2]} and {count} labels up to "
        f"{labels.max(initial=0)}; replace the files with intact copies",
        key="folder",
    )
    return torch.from_numpy(pixels.copy()).reshape(count, 1, SIDE, SIDE), torch.from_numpy(labels.astype(np.int64))


def _digest(*tensors: Tensor) -> str:
    """Hash of the contents: a folder may hold other images in the same number."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
