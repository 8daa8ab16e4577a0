"""Metadata in the Croissant format 1.0 (MLCommons, http://mlcommons.org/croissant/1.0): JSON-LD over schema.org.

It says which files there are, with their SHA-256, and how records of images and labels are got from them. What the
format has no way to say, arrays in an ``.npz``, is listed as a file alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manifoldgd.export.card import Facts
from manifoldgd.files import atomic_write_json
from manifoldgd.store.sets import class_folder

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
# The vocabulary of the format, whole: mlcroissant warns of a file whose context lacks any of it.
TERMS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in TERMS},
}
ENCODING = {
    ".parquet": "application/x-parquet",
    ".tar": "application/x-tar",
    ".zip": "application/zip",
    ".npz": "application/octet-stream",
}
# Licences of data by the Hub's words, as SPDX (https://spdx.org/licenses) calls them.
SPDX = {
    word.lower(): word
    for word in (
        *(
            "Apache-2.0",
            "MIT",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "GPL-2.0",
            "GPL-3.0",
            "LGPL-3.0",
            "AGPL-3.0",
            "Unlicense",
        ),
        *("CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-2.0"),
        *("CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0"),
        *("ODbL-1.0", "PDDL-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0"),
    )
} | {"odc-by": "ODC-By-1.0", "odbl": "ODbL-1.0", "pddl": "PDDL-1.0"}
LABEL = {"references": {"field": {"@id": "classes/label"}}}


def write_metadata(file: Path, facts: Facts, data: Sequence[Path]) -> None:
    """Write ``croissant.json`` beside the data of an export.

    Args:
        file: where to.
        facts: of the set.
        data: its files, in the folder of ``file`` or below.
    """
    atomic_write_json(file, metadata(facts, file.parent, data))


def metadata(facts: Facts, folder: Path, data: Sequence[Path]) -> dict[str, Any]:
    """The content of ``croissant.json``."""
    files = [_file(path, folder) for path in data]
    sets, records = _layout(facts, [file["@id"] for file in files])
    home = f"https://huggingface.co/datasets/{facts.home}" if facts.home else "https://arxiv.org/abs/2602.23295"
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": facts.name,
        "description": facts.origin,
        "license": license_url(facts.license),
        "url": home,
        "creator": {"@type": "sc:Organization", "name": facts.home.partition("/")[0] if facts.home else "not stated"},
        "datePublished": datetime.now(UTC).date().isoformat(),
        "version": "1.0.0",
        "keywords": ["dataset distillation", "image classification", *([] if facts.real else ["synthetic"])],
        "citeAs": "ManifoldGD: Training-Free Hierarchical Manifold Guidance for Diffusion-Based Dataset Distillation, "
        "arXiv 2602.23295",
        "distribution": [*files, *sets],
        "recordSet": [_classes(facts), *records],
    }


def _file(path: Path, folder: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": path.relative_to(folder).as_posix(),
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": ENCODING[path.suffix],
        "sha256": digest,
    }


def _classes(facts: Facts) -> dict[str, Any]:
    """The classes as records: label, name, and the name of the class folder where there are such."""
    rows = [
        {"classes/label": label, "classes/name": name, "classes/folder": class_folder(name)}
        for label, name in enumerate(facts.class_names)
    ]
    fields = [_field("classes/label", "sc:Integer"), _field("classes/name", "sc:Text")]
    fields.append(_field("classes/folder", "sc:Text"))
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/label"},
        "field": fields,
        "data": rows,
    }


def license_url(word: str) -> str:
    """The page of a licence at SPDX, as the format wants it; a word that SPDX does not know stays as it is.

    >>> license_url("cc-by-4.0"), license_url("unknown")
    ('https://spdx.org/licenses/CC-BY-4.0.html', 'unknown')
    """
    name = SPDX.get(word.lower())
    return word if name is None else f"https://spdx.org/licenses/{name}.html"


def _layout(facts: Facts, files: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sets of files inside archives, and the records of images."""
    if facts.form in ("hf", "parquet"):
        table = {"fileObject": {"@id": files[0]}}
        image = {**table, "extract": {"column": "image"}, "transform": {"jsonPath": "bytes"}}
        label = {**table, "extract": {"column": "label"}}
        return [], [
            _records(
                _field("images/image", "sc:ImageObject", image), _field("images/label", "sc:Integer", label, **LABEL)
            )
        ]
    if facts.form == "zip":
        pictures = {"fileSet": {"@id": "pictures"}}
        image = {**pictures, "extract": {"fileProperty": "content"}}
        label = {**pictures, "extract": {"fileProperty": "fullpath"}, "transform": {"regex": "([^/]+)/[^/]+$"}}
        of_class = {"references": {"field": {"@id": "classes/folder"}}}
        fields = (
            _field("images/image", "sc:ImageObject", image),
            _field("images/folder", "sc:Text", label, **of_class),
        )
        return [_inside("pictures", files, "*/*.png", "image/png")], [_records(*fields)]
    if facts.form == "webdataset":
        image = {"fileSet": {"@id": "pictures"}, "extract": {"fileProperty": "content"}}
        key = {"extract": {"fileProperty": "filename"}, "transform": {"regex": r"(\d+_\d+)\."}}
        label = {"fileSet": {"@id": "label_files"}, "extract": {"fileProperty": "content"}}
        same = {"references": {"field": {"@id": "labels/key"}}}
        labels = {
            "@type": "cr:RecordSet",
            "@id": "labels",
            "name": "labels",
            "field": [
                _field("labels/key", "sc:Text", {"fileSet": {"@id": "label_files"}, **key}),
                _field("labels/label", "sc:Integer", label, **LABEL),
            ],
        }
        images = _records(
            _field("images/key", "sc:Text", {"fileSet": {"@id": "pictures"}, **key}, **same),
            _field("images/image", "sc:ImageObject", image),
        )
        inside = [
            _inside("pictures", files, "*.png", "image/png"),
            _inside("label_files", files, "*.cls", "text/plain"),
        ]
        return inside, [images, labels]
    return [], []


def _inside(name: str, archives: Sequence[str], pattern: str, encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "containedIn": [{"@id": archive} for archive in archives],
        "encodingFormat": encoding,
        "includes": pattern,
    }


def _records(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": list(fields)}


def _field(name: str, kind: str, source: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    held = {"@type": "cr:Field", "@id": name, "name": name, "dataType": kind}
    return {**held, **({} if source is None else {"source": source}), **more}
