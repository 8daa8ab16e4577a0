"""Image datasets of Hugging Face: tables of pictures and labels in Parquet files, or as ``datasets`` saves them.

A table has a column of pictures, each its bytes and the path it had, and a column of labels, whose names stand in the
table's metadata. Parquet is what the Hub holds, ``data/train-00000-of-00002.parquet``; ``save_to_disk`` writes Arrow
files, ``train/data-00000-of-00002.arrow``.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from manifoldgd.data.image_dataset import Found, ImageOptions, check_options, image_dataset, some
from manifoldgd.data.image_files import ImageFile, Part
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import UserError, argument, require
from manifoldgd.hub import fetched

HELD_GROUPS = 4  # groups of rows in memory at once: pictures are asked for in order, but for the first few
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def parquet(
    *,
    folder: str,
    train: str,
    test: str,
    image: str,
    label: str,
    revision: str | None,
    download: bool,
    **options: Unpack[ImageOptions],
) -> ImageDataset:
    """A dataset of images and labels in Parquet or Arrow files.

    Args:
        folder: with the files, at whatever depth, or the id of a dataset on the Hub, ``owner/name``.
        train: the training split: files called ``<train>-*`` or ``<train>.*``, or in a folder of that name.
        test: the test split, the same way; not used with ``test_share``.
        image: the column of pictures.
        label: the column of labels.
        revision: of a dataset on the Hub; ``None`` for its newest.
        download: whether to fetch what of it is not in the Hub's cache.
        options: see :class:`manifoldgd.data.image_dataset.ImageOptions`.

    Raises:
        UserError: there are no such files or columns, a picture's bytes are not in the table, splits have different
            labels, pyarrow is missing; and see :func:`manifoldgd.data.image_dataset.image_dataset`.
    """
    check_options(**options)
    root, name = _located(folder, revision, download)
    parts = (("train", train),) if options["test_share"] is not None else (("train", train), ("test", test))
    tables = [[_opened(file, image, label) for file in _files(root, key, split)] for key, split in parts]
    names, stated = _class_names([table for split in tables for table in split], label)
    splits = [_found(split, names, stated) for split in tables]
    options["name"] = name if options["name"] is None else options["name"]
    return image_dataset("parquet", root, names, splits[0], splits[1] if len(splits) > 1 else None, **options)


COLUMNS = {"image": ("image", "img", "images"), "label": ("label", "labels", "fine_label", "class")}


def labelled_pictures(files: Sequence[Path]) -> tuple[list[Part], list[int], list[str], bool]:
    """All pictures of some tables, whatever the usual names of their columns are.

    Returns:
        The pictures, the label of each, the names of the classes by label, and whether these are names: labels may be
        bare numbers.

    Raises:
        UserError: a file is no such table, or pyarrow is missing.
    """
    pyarrow_parquet()
    columns = [_columns(file) for file in files]
    tables = [_opened(file, *found) for file, found in zip(files, columns, strict=True)]
    names, stated = _class_names(tables, columns[0][1])
    found = _found(tables, names, stated)
    texts = any(isinstance(each, str) for table in tables for each in table.labels)
    return list(found.images), found.labels.tolist(), names, stated or texts


def _columns(file: Path) -> tuple[str, str]:
    """The columns of pictures and labels of a table; where none is called so, what is missing is said of the first."""
    pq = pyarrow_parquet()
    try:
        there = pq.read_schema(file).names
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({str(error).splitlines()[0]}); restore it", key="folder") from error
    image, label = (next((name for name in names if name in there), names[0]) for names in COLUMNS.values())
    return image, label


def pyarrow_parquet() -> Any:
    """The library's module for Parquet.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "dataset: Parquet and Arrow files are read by pyarrow, which is missing; pip install 'manifoldgd[parquet]'"
        ) from error
    return pyarrow.parquet


