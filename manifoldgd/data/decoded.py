"""Pictures decoded once: their tensors, in memory-mapped files, by the hash of the bytes they were decoded from.

Decoding a photograph of twelve megapixels takes as long as a hundred steps of a small network, and training looks at
each of them hundreds of times. A store holds what was made of pictures under one :class:`Treatment`; since contents are
its keys, it serves every dataset, split and selection of classes that has them, wherever the files lie. It grows by
whole files, so whoever is killed loses what was decoded since the last one, and nothing else. Each row knows its
checksum, verified when a process reads it for the first time.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from manifoldgd.data.image_files import DIGEST, Picture, decode, load_pictures, on_threads
from manifoldgd.data.transforms import VERSION, Treatment
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_path, one_at_a_time
from manifoldgd.progress import Advance, data_size, progress_bar

LARGEST_FILE = 1 << 28  # bytes: what is held in memory until it is written
WRITE_EVERY = 20.0  # seconds of decoding that a kill costs at most
MOST_OF_DISK = 0.5  # of what is free; beyond, pictures are decoded whenever they are asked for
FEW = 256  # pictures that are decoded as they are asked for; who asks for more has the whole split decoded
ANNOUNCED, ANNOUNCED_BYTES = 2000, 1e8  # pictures, or bytes of files, from which on a progress bar is worth its line
_HEAD = 2 * DIGEST  # of a row: hash of the picture's bytes, checksum of that and the pixels; then the pixels


class DecodedStore:
    """The tensors of pictures under one treatment, in a folder of the cache.

    Args:
        cache: root of the cache.
        treatment: what was made of the pictures.
    """

    def __init__(self, cache: Path, treatment: Treatment) -> None:
        # Pillow's resampling and the decoders it brings differ between versions by a grey level.
        made_by = repr((VERSION, treatment, PIL.__version__)).encode()
        name = f"{treatment.size}px-{treatment.channels}ch-{hashlib.blake2b(made_by, digest_size=8).hexdigest()}"
        self._cache, self.treatment, self.folder = cache, treatment, cache / "decoded" / name
        self._files: dict[Path, np.ndarray] = {}
        self._rows: dict[bytes, tuple[np.ndarray, Path, int]] = {}
        self._verified: set[bytes] = set()
        self.refresh()

    def __reduce__(self) -> tuple[type[DecodedStore], tuple[Path, Treatment]]:
        return DecodedStore, (self._cache, self.treatment)  # another process maps the files itself

    @property
    def row_bytes(self) -> int:
        """Of one picture on disk."""
        return _HEAD + int(np.prod(self.treatment.shape))

    def refresh(self) -> None:
        """Look for files that another process has added."""
        for file in sorted(self.folder.glob("*.npy")) if self.folder.is_dir() else ():
            if file in self._files or file.name.startswith("."):
                continue
            try:
                rows = np.load(file, mmap_mode="r")
                fits = rows.dtype == np.uint8 and rows.shape[1:] == (self.row_bytes,)
            except (OSError, ValueError, EOFError) as error:
                raise UserError(f"{file}: damaged ({error}); remove it to decode its images again") from error
            require(fits, f"{file}: damaged (its rows are of another size); remove it to decode its images again")
            self._files[file] = rows
            contents = rows[:, :DIGEST].tobytes()
            for place, start in enumerate(_steps(len(rows))):
                self._rows.setdefault(contents[start : start + DIGEST], (rows, file, place))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, content: bytes) -> bool:
        return content in self._rows

    def load(self, contents: Sequence[bytes]) -> Tensor:
        """The tensors ``[n, C, H, W]`` uint8 of pictures that are there, by the hashes of their bytes.

        Raises:
            UserError: a row does not match its checksum.
        """
        images = np.empty((len(contents), self.row_bytes - _HEAD), np.uint8)
        for image, content in zip(images, contents, strict=True):
            rows, file, place = self._rows[content]
            image[:] = rows[place, _HEAD:]
            if content not in self._verified:
                checksum = rows[place, DIGEST:_HEAD].tobytes()
                require(
                    checksum == _checksum(content, image),
                    f"{file}: damaged (checksum mismatch); remove it to decode its images again",
                )
                self._verified.add(content)
        return torch.from_numpy(images).view(len(contents), *self.treatment.shape)

    @contextmanager
    def adding(self) -> Iterator[Adding]:
        """Hand out what takes tensors; when the block ends, however it ends, they are on the disk.

        One process adds at a time; others wait, and then find what it added.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self.folder, lambda: print(f"{self.folder}: another process decodes; waiting", flush=True)):
            self.refresh()
            adding = Adding(self)
            try:
                yield adding
            finally:
                adding.write()

    def room_for(self, pictures: int) -> bool:
        """Whether so many more leave at least as much of the disk free as they take."""
        root = next(each for each in (self.folder, *self.folder.parents) if each.is_dir())
        return pictures * self.row_bytes <= MOST_OF_DISK * shutil.disk_usage(root).free


