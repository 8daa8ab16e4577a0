"""Pictures and labels as the tools of the field read them: one function a format, each returns the files it wrote.

All hold the same: PNG, or arrays, without loss; the label of each image; and the names of the classes in the order of
their labels, wherever the format has a place for them.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.data.parquet import pyarrow_parquet
from manifoldgd.store.sets import class_folder, image_file, to_picture

SHARD = 10_000  # images of a tar
ROW_GROUP = 1_000  # images of a part of a table that is read at once


def write_hub(made: DistilledSet, folder: Path) -> list[Path]:
    """The repository of a dataset on the Hugging Face Hub: ``data/train-00000-of-00001.parquet`` and a card."""
    return [_write_table(made, folder / "data" / "train-00000-of-00001.parquet")]


def write_parquet(made: DistilledSet, folder: Path) -> list[Path]:
    """``train.parquet``: columns ``image`` (bytes, path) and ``label``, which ``datasets`` takes for a ClassLabel."""
    return [_write_table(made, folder / "train.parquet")]


def _write_table(made: DistilledSet, file: Path) -> Path:
    pq = pyarrow_parquet()
    import pyarrow as pa

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    label = {"names": list(made.class_names), "_type": "ClassLabel"}
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    schema = pa.schema(
        [("image", picture), ("label", pa.int64())], metadata={"huggingface": json.dumps(about, ensure_ascii=False)}
    )
    rows = [
        {"bytes": _png(image), "path": f"{label:05d}_{rank:05d}.png"}
        for image, label, rank in zip(made.images, made.labels.tolist(), made.ranks.tolist(), strict=True)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": pa.array(rows, picture), "label": made.labels.tolist()}, schema=schema)
    pq.write_table(table, file, row_group_size=ROW_GROUP)
    return file


def write_webdataset(made: DistilledSet, folder: Path) -> list[Path]:
    """``train-000000.tar``, ...: for each image ``<label>_<rank>.png`` and ``.cls``, its label as a number."""
    files = []
    labels, ranks = made.labels.tolist(), made.ranks.tolist()
    for shard, start in enumerate(range(0, len(labels), SHARD)):
        files.append(folder / f"train-{shard:06d}.tar")
        with tarfile.open(files[-1], "w") as archive:
            for place in range(start, min(start + SHARD, len(labels))):
                key = f"{labels[place]:05d}_{ranks[place]:05d}"
                for end, data in (("png", _png(made.images[place])), ("cls", str(labels[place]).encode())):
                    member = tarfile.TarInfo(f"{key}.{end}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return files


def write_npz(made: DistilledSet, folder: Path) -> list[Path]:
    """``train.npz``: ``images`` ``[n, h, w]`` or ``[n, h, w, 3]`` uint8, ``labels`` ``[n]`` int64, ``class_names``."""
    images = made.images.permute(0, 2, 3, 1).numpy()
    images = images[..., 0] if images.shape[-1] == 1 else images
    file = folder / "train.npz"
    np.savez_compressed(file, images=images, labels=made.labels.numpy(), class_names=np.array(made.class_names))
    return [file]


def write_zip(made: DistilledSet, folder: Path) -> list[Path]:
    """``train.zip``: ``<class>/<rank>.png``, and ``classes.json``, the name of each class folder in order of label."""
    file = folder / "train.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        names = {class_folder(name): name for name in made.class_names}
        archive.writestr(zipfile.ZipInfo("classes.json"), json.dumps(names, indent=2, ensure_ascii=False))
        for image, label, rank in zip(made.images, made.labels.tolist(), made.ranks.tolist(), strict=True):
            archive.writestr(zipfile.ZipInfo(image_file(made.class_names[label], rank)), _png(image))
    return [file]


FORMATS: dict[str, Callable[[DistilledSet, Path], list[Path]]] = {
    "hf": write_hub,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
    "npz": write_npz,
    "zip": write_zip,
}


def _png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    to_picture(image).save(stream, format="PNG")
    return stream.getvalue()