def _located(folder: str, revision: str | None, download: bool) -> tuple[Path, str]:
    """The folder with the files, and what the dataset is called."""
    root = Path(folder).expanduser()
    if root.is_dir():
        return root, root.resolve().name
    require(
        HUB_ID.fullmatch(folder) is not None,
        f"expected a folder of Parquet or Arrow files, or a dataset on the Hub as owner/name, found no "
        f"folder {root}; set another one",
        key="folder",
    )
    from huggingface_hub import snapshot_download

    tables = ["*.parquet", "*.arrow"]
    asked: dict[str, Any] = {"repo_type": "dataset", "revision": revision, "allow_patterns": tables}
    try:
        try:
            place = Path(snapshot_download(folder, local_files_only=True, **asked))
        except (OSError, ValueError):
            if not download:
                raise
            place = fetched(folder, **asked)
    except Exception as error:  # of the network, of the Hub, of the disk
        again = (
            ""
            if download
            else f"; set {argument('download')}=true, or fetch it by `hf download --repo-type dataset {folder}`"
        )
        raise UserError(
            f"{folder} is no folder here and not in the Hub's cache, or cannot be fetched "
            f"({str(error).splitlines()[0]}){again or '; check the name and the network'}",
            key="folder",
        ) from error
    return place, folder.partition("/")[2]


def _files(root: Path, key: str, split: str) -> list[Path]:
    """The files of one split, by name."""
    tables = sorted(each for pattern in ("*.parquet", "*.arrow") for each in root.rglob(pattern))
    # `datasets` keeps what it computed beside a saved dataset.
    tables = [each for each in tables if not each.name.startswith("cache-")]
    mine = [each for each in tables if split and split_of(each, root) == split]
    require(
        bool(mine),
        f"expected Parquet or Arrow files {split}-* in {root}, found splits "
        f"{some(sorted({split_of(each, root) for each in tables}))}; set it to one of them, or "
        f"{argument('test_share')}=0.2 where there is one only",
        key=key,
    )
    return mine


def split_of(file: Path, root: Path) -> str:
    """What a file's split is called: by its name as on the Hub, by its folder as saved."""
    name = re.sub(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$", "", file.stem)
    if name != "data" and not name.isdigit():
        return name.partition("-")[0]
    return file.parent.name if file.parent != root else name


class _Groups:
    """The pictures of a file, a group of rows at a time, the last few kept."""

    def __init__(self, read: Any, image: str) -> None:
        self._read, self._image = read, image
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def bytes_at(self, group: int, row: int) -> bytes:
        with self._one_at_a_time:
            if group not in self._held:
                self._held[group] = self._read(group).column(self._image).combine_chunks()
                while len(self._held) > HELD_GROUPS:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            held = self._held[group]
        value = held[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise ValueError("the table holds its path and not its bytes; write it anew with them")
        return data


@dataclass(frozen=True)
class _Table:
    """One file, its pictures unread."""

    file: ImageFile
    features: Mapping[str, Any]  # what `datasets` says about the columns; empty if another program wrote the file
    labels: Sequence[Any]
    names: Sequence[str]  # the paths that the pictures had, where they are known
    places: Sequence[tuple[int, int]]  # group and row of each picture
    groups: _Groups


def _opened(path: Path, image: str, label: str) -> _Table:
    pq = pyarrow_parquet()
    import pyarrow as pa

    try:
        if path.suffix == ".parquet":
            held = pq.ParquetFile(path, memory_map=True)
            schema, count = held.schema_arrow, held.num_row_groups

            def read(group: int, columns: list[str]) -> Any:
                # A reader of its own each time: one is not for several threads.
                return pq.ParquetFile(path, memory_map=True).read_row_group(group, columns=columns)

        else:
            batches = _arrow_batches(pa, path)
            schema, count = batches.schema, batches.num_record_batches

            def read(group: int, columns: list[str]) -> Any:
                return pa.Table.from_batches([batches.get_batch(group)]).select(columns)

        missing = [name for name in (image, label) if name not in schema.names]
        key = "image" if image in missing else "label"
        require(
            not missing,
            f"expected a column {some(missing[:1])} in {path}, found {some(schema.names, 12)}; set "
            f"it to the column with the {key}s",
            key=key,
        )
        kind = schema.field(image).type
        in_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        require(
            in_bytes or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0),
            f"expected column {image!r} of {path} to hold bytes of encoded images, got {kind}; set it to another one",
            key="image",
        )
        labels: list[Any] = []
        names: list[str | None] = []
        places: list[tuple[int, int]] = []
        has_path = not in_bytes and path.suffix == ".parquet" and kind.get_field_index("path") >= 0
        for group in range(count):
            table = read(group, [label, f"{image}.path"] if has_path else [label])
            labels += table.column(label).to_pylist()
            rows = range(len(table))
            paths = table.column(image).to_pylist() if has_path else [None] * len(table)
            names += [each and each.get("path") for each in paths]
            places += [(group, row) for row in rows]
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except UserError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); restore it", key="folder") from error
    called = [Path(name).name if name else str(number) for number, name in enumerate(names)]
    groups = _Groups(lambda group: read(group, [image]), image)
    return _Table(ImageFile.at(path), features, labels, called, places, groups)


