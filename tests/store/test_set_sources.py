"""Sets from wherever they come: what is read is what was written, and nothing about units or classes is guessed."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from lookalikes import encoded, hub_table, pixels

from manifoldgd.artifacts import Key
from manifoldgd.dataset import ImageDataset, in_memory_split
from manifoldgd.errors import UserError
from manifoldgd.store.set_reading import Reading
from manifoldgd.store.set_sources import read_set, told

NAMES = ("zebra", "great ant", "T-shirt/top")  # in no order of their names
LABELS = [0, 0, 1, 1, 2, 2]
GREY = pixels(6, channels=1)
COLOUR = pixels(6)


def dataset(names=NAMES, channels=3, side=8):
    images, labels = torch.zeros(len(names), channels, side, side, dtype=torch.uint8), torch.arange(len(names))
    split = in_memory_split(images, labels)
    statistics = {"mean": (0.5,) * channels, "std": (0.5,) * channels, "flip": False}
    keys = {"train_fingerprint": Key("train"), "test_fingerprint": Key("test")}
    return ImageDataset("pets", names, (channels, side, side), split, split, **statistics, **keys)


def as_tensor(images):
    """``[N, C, h, w]`` uint8 of ``[N, h, w]`` or ``[N, h, w, 3]``."""
    held = torch.from_numpy(images)
    return held[:, None] if images.ndim == 3 else held.permute(0, 3, 1, 2)


def folders(place, images, labels, names, form="PNG"):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (place / names[label]).mkdir(parents=True, exist_ok=True)
        (place / names[label] / f"{number}.{form.lower()}").write_bytes(encoded(image, form))
    return place


def archive(place, names):
    with zipfile.ZipFile(place, "w") as out:
        for number, (image, label) in enumerate(zip(COLOUR, LABELS, strict=True)):
            out.writestr(f"my set/{names[label]}/{number}.png", encoded(image))
    return place


def shard(place, text):
    with tarfile.open(place, "w") as out:
        for number, (image, label) in enumerate(zip(COLOUR, LABELS, strict=True)):
            for end, data in (("png", encoded(image)), ("cls", str(text(label)).encode())):
                member = tarfile.TarInfo(f"{number:04}.{end}")
                member.size = len(data)
                out.addfile(member, io.BytesIO(data))
    return place


def table(place, names):
    import pyarrow.parquet as pq

    place.parent.mkdir(exist_ok=True)
    labels = LABELS if names else [NAMES[label] for label in LABELS]
    pq.write_table(hub_table(COLOUR, labels, list(names)), place)
    return place


def npz(place, **changes):
    np.savez(place, **{"images": COLOUR, "labels": np.array(LABELS)} | changes)
    return place


def saved(place, held):
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(held, place)
    return place


FLOATS = as_tensor(COLOUR).float() / 255
NORMALISED = (FLOATS - 0.4) / 0.2
TARGETS = torch.tensor(LABELS)
SOURCES = {
    "class folders": lambda at: folders(at / "x", COLOUR, LABELS, ("ZEBRA", "Great_Ant", "t-shirt top")),
    "numbered folders": lambda at: folders(at / "x", COLOUR, LABELS, ("new00002", "new00000", "new00001")),
    "zip": lambda at: archive(at / "x.zip", ("zebra", "great ant", "t-shirt_top")),
    "parquet": lambda at: table(at / "x.parquet", NAMES),
    "parquet of texts": lambda at: table(at / "x.parquet", ()),
    "tar of numbers": lambda at: shard(at / "x.tar", lambda label: label),
    "tar of names": lambda at: shard(at / "x.tar", lambda label: NAMES[label]),
    "npz": lambda at: npz(at / "x.npz"),
    "npz, channels first": lambda at: npz(at / "x.npz", images=COLOUR.transpose(0, 3, 1, 2)),
    "npz with names": lambda at: npz(at / "x.npz", class_names=np.array(NAMES)),
    "npz in [0, 1]": lambda at: npz(at / "x.npz", images=(COLOUR / 255).astype(np.float32)),
    "a pair": lambda at: saved(at / "data_best.pt", [FLOATS, TARGETS]),
    "a dictionary": lambda at: saved(at / "x.pt", {"images": FLOATS, "labels": TARGETS.float()}),
    "one-hot": lambda at: saved(at / "x.pt", (FLOATS, torch.eye(3)[TARGETS])),
    "two files": lambda at: (
        saved(saved(at / "mtt" / "images_best.pt", FLOATS).with_name("labels_best.pt"), TARGETS).parent
    ),
    "one of two files": lambda at: saved(saved(at / "labels.pt", TARGETS).with_name("images.pt"), FLOATS),
    "runs": lambda at: saved(
        at / "res.pt", {"data": [[FLOATS, TARGETS]], "accs_all_exps": {"ConvNet": [np.float64(0.5), np.float32(0.5)]}}
    ),
}
READINGS = {"numbered folders": Reading(classes=NAMES[1:] + NAMES[:1])}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_set_is_read_to_the_pixel_in_the_classes_of_the_dataset(kind, tmp_path):
    made = read_set(SOURCES[kind](tmp_path), READINGS.get(kind, Reading()), dataset())
    assert made.class_names == NAMES
    assert made.labels.tolist() == LABELS
    assert made.ranks.tolist() == [0, 1, 0, 1, 0, 1]
    assert torch.equal(made.images, as_tensor(COLOUR))
    assert made.folder is None
    (line,) = told(made)
    assert "6 images, 2 a class" in line
    assert "classes " in line
    assert "\n" not in line


@pytest.mark.parametrize("kind", SOURCES)
def test_without_a_dataset_a_set_has_its_own_classes(kind, tmp_path):
    made = read_set(SOURCES[kind](tmp_path))
    order = [COLOUR[position].tobytes() for position in range(6)]
    found = [image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in made.images]
    assert sorted(found) == sorted(order)
    for image, label in zip(found, made.labels.tolist(), strict=True):
        name, true = made.class_names[label], LABELS[order.index(image)]
        assert name.lower().replace("_", " ") in (
            NAMES[true].lower(),
            "t-shirt top",
            str(true),
            f"new0000{(true + 2) % 3}",
        )


def test_numbers_are_places_in_the_classes_of_the_dataset(tmp_path):
    made = read_set(SOURCES["numbered folders"](tmp_path), dataset=dataset())
    assert torch.equal(made.images, as_tensor(COLOUR)[[2, 3, 4, 5, 0, 1]])
    assert "by number: new00000 -> zebra, new00001 -> great ant, new00002 -> T-shirt/top" in next(told(made))


def test_names_that_are_numbers_are_names_where_the_dataset_has_them(tmp_path):
    place = folders(tmp_path / "x", GREY, LABELS, ("2", "0", "1"))
    made = read_set(place, dataset=dataset(("2", "0", "1"), channels=1))
    assert torch.equal(made.images, as_tensor(GREY))


def test_grey_and_sizes_are_fitted_as_told(tmp_path):
    place = npz(tmp_path / "x.npz", images=GREY)
    made = read_set(place, dataset=dataset())
    assert torch.equal(made.images, as_tensor(GREY).expand(-1, 3, -1, -1))
    with pytest.raises(UserError, match=r"^fit: .*8x8.* 4x4"):
        read_set(place, dataset=dataset(side=4))
    for fit in ("centre", "pad", "stretch"):
        shrunk = read_set(place, Reading(fit=fit), dataset(side=4))
        assert shrunk.images.shape == (6, 3, 4, 4)
        assert "resized from 8x8 to 4x4" in next(told(shrunk))
    with pytest.raises(UserError, match="in colour"):
        read_set(npz(tmp_path / "colour.npz"), dataset=dataset(channels=1))


def test_normalised_tensors_are_refused_or_undone(tmp_path):
    place = saved(tmp_path / "x.pt", [NORMALISED, TARGETS])
    with pytest.raises(UserError, match=r"reach from -2\.00 to 3\.00.*mean=\[\.\.\.\]"):
        read_set(place)
    made = read_set(place, Reading(mean=[0.4], std=[0.2, 0.2, 0.2]), dataset())
    assert torch.equal(made.images, as_tensor(COLOUR))
    assert "normalisation undone" in next(told(made))
    with pytest.raises(UserError, match=r"^mean: .*% of the pixels"):
        read_set(place, Reading(mean=[0.4], std=[5.0]), dataset())
    with pytest.raises(UserError, match=r"^std: expected 3 numbers"):
        read_set(place, Reading(mean=[0.4], std=[5.0, 5.0]), dataset())
    beyond = saved(tmp_path / "beyond.pt", [NORMALISED * 1.2, TARGETS])
    assert "were cut off" in next(told(read_set(beyond, Reading(mean=[0.4], std=[0.2]))))


def test_soft_labels_are_refused_or_their_most_probable_class_taken(tmp_path):
    soft = torch.eye(3)[TARGETS] * 0.8 + 0.1
    place = saved(tmp_path / "x.pt", [FLOATS, soft])
    with pytest.raises(UserError, match=r"^labels: .*soft labels"):
        read_set(place, dataset=dataset())
    made = read_set(place, Reading(labels="argmax"), dataset())
    assert made.labels.tolist() == LABELS
    assert "not the published set" in next(told(made))


def test_one_of_several_runs_is_chosen(tmp_path):
    place = saved(tmp_path / "res.pt", {"data": [[FLOATS, TARGETS], [1 - FLOATS, TARGETS]], "accs_all_exps": {}})
    with pytest.raises(UserError, match=r"^run: .*2 runs"):
        read_set(place)
    assert torch.equal(read_set(place, Reading(run=1)).images, 255 - as_tensor(COLOUR))


def test_shards_are_one_set_and_splits_are_not(tmp_path):
    for number in range(2):
        shard(tmp_path / f"train-{number:06}.tar", lambda label: label)
    assert len(read_set(tmp_path).images) == 12
    table(tmp_path / "tables" / "train-00000-of-00001.parquet", NAMES)
    table(tmp_path / "tables" / "test-00000-of-00001.parquet", NAMES)
    with pytest.raises(UserError, match="the splits 'test', 'train'"):
        read_set(tmp_path / "tables")


class Runs:
    """What would run if a pickle were believed."""

    def __reduce__(self):
        return print, ("it ran",)


REFUSED = {
    "code": (lambda at: saved(at / "x.pt", [FLOATS, TARGETS, Runs()]), {}, "tensors and numbers alone"),
    "objects": (lambda at: npz(at / "x.npz", labels=np.array([None] * 6)), {}, "x.npz cannot be read"),
    "nothing": (lambda at: at / "nothing", {}, "found no folder or file"),
    "another kind": (lambda at: npz(at / "x.npz").rename(at / "x.csv"), {}, "of a kind that is not read"),
    "cut": (lambda at: cut(npz(at / "x.npz")), {}, "cannot be read"),
    "cut table": (lambda at: cut(table(at / "x.parquet", NAMES)), {}, "cannot be read"),
    "cut tensors": (lambda at: cut(saved(at / "x.pt", [FLOATS, TARGETS])), {}, "cannot be"),
    "no labels": (lambda at: saved(at / "images_best.pt", FLOATS), {}, r"labels_\*.pt"),
    "no pictures": (lambda at: saved(at / "x.pt", {"state_dict": FLOATS}), {}, "expected .images, labels"),
    "fewer labels": (lambda at: saved(at / "x.pt", [FLOATS, TARGETS[:5]]), {}, "a label for each"),
    "black": (lambda at: npz(at / "x.npz", images=COLOUR // 200), {}, "whole numbers up to 1"),
    "not finite": (lambda at: saved(at / "x.pt", [FLOATS / 0, TARGETS]), {}, "not finite"),
    "unequal": (
        lambda at: npz(at / "x.npz", labels=np.array([0, 0, 0, 1, 1, 2])),
        {},
        "3 images in some classes and 1",
    ),
    "two classes": (lambda at: npz(at / "x.npz", labels=np.array(LABELS) // 2), {}, "has 2 classes"),
    "other names": (
        lambda at: npz(at / "x.npz", class_names=np.array(["cat", "dog", "cow"])),
        {},
        r"classes=\[\.\.\.\]",
    ),
    "wrong classes": (lambda at: npz(at / "x.npz"), {"classes": ["zebra", "zebra", "T-shirt/top"]}, "^classes: .*once"),
    "unused": (lambda at: npz(at / "x.npz"), {"run": 0}, "^run: .*leave it out"),
    "no picture": (
        lambda at: broken(folders(at / "x", COLOUR, LABELS, (*NAMES[:2], "top"))),
        {},
        "no picture or is damaged",
    ),
    "other files": (
        lambda at: stray(folders(at / "x", COLOUR, LABELS, (*NAMES[:2], "top"))),
        {},
        "no pictures.*notes.txt",
    ),
    "no bundle": (lambda at: "bundled:nothing", {}, "no bundled set 'nothing'"),
}


def cut(place):
    place.write_bytes(place.read_bytes()[:-40])
    return place


def broken(place):
    (place / "zebra" / "0.png").write_bytes(b"no picture")
    return place


def stray(place):
    (place / "zebra" / "notes.txt").write_text("")
    return place


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(kind, capsys, tmp_path):
    source, reading, told_so = REFUSED[kind]
    with pytest.raises(UserError, match=told_so) as refused:
        read_set(source(tmp_path), Reading(**reading), dataset())
    assert "\n" not in str(refused.value)
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"mean": [0.5]}, "mean"),
        ({"mean": [0.5], "std": [0.0]}, "std"),
        ({"mean": [float("nan")], "std": [0.5]}, "mean"),
        ({"labels": "soft"}, "labels"),
        ({"fit": "crop"}, "fit"),
        ({"run": -1}, "run"),
    ],
)
def test_a_reading_that_cannot_be_is_refused(given, key):
    with pytest.raises(UserError, match=f"^{key}: "):
        Reading(**given)


def test_an_unfinished_set_of_ours_is_no_folder_of_pictures(tmp_path):
    place = folders(tmp_path / "set", COLOUR, LABELS, (*NAMES[:2], "top"))
    (place / "progress.jsonl").write_text("")
    with pytest.raises(UserError, match=r"no complete distilled set"):
        read_set(place)
