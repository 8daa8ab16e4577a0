"""16-bit images: read at full depth where their white is told, refused where they would come out dark."""

import struct
import zlib

import numpy as np
import pytest
import torch
from data_parts import load_folder, message_of, write_image
from PIL import Image

from manifoldgd.data.transforms import UnreadableDepthError, deep_samples, image_tensor


def png(samples, interlace=0):
    """A 16-bit PNG of ``[h, w]`` or ``[h, w, bands]`` samples; Pillow writes only grey ones."""
    samples = samples[..., None] if samples.ndim == 2 else samples
    height, width, bands = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(samples, compression=1, order="<"):
    """A 16-bit TIFF of ``[h, w, bands]`` samples, plain (1) or deflated (8), in either byte order."""
    height, width, bands = samples.shape
    data = samples.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compression == 8 else data
    entries = {256: width, 257: height, 259: compression, 262: 2, 277: bands, 278: height, 284: 1}
    entries |= {338: 2} if bands == 4 else {}
    wide = 8 + 2 + 12 * (len(entries) + 3) + 4  # where the bits a sample stand, the pixels after them
    rows = {tag: struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items()}
    rows[258] = struct.pack(f"{order}HHII", 258, 3, bands, wide)
    rows[273] = struct.pack(f"{order}HHII", 273, 4, 1, wide + 2 * bands)
    rows[279] = struct.pack(f"{order}HHII", 279, 4, 1, len(data))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(rows))
    body = b"".join(rows[tag] for tag in sorted(rows)) + struct.pack(f"{order}I", 0)
    return head + body + struct.pack(f"{order}{bands}H", *[16] * bands) + data


def noise(*shape, high=65536):
    return np.random.default_rng(0).integers(0, high, shape).astype(np.uint16)


LAYOUTS = {
    "grey png": (noise(5, 7), png),
    "grey png with alpha": (noise(5, 7, 2), png),
    "png": (noise(5, 7, 3), png),
    "png with alpha": (noise(5, 7, 4), png),
    "tiff": (noise(5, 7, 3), tiff),
    "tiff of the other order": (noise(5, 7, 3), lambda samples: tiff(samples, order=">")),
    "deflated tiff": (noise(5, 7, 3), lambda samples: tiff(samples, 8)),
    "deflated tiff with alpha": (noise(5, 7, 4), lambda samples: tiff(samples, 8)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_samples_are_read_as_they_were_written(tmp_path, name):
    samples, write = LAYOUTS[name]
    (tmp_path / "x").write_bytes(write(samples))
    expected = samples[..., [0, 0, 0, 1]] if samples.shape[2:] == (2,) else samples
    with Image.open(tmp_path / "x") as image:
        assert np.array_equal(deep_samples(image), expected)
        shallow = np.asarray(image)  # can be read on
    with Image.open(tmp_path / "x") as image:
        assert np.array_equal(np.asarray(image), shallow)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_other_images_are_not_deep(tmp_path, mode):
    Image.new(mode, (5, 7)).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert deep_samples(image) is None


def test_white_is_white_and_what_is_above_it_too(tmp_path):
    samples = np.array([[0, 1000, 2040, 4080, 4095, 65535]] * 6, np.uint16)
    for name, stored in (("grey", samples), ("colour", np.stack([samples] * 3, -1))):
        (tmp_path / name).write_bytes(png(stored))
        for channels in (1, 3):
            with Image.open(tmp_path / name) as image:
                found = image_tensor(image, 6, channels, white=4080)
            expected = torch.tensor([0, round(1000 / 4080 * 255), 128, 255, 255, 255], dtype=torch.uint8)
            assert torch.equal(found, expected.expand(channels, 6, 6))


def test_turned_deep_images_are_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(6, 6, high=4096)).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        turned = image_tensor(image, 6, 1, white=4095)
    Image.fromarray(np.rot90(noise(6, 6, high=4096), -1).copy()).save(tmp_path / "y.png")
    with Image.open(tmp_path / "y.png") as image:
        assert torch.equal(image_tensor(image, 6, 1, white=4095), turned)


def test_a_file_that_states_its_range_needs_no_white(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 6 6 4095\n" + np.full((6, 6), 4095, ">u2").tobytes())
    for white in (None, 255):
        with Image.open(tmp_path / "x.pgm") as image:
            assert int(image_tensor(image, 6, 1, white=white).min()) == 255


def test_an_unusual_layout_is_not_read_by_half(tmp_path):
    with Image.open(write(tmp_path / "x.tif", tiff(noise(5, 7, 3)))) as image:
        image.tile = [tile._replace(args=("CMYK;16B", 0, 1)) for tile in image.tile]
        with pytest.raises(UnreadableDepthError, match="CMYK;16B"):
            deep_samples(image)


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("bands", [(), (3,)], ids=["grey", "colour"])
@pytest.mark.parametrize("bits", [8, 12, 14])
def test_deep_images_that_would_be_dark_are_refused_until_white_is_told(pets, bands, bits):
    samples = noise(9, 9, *bands, high=2**bits)
    (pets / "train/cat/9.png").write_bytes(png(samples))
    message = message_of(load_folder, pets)
    assert message.startswith(f"white: the 16-bit images use values up to {samples.max()} only")
    assert f"set it to {2**bits - 1} if {bits} bits" in message
    told = load_folder(pets, white=2**bits - 1)
    assert int(told.train.images()[3].max()) > 200
    as_they_are = load_folder(pets, white=65535)
    assert int(as_they_are.train.images()[3].max()) <= 64
    assert told.train_fingerprint != as_they_are.train_fingerprint
    assert told.train_fingerprint.former == ()  # nobody could tell it before


def test_deep_images_of_full_range_are_read_as_they_were(pets):
    (pets / "train/cat/9.png").write_bytes(png(samples := noise(8, 8)))
    images = load_folder(pets, channels=1).train.images()
    assert np.array_equal(images[3, 0].numpy(), np.rint(samples / 257).astype(np.uint8))
    (pets / "train/cat/9.png").write_bytes(png(samples := noise(8, 8, 3)))
    assert np.array_equal(load_folder(pets).train.images()[3].permute(1, 2, 0).numpy(), samples >> 8)


def test_samples_above_white_are_said(pets, capsys):
    (pets / "train/cat/9.png").write_bytes(png(noise(9, 9)))
    load_folder(pets, white=4095)
    assert "dataset.white: 1 of 9 images have samples above 4095, up to" in capsys.readouterr().err


def test_equal_upper_bytes_are_not_equal_pictures(pets):
    samples = noise(9, 9, 3, high=4096)
    (pets / "train/cat/9.png").write_bytes(png(samples))
    (pets / "test/cat/9.png").write_bytes(png(samples ^ 1))
    assert load_folder(pets, white=4095).leaked == 0
    write_image(pets / "test/cat/8.png", "RGB", (12, 9), 0)
    assert load_folder(pets, white=4095).leaked == 1