def _arrow_batches(pa: Any, path: Path) -> Any:
    """The batches of an Arrow file, which ``datasets`` writes as a stream."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        return _Stream(pa.ipc.open_stream(pa.memory_map(str(path))))


class _Stream:
    """A stream of batches as if it were a file of them: they stay on the disk, as the file is mapped."""

    def __init__(self, reader: Any) -> None:
        self.schema, self._batches = reader.schema, list(reader)
        self.num_record_batches = len(self._batches)

    def get_batch(self, place: int) -> Any:
        return self._batches[place]


def _class_names(tables: Sequence[_Table], label: str) -> tuple[list[str], bool]:
    """Names of the classes by label, and whether the table states them; else they are the labels in their order."""
    stated = {tuple(table.features.get(label, {}).get("names") or ()) for table in tables}
    require(
        len(stated) == 1,
        f"the files say different names for the labels of {label!r}: {some(sorted(map(str, stated)), 2)}"
        "; write them from one dataset",
        key="label",
    )
    labels = {each for table in tables for each in table.labels}
    wrong = [each for each in labels if not isinstance(each, int | str) or isinstance(each, bool) or each == ""]
    found = some(sorted(map(repr, wrong or labels)))
    require(
        not wrong and len({type(each) for each in labels}) == 1,
        f"expected whole numbers or texts in column {label!r}, got {found}; remove rows without a label "
        "(-1 or null on the Hub's test splits), or set it to another column",
        key="label",
    )
    (names,) = stated
    if not names:
        return [str(each) for each in sorted(labels)], False
    outside = [each for each in labels if not isinstance(each, int) or not 0 <= each < len(names)]
    require(
        not outside,
        f"expected labels 0 ... {len(names) - 1} in column {label!r}, got "
        f"{some(sorted(map(str, outside)))}; a split without labels cannot judge: set {argument('test')} to another, "
        "such as validation",
        key="label",
    )
    return list(names), True


def _found(tables: Sequence[_Table], names: Sequence[str], stated: bool) -> Found:
    """The pictures of a split; ``stated`` says that labels are places in ``names``, and not names."""
    place_of = {name: place for place, name in enumerate(names)}
    labels = [each if stated else place_of[str(each)] for table in tables for each in table.labels]
    return Found([part for table in tables for part in _parts(table)], np.array(labels, np.int64))


def _parts(table: _Table) -> Iterator[Part]:
    size = table.file.num_bytes // max(1, len(table.labels))
    for row, (name, (group, place)) in enumerate(zip(table.names, table.places, strict=True)):
        yield Part(table.file, f"row {row}", name, size, partial(table.groups.bytes_at, group, place))
