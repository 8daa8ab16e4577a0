"""A distilled set from wherever it comes: folders of this package, its exports, and what others publish.

Others publish pictures in class folders, archives and tables, or the tensors that they trained on: a pair of images and
labels, alone (IDC), one for each run under ``data`` (DC, DSA, DM), or in two files beside each other (MTT and what
builds on it). Nothing about units, sizes and classes is guessed in silence: what a source does not say is asked for in
a :class:`Reading`, and what was done about it is one line.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from manifoldgd.archives import load_archive
from manifoldgd.artifacts import DistilledSet
from manifoldgd.data.image_dataset import some
from manifoldgd.data.image_files import EXTENSIONS, class_files, opened, visible_entries
from manifoldgd.data.parquet import labelled_pictures, split_of
from manifoldgd.data.transforms import eight_bit, has_stated_range, upright
from manifoldgd.data.webdataset import samples_in
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import UserError, require
from manifoldgd.store.keys import read_json
from manifoldgd.store.set_reading import AS_IT_IS, Found, Reading, eight_bit_pixels, fitted, hard_labels, of_classes
from manifoldgd.store.sets import FORMAT, load_set

BUNDLED = "bundled:"
PROVENANCE = "provenance.json"  # beside exported data: what the manifest said of the set as a whole
ELSEWHERE = "elsewhere"  # source of a set that no configuration of this package made
DATA_FILES = (".npz", ".parquet", ".tar", ".zip", ".pt", ".pth")
# What images and labels of a set are called in archives of arrays and in dictionaries of tensors.
CALLED = (
    *(("images", "labels"), ("x", "y"), ("X", "y"), ("x_train", "y_train"), ("train_images", "train_labels")),
    *(("image", "label"), ("data", "targets"), ("data", "labels"), ("arr_0", "arr_1")),
    *(("image_syn", "label_syn"), ("images_syn", "labels_syn"), ("syn_images", "syn_labels")),
)
NAMED = ("class_names", "classes", "label_names")


def read_set(source: str | Path, reading: Reading = AS_IT_IS, dataset: ImageDataset | None = None) -> DistilledSet:
    """A set from a folder or file, or one that comes with the package.

    Args:
        source: a set's folder or the result folder around it; an export of one; a folder with a folder of pictures for
            each class, or that in a ``.zip``; ``.npz`` with images and labels; ``.parquet`` with the pictures' bytes
            and labels; a ``.tar`` of WebDataset; ``.pt`` with tensors, which are loaded as weights only; or
            ``bundled:NAME``.
        reading: what the source does not say.
        dataset: of which classes and image size the set is to be; ``None`` for its own. Sets of this package are left
            as they are.

    Returns:
        The set, class by class. ``folder`` is ``None`` unless the set lies in a folder of this package, and
        ``manifest["remarks"]`` says what was done on the way, where it was read from elsewhere.

    Raises:
        UserError: there is no such source, it is damaged, holds no set, or does not say what the reading has to.
    """
    place = bundled_set(str(source)) if str(source).startswith(BUNDLED) else Path(source).expanduser()
    if _is_ours(place):
        given = ", ".join(reading.given)
        require(
            not given, f"{place} is a set of this package, which says all of it itself; leave it out", given or None
        )
        return load_set(place)
    require(
        place.exists(),
        f"set: found no folder or file {place}; make a set with `manifoldgd distill`, or name {_expected()}",
    )
    if place.is_dir():
        file = _data_in(place)
        found = _class_folders(place) if file is None else _file(file, reading)
        home = place
    else:
        found, home = _file(place, reading), place.parent
    require(len(found.images) > 0, f"set: {place} holds no images; expected {_expected()}")
    provenance = _provenance(home) if place.is_dir() or place.stem == "train" else None
    if provenance is not None and not found.named and len(provenance["class_names"]) >= len(found.names):
        found = replace(found, names=tuple(provenance["class_names"]), named=True)
    if dataset is not None:
        found = fitted(found, reading, dataset, place)
        found = of_classes(found, reading, dataset, place)
    unused = [key for key in reading.given if key not in found.used]
    require(
        not unused or (dataset is None and set(unused) <= {"classes", "fit"}),
        f"{place} says it itself or has no use for it; leave it out",
        unused[0] if unused else None,
    )
    return _set_of(found, place, reading, provenance)


def bundled_set(source: str) -> Path:
    """The folder of a set that comes with the package, by ``bundled:NAME``.

    Raises:
        UserError: there is none of that name; the message lists all.
    """
    name = source.removeprefix(BUNDLED)
    root = Path(str(resources.files("manifoldgd"))) / "sets"
    names = sorted(each.name for each in root.iterdir() if each.is_dir())
    require(name in names, f"set: found no bundled set {name!r}; there are {', '.join(names)}")
    return root / name


def _is_ours(place: Path) -> bool:
    """Whether a folder holds a set as this package writes it, or looks as if it should."""
    inside = ("manifest.json", "progress.jsonl", "result.json", "set/manifest.json", "set/progress.jsonl")
    return any((place / name).is_file() for name in inside)


def _expected() -> str:
    return (
        "the folder of a set, a folder of pictures in class folders, a file that ends in "
        f"{', '.join(DATA_FILES)}, or bundled:NAME"
    )


def _data_in(folder: Path) -> Path | None:
    """The one file of a folder that holds a set, or the folder where several files do; ``None`` without."""
    tables = sorted({each.parent for each in folder.rglob("*.parquet")})
    if tables:
        require(
            len(tables) == 1, f"set: {folder} holds tables in {len(tables)} folders; name one of them, as {tables[0]}"
        )
        return tables[0]
    entries = [Path(each.path) for each in visible_entries(folder) if each.is_file()]
    held = [each for each in entries if each.suffix.lower() in DATA_FILES]
    if len(held) > 1 and all(each.suffix.lower() == ".tar" for each in held):
        return folder
    images = [each for each in held if _labels_beside(each) is not None]
    held = images if len(images) == 1 else held
    require(
        len(held) < 2, f"set: {folder} holds {len(held)} files of data; name one of them, as {held[0] if held else ''}"
    )
    return held[0] if held else None


def _file(place: Path, reading: Reading) -> Found:
    """What a file of data, or a folder of tables or shards, holds."""
    suffix = place.suffix.lower()
    if place.is_dir():
        suffix = ".parquet" if any(place.glob("*.parquet")) else ".tar"
    readers = {".parquet": _table, ".tar": _shards, ".zip": _archive}
    try:
        if suffix == ".npz":
            return _arrays(place, reading)
        if suffix in (".pt", ".pth"):
            return _tensors(place, reading)
        if suffix in readers:
            return readers[suffix](place)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise UserError(f"set: {place} cannot be read ({_first_line(error)}); restore it") from error
    raise UserError(f"set: {place} is of a kind that is not read here; expected {_expected()}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# Pictures


def _class_folders(place: Path) -> Found:
    folders = [Path(each.path) for each in visible_entries(place) if each.is_dir()]
    require(bool(folders), f"set: {place} holds no class folders; expected {_expected()}")
    contents = [class_files(folder) for folder in folders]
    faults = [fault for _, wrong in contents for fault in wrong]
    require(not faults, f"set: {len(faults):,} entries are no pictures, as {some(faults[:1])}; remove them")
    empty = [folder.name for folder, (files, _) in zip(folders, contents, strict=True) if not files]
    require(not empty, f"set: class folders {some(empty)} of {place} hold no picture; remove them, or add some")
    pictures = [(file.read, file.place) for files, _ in contents for file in files]
    labels = [label for label, (files, _) in enumerate(contents) for _ in files]
    return _decoded(pictures, labels, [folder.name for folder in folders])


def _archive(place: Path) -> Found:
    """A ``.zip`` of class folders; an order of its own stands in ``classes.json``."""
    with zipfile.ZipFile(place) as archive:
        members = [each for each in archive.infolist() if not each.is_dir()]
        paths = [(PurePosixPath(each.filename), each) for each in members]
        pictures = [(path, each) for path, each in paths if path.suffix.lower() in EXTENSIONS and len(path.parts) > 1]
        require(bool(pictures), f"set: {place} holds no pictures in class folders; expected <class>/<name>.png")
        folders = sorted({path.parent.name for path, _ in pictures})
        names = folders
        if "classes.json" in archive.namelist():
            stated = json.loads(archive.read("classes.json"))
            folders, names = list(stated), list(stated.values())
        label_of = {name: label for label, name in enumerate(folders)}
        pictures.sort(key=lambda pair: (label_of[pair[0].parent.name], str(pair[0])))
        labels = [label_of[path.parent.name] for path, _ in pictures]
        read = [((lambda each=each: archive.read(each)), f"{place} ({each.filename})") for _, each in pictures]
        return _decoded(read, labels, names)


def _table(place: Path) -> Found:
    files = _of_one_split(place, "*.parquet")
    with _about_the_set():
        pictures, labels, names, named = labelled_pictures(files)
    return _decoded([(each.read, each.place) for each in pictures], labels, names, named=named)


def _of_one_split(place: Path, pattern: str) -> list[Path]:
    """The files of a set in their order: a file alone, or all in a folder, which may not hold a test split too."""
    if not place.is_dir():
        return [place]
    files = sorted(place.glob(pattern))
    splits = sorted({split_of(file, place) for file in files})
    require(len(splits) < 2, f"set: {place} holds the splits {some(splits)}; name a folder, or a file, of one of them")
    return files


def _shards(place: Path) -> Found:
    with _about_the_set():
        samples = [sample for file in _of_one_split(place, "*.tar") for sample in samples_in(file)]
    present = sorted({label for _, label in samples}, key=lambda label: (isinstance(label, str), label))
    named = all(isinstance(label, str) for label in present)
    label_of = {label: place for place, label in enumerate(present)}
    pictures = [(each.read, each.place) for each, _ in samples]
    return _decoded(pictures, [label_of[label] for _, label in samples], list(map(str, present)), named=named)


@contextmanager
def _about_the_set() -> Iterator[None]:
    """Errors of the datasets' readers are about the set here."""
    try:
        yield
    except UserError as error:
        raise UserError(f"set: {error.text.removeprefix('dataset: ')}") from error


