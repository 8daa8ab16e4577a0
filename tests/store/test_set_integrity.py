"""A distilled set defends itself: what was changed about it is found, and what only looks changed is not."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from manifoldgd.errors import UserError
from manifoldgd.store.keys import read_json, write_json
from manifoldgd.store.sets import SetWriter, copy_set, inner_file, load_set, pixel_hash

NAMES = ("cat", "great dane")
IPC = 3


def image(label, rank, channels):
    source = torch.Generator().manual_seed(10 * label + rank)
    return torch.randint(0, 256, (channels, 6, 5), dtype=torch.uint8, generator=source)


def write(folder, channels=1, make=image):
    writer = SetWriter(folder, NAMES)
    for label in range(2):
        for rank in range(IPC):
            writer.save(make(label, rank, channels), label, rank)
    writer.finish(ipc=IPC, facts={"seed": 0, "config": {}}, card="# a card\n")
    return folder


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def folder(request, tmp_path):
    return write(tmp_path / "out" / "set", request.param)


def as_format_1(folder):
    """The set as the first version wrote it: no hashes, no shape, no checksum."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("image_shape", "file_checksum"):
        del manifest[name]
    for row in manifest["images"]:
        del row["content_hash"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    return folder


def edit(folder, change, *, checksum):
    """Change the manifest; with a new checksum, as one who knows how would."""
    manifest = read_json(folder / "manifest.json")
    change(manifest)
    if checksum:
        write_json(folder / "manifest.json", manifest)
    else:
        held = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**held, **manifest}))


def refused(folder, *parts):
    with pytest.raises(UserError) as caught:
        load_set(folder)
    text = str(caught.value)
    assert text.startswith("set: ") or str(folder / "manifest.json") in text
    assert "\n" not in text
    assert all(part in text for part in parts), text
    assert "have the set made again" in text
    return text


def set_label(manifest):
    manifest["images"][0]["label"] = 1


def swap_labels(manifest):
    manifest["images"][0]["label"], manifest["images"][3]["label"] = 1, 0


def drop_rows(manifest):
    del manifest["images"][1:4]


def lead_out(manifest):
    manifest["images"][0]["file"] = "../../secret.png"