class Adding:
    """Gathers rows of a store and writes a file of them whenever they are many or old; see :meth:`DecodedStore.adding`.

    Args:
        store: what they are added to.
    """

    def __init__(self, store: DecodedStore) -> None:
        self._store, self._since = store, time.monotonic()
        self._rows: dict[bytes, tuple[bytes, np.ndarray]] = {}  # by content, with the checksum

    def add(self, content: bytes, image: Tensor) -> bool:
        """Take the tensor of a picture, given the hash of its bytes; return whether all so far is on the disk."""
        if content not in self._store:
            pixels = image.numpy().reshape(-1)
            self._rows[content] = _checksum(content, pixels), pixels
        full = len(self._rows) * self._store.row_bytes >= LARGEST_FILE
        if full or time.monotonic() - self._since >= WRITE_EVERY:
            self.write()
            return True
        return False

    def write(self) -> None:
        """Write what was gathered."""
        self._since = time.monotonic()
        if not self._rows:
            return
        name = hashlib.blake2b(b"".join(self._rows), digest_size=8).hexdigest()
        with atomic_path(self._store.folder / f"{name}.npy") as partial_file, partial_file.open("wb") as stream:
            shape = (len(self._rows), self._store.row_bytes)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for content, (checksum, pixels) in self._rows.items():
                stream.write(content + checksum)
                stream.write(pixels.data)
        self._rows = {}
        self._store.refresh()


def _steps(count: int) -> range:
    return range(0, count * DIGEST, DIGEST)


def _checksum(content: bytes, pixels: np.ndarray) -> bytes:
    digest = hashlib.blake2b(content, digest_size=DIGEST)
    digest.update(pixels.data)
    return digest.digest()


class DecodedPictures:
    """The images of a split: from the store, decoded and added to it where they are not there yet.

    Args:
        pictures: all of the split.
        contents: the hash of the bytes of each.
        store: where they are kept.
    """

    def __init__(self, pictures: Sequence[Picture], contents: Sequence[bytes], store: DecodedStore) -> None:
        self.pictures, self.contents, self.store = pictures, contents, store
        self._asked = 0  # pictures that were not there

    def __call__(self, positions: Tensor) -> Tensor:
        """Images ``[n, C, H, W]`` uint8 of positions ``[n]``.

        Raises:
            UserError: a file changed since it was checked, or cannot be decoded.
        """
        wanted = [self.contents[position] for position in positions.tolist()]
        missing = [position for position in positions.tolist() if self.contents[position] not in self.store]
        if missing:
            self._asked += len(missing)
            if self._asked > FEW:
                missing = [place for place, content in enumerate(self.contents) if content not in self.store]
            if not self.store.room_for(len(missing)):
                return load_pictures(self.pictures, self.store.treatment, positions)
            self._decode(missing)
        return self.store.load(wanted)

    def _decode(self, positions: Sequence[int]) -> None:
        pictures = [self.pictures[position] for position in positions]
        with announced(pictures, self.store) as advance, self.store.adding() as adding:
            decoded = on_threads(partial(decode, self.store.treatment), pictures)
            for position, picture, (content, image) in zip(positions, pictures, decoded, strict=True):
                require(
                    content == self.contents[position],
                    f"dataset.folder: {picture.place} has changed since it was checked; give the command again",
                )
                adding.add(content, image)
                advance()


@contextmanager
def announced(pictures: Sequence[Picture], store: DecodedStore | None, most: int = ANNOUNCED) -> Iterator[Advance]:
    """Say before long reading what it comes to, and how far it is meanwhile; yields what to call once a picture.

    Args:
        pictures: those that will be read.
        store: where what is decoded is kept; ``None`` if it is looked at only.
        most: pictures up to which there is nothing to say, if their files are small too.
    """
    size = sum(picture.num_bytes for picture in pictures)
    long = len(pictures) >= most or size >= ANNOUNCED_BYTES
    title = f"check {len(pictures):,} image files"
    if store is not None:
        title = f"decode {len(pictures):,} images"
        if long:
            channels, side, _ = store.treatment.shape
            print(
                f"{title}, {data_size(size)}, once: to {side}x{side} pixels of {channels} bytes, "
                f"{data_size(len(pictures) * store.row_bytes)} in {store.folder}",
                flush=True,
            )
    with progress_bar(title, len(pictures), enabled=long) as advance:
        yield advance