def _decoded(
    pictures: Sequence[tuple[Callable[[], bytes], str]],
    labels: Sequence[int],
    names: Sequence[str],
    *,
    named: bool = True,
) -> Found:
    """Pictures of 8 or 16 bits, grey where all are."""
    loaded = [_picture(read, place) for read, place in pictures]
    grey = all(_is_grey(picture) for picture in loaded)
    images = [_tensor(eight_bit(picture, 1 if grey else 3)) for picture in loaded]
    return Found(images, list(labels), tuple(names), named)


def _picture(read: Callable[[], bytes], place: str) -> Image.Image:
    try:
        with opened(read()) as image:
            require(has_stated_range(image), f"set: {place} has pixels without a stated range; convert it to 8 bits")
            image.load()
            return upright(image)
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise UserError(f"set: {place} is no picture or is damaged ({_first_line(error)}); replace it") from error


def _is_grey(picture: Image.Image) -> bool:
    if picture.mode in ("1", "L", "LA") or picture.mode.startswith("I"):
        return True
    pixels = np.asarray(eight_bit(picture, 3))
    return bool((pixels == pixels[..., :1]).all())


def _tensor(picture: Image.Image) -> Tensor:
    pixels = np.array(picture).reshape(picture.height, picture.width, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


# Arrays and tensors


def _arrays(place: Path, reading: Reading) -> Found:
    with np.load(place, allow_pickle=False) as held:
        pair = next((pair for pair in CALLED if pair[0] in held and pair[1] in held), None)
        if pair is None:
            raise UserError(
                f"set: {place} holds {some(sorted(held), 12)}; expected images and labels under one of the pairs "
                f"{', '.join(map(' and '.join, CALLED))}"
            )
        images, labels = torch.from_numpy(held[pair[0]]), torch.from_numpy(held[pair[1]])
        names = next((held[name].astype(str).tolist() for name in NAMED if name in held), None)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    return _of_tensors(images, labels, names, place, reading)


def _tensors(place: Path, reading: Reading) -> Found:
    """What a ``.pt`` file holds: nothing in it is run."""
    held, used = _loaded(place), frozenset[str]()
    if isinstance(held, dict) and isinstance(held.get("data"), list | tuple):
        held = held["data"]
    if isinstance(held, dict):
        pair = next((pair for pair in CALLED if pair[0] in held and pair[1] in held), None)
        if pair is None:
            raise UserError(f"set: {place} holds {some(sorted(map(str, held)), 12)}; {_tensor_forms()}")
        names = next((list(map(str, held[name])) for name in NAMED if name in held), None)
        held = (held[pair[0]], held[pair[1]])
    elif isinstance(held, Tensor):
        beside, names = _labels_beside(place), None
        if beside is None:
            raise UserError(f"set: {place} holds images only; put its labels beside it, as images_*.pt and labels_*.pt")
        held = (held, _loaded(beside))
    else:
        names = None
    if _is_pair(held):
        images, labels = held[0], held[1]
    else:
        runs = held if isinstance(held, list | tuple) and len(held) > 0 else []
        require(bool(runs) and all(map(_is_pair, runs)), f"set: {place} holds no images and labels; {_tensor_forms()}")
        run = 0 if reading.run is None and len(runs) == 1 else reading.run
        if run is None or run >= len(runs):
            raise UserError(f"{place} holds the sets of {len(runs)} runs; choose one, 0 to {len(runs) - 1}", key="run")
        used |= {"run"}
        images, labels = runs[run][0], runs[run][1]
    found = _of_tensors(images.detach(), labels.detach(), names, place, reading)
    return replace(found, used=found.used | used)


def _tensor_forms() -> str:
    return (
        "expected [images, labels], {'data': [[images, labels], ...]}, a dictionary of images and labels, or images in "
        "a file beside one of labels"
    )


def _loaded(place: Path) -> Any:
    # Accuracies that are saved beside the tensors are NumPy's numbers, which hold no code.
    scalar: Any = np.float64(0).__reduce__()[0]
    types = [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4")]
    known: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [np.dtype, *types]
    known += [scalar, (scalar, "numpy.core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(known):
            return load_archive(place)
    except Exception as error:  # of the archive, of the unpickler, of the system
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"set: {place} cannot be loaded as tensors and numbers alone ({_first_line(error)[:120]}); save images and "
            "labels again with torch.save, or convert it where you trust it"
        ) from error


def _labels_beside(place: Path) -> Path | None:
    """The file of labels that goes with a file of images, by its name."""
    if place.suffix not in (".pt", ".pth") or "image" not in place.stem:
        return None
    beside = place.with_name(place.name.replace("image", "label"))
    return beside if beside.is_file() else None


def _is_pair(held: Any) -> bool:
    return (
        isinstance(held, list | tuple)
        and len(held) >= 2
        and isinstance(held[0], Tensor)
        and isinstance(held[1], Tensor)
        and held[0].ndim == 4
    )


def _of_tensors(images: Tensor, labels: Tensor, names: Sequence[str] | None, place: Path, reading: Reading) -> Found:
    require(
        images.ndim == 4 and images.shape[1] in (1, 3) and len(labels) == len(images) > 0,
        f"set: {place} has images of shape {list(images.shape)} and labels of shape {list(labels.shape)}; expected "
        "[N, 1 or 3, height, width] and a label for each",
    )
    pixels, remarks, used = eight_bit_pixels(images, place, reading)
    numbers, soft_remarks, soft_used = hard_labels(labels, place, reading)
    count = max(int(numbers.max()) + 1, labels.shape[1] if labels.ndim == 2 else 0)
    named = names is not None
    called = tuple(names) if names is not None else tuple(map(str, range(count)))
    require(
        len(called) >= count, f"set: {place} names {len(called)} classes and has labels up to {count - 1}; add names"
    )
    return Found(list(pixels), numbers.tolist(), called, named, remarks + soft_remarks, used | soft_used)


def _set_of(found: Found, place: Path, reading: Reading, provenance: dict[str, Any] | None) -> DistilledSet:
    sizes = sorted({tuple(image.shape[1:]) for image in found.images})
    require(
        len(sizes) == 1,
        f"set: {place} has pictures of {len(sizes)} sizes, {sizes[0]} and {sizes[-1]} among them; give a dataset, to "
        "whose size they come, or make them equal",
    )
    labels = torch.tensor(found.labels, dtype=torch.int64)
    counts = labels.bincount(minlength=len(found.names)).tolist()
    short = [name for name, count in zip(found.names, counts, strict=True) if count != max(counts)]
    require(
        not short,
        f"set: {place} has {max(counts)} images in some classes and {min(counts)} in others ({some(short)}); expected "
        "as many in each, since protocols go by images a class",
    )
    order = labels.argsort(stable=True)
    images, labels = torch.stack(list(found.images))[order].contiguous(), labels[order]
    ipc = counts[0]
    made = DistilledSet(images, labels, torch.arange(len(labels)) % ipc, found.names)
    name = place.name if place.is_dir() or place.suffix == "" else place.stem
    if provenance is None:
        config: dict[str, Any] = {"source": ELSEWHERE, "ipc": ipc, "fingerprint": made.fingerprint, **reading.given}
        provenance = {"method": name, "config": config, "inputs": {}, "seed": None}
    elif not reading.given:
        require(
            provenance["fingerprint"] == made.fingerprint or list(found.names) != provenance["class_names"],
            f"set: the images of {place} are not those that {PROVENANCE} was written for; restore it, or remove "
            f"{PROVENANCE} to take it for another set",
        )
    manifest = {
        **provenance,
        "format": FORMAT,
        "ipc": ipc,
        "class_names": list(found.names),
        "image_shape": list(images.shape[1:]),
        "images": [],
        "name": name,
        "remarks": [f"{len(images)} images, {ipc} a class", *found.remarks],
    }
    return replace(made, manifest=manifest)


def _provenance(folder: Path) -> dict[str, Any] | None:
    """What an export says of its set; ``None`` for data from elsewhere."""
    file = folder / PROVENANCE
    return read_json(file, remedy=f"remove {file} to take the data for another set") if file.is_file() else None


def told(distilled: DistilledSet) -> Iterator[str]:
    """What a user has to know of how a set was read: a line, or none for sets of this package."""
    remarks = distilled.manifest.get("remarks")
    if remarks:
        yield f"set: {distilled.manifest['name']}: {'; '.join(remarks)}"