CHANGES = {
    "label": set_label,
    "labels": swap_labels,
    "label out of range": lambda manifest: manifest["images"][0].update(label=7),
    "label of truth": lambda manifest: manifest["images"][0].update(label=False),
    "rank": lambda manifest: manifest["images"][0].update(rank=1),
    "missing rows": drop_rows,
    "no rows": lambda manifest: manifest.update(images=[]),
    "a row twice": lambda manifest: manifest["images"].__setitem__(1, manifest["images"][0]),
    "path out": lead_out,
    "absolute path": lambda manifest: manifest["images"][0].update(file="/etc/passwd"),
    "another class's file": lambda manifest: manifest["images"][0].update(file="great dane/00000.png"),
    "class names": lambda manifest: manifest["class_names"].reverse(),
    "a class name leads out": lambda manifest: manifest["class_names"].__setitem__(0, ".."),
    "a class name twice": lambda manifest: manifest["class_names"].__setitem__(0, "great dane"),
    "ipc": lambda manifest: manifest.update(ipc=2),
    "ipc of truth": lambda manifest: manifest.update(ipc=True),
    "no ipc": lambda manifest: manifest.pop("ipc"),
    "rows of nothing": lambda manifest: manifest.update(images=[None] * 6),
    "names of nothing": lambda manifest: manifest.update(class_names=None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("version", [1, 2])
def test_a_changed_manifest_is_refused_even_with_a_new_checksum(tmp_path, change, version):
    shutil.copyfile(write(tmp_path / "x") / "cat" / "00000.png", tmp_path / "secret.png")
    folder = write(tmp_path / "out" / "set")
    if version == 1:
        as_format_1(folder)
    edit(folder, change, checksum=True)
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [lambda manifest: manifest.update(seed=1), lambda manifest: manifest["images"][0].update(content_hash="0" * 32)],
)
def test_any_change_breaks_the_checksum(folder, change):
    edit(folder, change, checksum=False)
    refused(folder, "manifest.json", "does not match its checksum")


@pytest.mark.parametrize("key", ["content_hash", "image_shape"])
def test_a_manifest_of_today_lacks_nothing(folder, key):
    edit(folder, lambda held: (held if key in held else held["images"][0]).pop(key), checksum=True)
    if key == "image_shape":  # said once for all, and found out from the images where it is not
        assert len(load_set(folder).images) == 6
    else:
        refused(folder, "content_hash")


def test_sets_of_format_1_are_read(folder):
    before = load_set(folder)
    after = load_set(as_format_1(folder))
    assert torch.equal(before.images, after.images)
    assert before.fingerprint == after.fingerprint


def test_the_fingerprint_stays_what_it_was(tmp_path):
    """Students of earlier versions refer to it."""
    assert load_set(write(tmp_path / "set")).fingerprint == "df2df7efcef06741"


def test_an_image_copied_over_another_is_found(folder):
    shutil.copyfile(folder / "cat" / "00000.png", folder / "cat" / "00001.png")
    refused(folder, str(folder / "cat" / "00001.png"), "has other pixels than the image that was written")


def test_one_pixel_of_another_level_is_found(folder):
    file = folder / "great dane" / "00002.png"
    pixels = np.array(Image.open(file))
    pixels[3, 2] ^= 1
    Image.fromarray(pixels).save(file)
    refused(folder, str(file), "other pixels")


def resave(folder, mode, **how):
    for file in folder.glob("*/*.png"):
        picture = Image.open(file)
        (picture.quantize(256, dither=0) if mode == "palette" else picture.convert(mode)).save(file, **how)


@pytest.mark.parametrize(
    ("mode", "version"),
    # Where the manifest does not state the shape, files in colour are images in colour.
    [("P", 1), ("LA", 1), ("palette", 1), *((mode, 2) for mode in ("P", "LA", "palette", "RGB", "RGBA"))],
)
def test_grey_images_stored_in_another_mode_are_the_same(tmp_path, mode, version):
    folder = write(tmp_path / "set")
    before = load_set(folder).fingerprint
    if version == 1:
        as_format_1(folder)
    resave(folder, mode)
    assert load_set(folder).fingerprint == before


def test_sixteen_bits_are_the_same_at_full_range(tmp_path):
    folder = write(tmp_path / "set")
    before = load_set(folder).fingerprint
    for file in folder.glob("*/*.png"):
        Image.fromarray(np.array(Image.open(file)).astype(np.uint16) * 257).save(file)
    assert load_set(folder).fingerprint == before


def test_one_bit_is_the_same_where_images_are_black_and_white(tmp_path):
    folder = write(tmp_path / "set", make=lambda *place: image(*place) // 128 * 255)
    before = load_set(folder).fingerprint
    resave(folder, "1")
    assert Image.open(folder / "cat" / "00000.png").mode == "1"
    assert load_set(folder).fingerprint == before


@pytest.mark.parametrize("mode", ["RGBA", "palette"])
def test_colour_images_stored_in_another_mode_are_the_same(tmp_path, mode):
    folder = write(tmp_path / "set", 3)
    before = load_set(folder).fingerprint
    resave(folder, mode)
    assert load_set(folder).fingerprint == before


@pytest.mark.parametrize(
    ("channels", "mode", "cause"),
    [(1, "1", "other pixels"), (3, "L", "it is stored grey, the set's images are in colour"), (3, "1", "other pixels")],
)
def test_a_mode_that_loses_something_is_named(tmp_path, channels, mode, cause):
    folder = write(tmp_path / "set", channels)
    file = folder / "cat" / "00001.png"
    Image.open(file).convert(mode).save(file)
    refused(folder, str(file), cause)


@pytest.mark.parametrize("version", [1, 2])
def test_an_image_of_another_size_is_named(tmp_path, version):
    folder = write(tmp_path / "set")
    if version == 1:
        as_format_1(folder)
    file = folder / "cat" / "00001.png"
    Image.open(file).resize((4, 9)).save(file)
    refused(folder, str(file), "is 4x9 pixels, expected the 5x6 of the set")


@pytest.mark.parametrize("what", ["file", "class", "manifest"])
def test_links_are_not_followed(folder, tmp_path, what):
    place = {"file": folder / "cat" / "00000.png", "class": folder / "cat", "manifest": folder / "manifest.json"}[what]
    os.rename(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"is a link; put a copy of what it leads to") as caught:
        load_set(folder)
    assert str(place) in str(caught.value)


def test_a_copy_of_a_set_holds_no_foreign_file(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("mine")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "secret.txt")
    copy_set(folder.parent, tmp_path / "copy", {"ipc": IPC})
    assert (tmp_path / "copy" / "set" / "README.md").is_symlink()
    assert load_set(tmp_path / "copy").fingerprint == load_set(folder).fingerprint


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "a\0b"])
def test_names_that_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(UserError, match="lies outside the set"):
        inner_file(tmp_path, name)


def test_hashes_of_pixels_tell_shapes_apart():
    shapes = [(1, 2, 6), (1, 6, 2), (3, 2, 2), (1, 3, 4)]
    assert len({pixel_hash(torch.zeros(shape, dtype=torch.uint8)) for shape in shapes}) == len(shapes)


def half_made(folder):
    writer = SetWriter(folder, NAMES)
    for label, rank in ((0, 0), (0, 1), (1, 0)):
        writer.save(image(label, rank, 1), label, rank)
    writer.spend(2.0)
    return folder


def damage(folder, what):
    file, progress = folder / "cat" / "00001.png", folder / "progress.jsonl"
    data = bytearray(file.read_bytes())
    if what == "flipped":
        data[len(data) // 2] ^= 0x20
        file.write_bytes(data)
    elif what == "copied":
        shutil.copyfile(folder / "cat" / "00000.png", file)
    elif what == "linked":
        os.rename(file, folder / "x.png")
        file.symlink_to(folder / "x.png")
    elif what == "huge":
        Image.new("1", (20000, 20000)).save(file)
    elif what == "row":
        progress.write_text(progress.read_text().replace('"rank": 1', '"rank": 2'))
    elif what == "path":
        progress.write_text(progress.read_text().replace("cat/00001.png", "../../secret.png"))


@pytest.mark.parametrize("what", ["flipped", "copied", "linked", "huge", "row", "path"])
def test_a_finished_image_that_was_damaged_is_made_again(tmp_path, what):
    folder = half_made(tmp_path / "set")
    damage(folder, what)
    writer = SetWriter(folder, NAMES)
    assert set(writer.rows) == {(0, 0), (1, 0)}
    assert writer.seconds == 2.0


def test_every_flipped_byte_of_the_progress_costs_images_at_most(tmp_path):
    folder = half_made(tmp_path / "set")
    whole = SetWriter(folder, NAMES).rows
    data = (folder / "progress.jsonl").read_bytes()
    for position in range(len(data)):
        (folder / "progress.jsonl").write_bytes(data[:position] + bytes([data[position] ^ 0x02]) + data[position + 1 :])
        rows = SetWriter(folder, NAMES).rows
        assert len(rows) >= 1
        assert all(whole[place] == row for place, row in rows.items())


def test_the_progress_of_an_earlier_version_is_continued(tmp_path):
    folder = half_made(tmp_path / "set")
    rows = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    old = [{key: row[key] for key in row if key not in ("content_hash", "file_checksum")} for row in rows]
    (folder / "progress.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    writer = SetWriter(folder, NAMES)
    assert set(writer.rows) == {(0, 0), (0, 1), (1, 0)}
    for label, rank in ((0, 2), (1, 1), (1, 2)):
        writer.save(image(label, rank, 1), label, rank)
    writer.finish(ipc=IPC, facts={}, card="")
    assert load_set(folder).fingerprint == load_set(write(tmp_path / "whole")).fingerprint


def test_the_remedy_works(folder):
    (folder / "manifest.json").write_text("{")
    text = refused(folder)
    assert f"remove {folder} to" in text
    shutil.rmtree(folder)
    assert len(load_set(write(folder)).images) == 6
