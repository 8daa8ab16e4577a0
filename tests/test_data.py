"""Datasets: the fixed digits split, IDX files, image folders, the crop, and what a user is told about bad input."""

import gzip
import hashlib
import importlib
import io
import os
import shutil
import struct
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from manifoldgd.data import digits, fashion_mnist, image_folder
from manifoldgd.data.image_files import check_files
from manifoldgd.data.transforms import centre_crop, eight_bit, image_tensor, upright
from manifoldgd.dataset import ImageDataset, in_memory_split, limit_per_class
from manifoldgd.errors import UserError

# The package binds the functions' names, so the modules of the same name are fetched by path.
idx_module = importlib.import_module("manifoldgd.data.fashion_mnist")
folder_module = importlib.import_module("manifoldgd.data.image_folder")


def message_of(function, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- splits ---------------------------------------------------------------------------------------------------------


def test_subset_and_chunks_keep_the_order():
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    split = in_memory_split(images, torch.arange(10))
    assert torch.equal(split.images(chunk=3), images)
    part = split.subset(torch.tensor([7, 2, 5]))
    assert part.labels.tolist() == [7, 2, 5]
    assert part.load(torch.tensor([2, 0])).flatten().tolist() == [5, 7]


def test_limit_per_class_keeps_the_first_of_each():
    split = in_memory_split(torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1), torch.tensor([1, 0, 1, 1, 0, 0]))
    assert limit_per_class(split, 2).images().flatten().tolist() == [0, 1, 2, 4]
    assert limit_per_class(split, None) is split
    assert "dataset.train_per_class" in message_of(limit_per_class, split, 0)


def test_a_class_without_training_images_is_named():
    split = in_memory_split(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]))
    arguments = dict(image_shape=(1, 2, 2), train=split, test=split, mean=(0.0,), std=(1.0,), flip=True, fingerprint="")
    assert "'b'" in message_of(ImageDataset, name="toy", class_names=("a", "b"), **arguments)


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_split_is_fixed_disjoint_and_stratified():
    from sklearn.datasets import load_digits

    bundle = load_digits()
    dataset = digits(train_per_class=None, validation=None)
    assert (len(dataset.train), len(dataset.test)) == (1442, 355)
    # Independent rule: the 5th, 10th, ... image of each class, in the bundle's order.
    expected = sorted(np.concatenate([np.flatnonzero(bundle.target == label)[4::5] for label in range(10)]))
    pixels = torch.from_numpy(np.rint(bundle.images * 255 / 16).astype(np.uint8))[:, None]
    assert torch.equal(dataset.test.images(), pixels[expected])
    assert dataset.test.labels.tolist() == bundle.target[expected].tolist()
    rest = np.setdiff1d(np.arange(1797), expected)
    assert torch.equal(dataset.train.images(), pixels[rest])
    assert dataset.train.labels.tolist() == bundle.target[rest].tolist()
    assert torch.bincount(dataset.test.labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]


def test_digits_statistics_range_and_limit():
    dataset = digits(train_per_class=None, validation=None)
    images = dataset.train.images()
    assert images.shape[1:] == dataset.image_shape
    assert (images.dtype, int(images.min()), int(images.max())) == (torch.uint8, 0, 255)
    pixels = images.double() / 255
    assert dataset.mean == pytest.approx([float(pixels.mean())], abs=2e-3)
    assert dataset.std == pytest.approx([float(pixels.std())], abs=2e-3)
    few = digits(train_per_class=3, validation=None)
    assert torch.bincount(few.train.labels).tolist() == [3] * 10
    assert len(few.test) == 355
    assert few.fingerprint != dataset.fingerprint


# --- Fashion-MNIST --------------------------------------------------------------------------------------------------


def idx_bytes(values, magic):
    return struct.pack(f">{1 + values.ndim}i", magic, *values.shape) + values.tobytes()


def idx_contents(seed=0):
    draw = np.random.default_rng(seed)
    contents = {}
    for prefix, count in (("train", 40), ("t10k", 20)):
        images = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        contents[f"{prefix}-images-idx3-ubyte"] = idx_bytes(images, 2051)
        contents[f"{prefix}-labels-idx1-ubyte"] = idx_bytes(np.arange(count, dtype=np.uint8) % 10, 2049)
    return contents


def write_idx(folder, contents, packed=False):
    folder.mkdir(exist_ok=True)
    for name, raw in contents.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)
    return str(folder)


def load_idx(folder, download=False, train_per_class=None, validation=None):
    return fashion_mnist(folder=folder, download=download, train_per_class=train_per_class, validation=None)


def test_plain_and_packed_idx_files_read_alike(tmp_path):
    contents = idx_contents()
    plain = load_idx(write_idx(tmp_path / "plain", contents))
    packed = load_idx(write_idx(tmp_path / "packed", contents, packed=True))
    raw = np.frombuffer(contents["train-images-idx3-ubyte"], np.uint8)[16:].reshape(40, 1, 28, 28)
    for dataset in (plain, packed):
        assert np.array_equal(dataset.train.images().numpy(), raw)
        assert dataset.train.labels.tolist() == [*range(10)] * 4
        assert dataset.test.images().shape == (20, 1, 28, 28)
        assert dataset.image_shape == (1, 28, 28)
    assert plain.fingerprint == packed.fingerprint


def test_idx_fingerprint_follows_contents_and_limit(tmp_path):
    folder = write_idx(tmp_path / "a", idx_contents())
    one = load_idx(folder)
    assert load_idx(write_idx(tmp_path / "b", idx_contents(seed=1))).fingerprint != one.fingerprint
    few = load_idx(folder, train_per_class=2, validation=None)
    assert few.fingerprint != one.fingerprint
    assert (len(few.train), len(few.test)) == (20, 20)


def replaced(name, raw):
    return {**idx_contents(), name: raw}


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        (IMAGES, idx_contents()[IMAGES][:-1], "31360 bytes"),
        (IMAGES, idx_contents()[IMAGES] + b"\0", "31361 bytes"),
        (IMAGES, idx_contents()[IMAGES][:10], "not a readable IDX file"),
        (IMAGES, b"", "not a readable IDX file"),
        (LABELS, b"\x00\x00\x08\x03" + idx_contents()[LABELS][4:], "magic 2051"),
        (LABELS, idx_bytes(np.full(20, 10, np.uint8), 2049), "labels up to 10"),
        (LABELS, idx_bytes(np.zeros(19, np.uint8), 2049), "19 labels"),
        (IMAGES, idx_bytes(np.zeros((40, 27, 28), np.uint8), 2051), "27x28"),
    ],
)
def test_bad_idx_file_is_named(tmp_path, name, raw, says):
    message = message_of(load_idx, write_idx(tmp_path / "bad", replaced(name, raw)))
    assert says in message
    assert "dataset.folder" in message
    assert (name in message) or (str(tmp_path / "bad" / name.split("-")[0]) in message)


@pytest.mark.parametrize("damage", [lambda packed: packed[:-20], lambda packed: b"PK" + packed, "flip"])
def test_damaged_gzip_is_named(tmp_path, damage):
    folder = write_idx(tmp_path / "bad", idx_contents(), packed=True)
    path = tmp_path / "bad" / f"{IMAGES}.gz"
    packed = bytearray(path.read_bytes())
    if damage == "flip":
        packed[10:60] = bytes(255 - value for value in packed[10:60])
    path.write_bytes(packed if damage == "flip" else damage(bytes(packed)))
    message = message_of(load_idx, folder)
    assert "dataset.folder" in message
    assert str(path) in message


def test_missing_idx_files_are_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network unasked"))
    message = message_of(load_idx, str(tmp_path / "nothing"))
    assert str(tmp_path / "nothing") in message
    assert "dataset.folder" in message
    assert "dataset.download=true" in message


def serve(monkeypatch, answer):
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return answer(url.rsplit("/", 1)[1].removesuffix(".gz"))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_download_fetches_what_is_missing_and_only_once(tmp_path, monkeypatch):
    contents = idx_contents()
    for name, raw in contents.items():
        monkeypatch.setitem(idx_module.SHA256, name, hashlib.sha256(raw).hexdigest())
    asked = serve(monkeypatch, lambda name: io.BytesIO(gzip.compress(contents[name])))
    folder = write_idx(tmp_path / "cache", {IMAGES: contents[IMAGES]})
    dataset = load_idx(folder, download=True)
    assert len(asked) == 3
    assert all(url.startswith("https://") and IMAGES not in url for url in asked)
    assert load_idx(folder, download=True).fingerprint == dataset.fingerprint
    assert len(asked) == 3


def test_download_with_another_checksum_is_refused_and_not_kept(tmp_path, monkeypatch):
    contents = idx_contents()
    serve(monkeypatch, lambda name: io.BytesIO(gzip.compress(contents[name])))
    message = message_of(load_idx, str(tmp_path / "cache"), download=True)
    assert "dataset.download" in message
    assert hashlib.sha256(contents[IMAGES]).hexdigest() in message
    assert idx_module.SHA256[IMAGES] in message
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("answer", [b"<html>captive portal</html>", gzip.compress(bytes(9000))[:-9], None])
def test_failed_download_says_what_to_do(tmp_path, monkeypatch, answer):
    def reply(name):
        if answer is None:
            raise urllib.error.URLError("no network")
        return io.BytesIO(answer)

    serve(monkeypatch, reply)
    message = message_of(load_idx, str(tmp_path / "cache"), download=True)
    assert "dataset.download" in message
    assert "dataset.folder" in message
    assert f"{IMAGES}.gz" in message


# --- transforms -----------------------------------------------------------------------------------------------------


def noise_image(width, height, mode="RGB", seed=0):
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def cubic_matrix(size_in, size_out):
    """Bicubic resampling (a = -0.5) with the support widened when shrinking, rows normalised: float64 weights."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    low = np.maximum((centres - 2 * stretch + 0.5).astype(int), 0)
    high = np.minimum((centres + 2 * stretch + 0.5).astype(int), size_in)
    x = np.abs((np.arange(size_in)[None] + 0.5 - centres[:, None]) / stretch)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    weights *= (np.arange(size_in) >= low[:, None]) & (np.arange(size_in) < high[:, None])
    return weights / weights.sum(1, keepdims=True)


def resampled(pixels, height, width, matrix):
    """Columns, then rows, each rounded to whole grey levels, as for 8-bit images."""
    for axis, size in ((1, width), (0, height)):
        mixed = np.moveaxis(np.tensordot(matrix(pixels.shape[axis], size), pixels, (1, axis)), 0, axis)
        pixels = np.clip(np.floor(mixed + 0.5), 0, 255)
    return pixels


def crop_twin(pixels, size):
    """The ADM crop with explicit resampling matrices in float64."""
    pixels = pixels.astype(np.float64)
    while min(pixels.shape[:2]) >= 2 * size:
        pixels = resampled(pixels, pixels.shape[0] // 2, pixels.shape[1] // 2, box_matrix)
    scale = size / min(pixels.shape[:2])
    pixels = resampled(pixels, *(round(side * scale) for side in pixels.shape[:2]), cubic_matrix)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def box_matrix(size_in, size_out):
    """Mean of the pixels whose centres lie in the cell; a centre on the border belongs to the cell on its left."""
    scale = size_in / size_out
    x = (np.arange(size_in)[None] + 0.5 - (np.arange(size_out)[:, None] + 0.5) * scale) / scale
    weights = ((x > -0.5) & (x <= 0.5)).astype(float)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("width", "height"), [(16, 16), (17, 23), (40, 31), (31, 32), (33, 80), (128, 64), (9, 12), (70, 143), (5, 40)]
)
def test_centre_crop_agrees_with_its_twin(width, height):
    image = noise_image(width, height)
    cropped = np.asarray(centre_crop(image, 16), np.float64)
    assert cropped.shape == (16, 16, 3)
    difference = np.abs(cropped - crop_twin(np.asarray(image), 16))
    # Pillow 12.0 and 13.0 differ in which axis goes first, so in what is rounded in between: one or two grey levels.
    assert difference.max() <= 2
    assert difference.mean() <= 0.35


@pytest.mark.parametrize(("width", "height", "left", "top"), [(21, 16, 2, 0), (16, 19, 0, 1), (20, 16, 2, 0)])
def test_crop_at_the_right_size_only_cuts(width, height, left, top):
    image = noise_image(width, height)
    assert np.array_equal(centre_crop(image, 16), np.asarray(image)[top : top + 16, left : left + 16])


def test_halving_starts_at_twice_the_size():
    pixels = np.asarray(noise_image(32, 32), np.int64)
    halved = pixels.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(centre_crop(noise_image(32, 32), 16) - halved).max() <= 1
    bicubic = noise_image(31, 31).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(centre_crop(noise_image(31, 31), 16), bicubic)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_agrees_with_pillow(orientation):
    stored = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise_image(6, 4).save(stored, "PNG", exif=exif)
    assert np.array_equal(upright(Image.open(stored)), ImageOps.exif_transpose(Image.open(stored)))


def test_garbled_exif_leaves_the_picture_alone():
    stored = io.BytesIO()
    noise_image(6, 4).save(stored, "PNG", exif=b"Exif\0\0nonsense")
    assert np.array_equal(upright(Image.open(stored)), noise_image(6, 4))


def test_transparency_is_laid_over_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[0, 1] = (0, 0, 0, 0)
    image = Image.fromarray(pixels, "RGBA")
    assert np.asarray(eight_bit(image, 3))[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    assert np.asarray(eight_bit(image.convert("LA"), 1))[0].tolist() == [18, 255]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert np.asarray(eight_bit(palette, 3)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    palette.info["transparency"] = 1
    assert np.asarray(eight_bit(palette, 3)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_sixteen_bit_grey_is_scaled_not_cut():
    deep = Image.fromarray(np.array([[0, 257, 40000, 65535]], np.uint16))
    assert np.asarray(eight_bit(deep, 1)).tolist() == [[0, 1, 156, 255]]


def test_tensor_layout_and_grey():
    image = noise_image(8, 8)
    tensor = image_tensor(image, 8, 3)
    assert (tensor.dtype, tensor.shape, tensor.is_contiguous()) == (torch.uint8, (3, 8, 8), True)
    assert np.array_equal(tensor.permute(1, 2, 0), image)
    luma = np.asarray(image) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(image_tensor(image, 8, 1)[0].numpy() - luma).max() <= 1


# --- image folders --------------------------------------------------------------------------------------------------


SAMPLES = {
    "train/cat/0.png": ("RGB", (12, 9)),
    "train/cat/1.jpg": ("RGB", (30, 17)),
    "train/cat/2.JPEG": ("L", (8, 8)),
    "train/dog/0.png": ("RGBA", (9, 20)),
    "train/dog/1.png": ("P", (16, 16)),
    "test/cat/0.webp": ("RGB", (11, 13)),
    "test/dog/0.gif": ("P", (10, 8)),
    "test/dog/1.bmp": ("RGB", (8, 9)),
}


def write_image(path, mode, size, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = noise_image(*size, seed=seed).quantize(16) if mode == "P" else noise_image(*size, mode, seed=seed)
    image.save(path)


@pytest.fixture
def root(tmp_path):
    for seed, (name, (mode, size)) in enumerate(SAMPLES.items()):
        write_image(tmp_path / "pets" / name, mode, size, seed)
    return tmp_path / "pets"


def load_folder(root, **changes):
    arguments = dict(
        folder=str(root),
        train="train",
        test="test",
        name=None,
        image_size=8,
        channels=3,
        classes=None,
        prior_labels=None,
        mean=None,
        std=None,
        flip=True,
        train_per_class=None,
        validation=None,
    )
    return image_folder(**{**arguments, **changes})


def expected_tensor(path, channels=3):
    with Image.open(path) as image:
        return image_tensor(image, 8, channels)


def test_folder_layout_becomes_a_dataset(root):
    dataset = load_folder(root)
    assert (dataset.name, dataset.class_names, dataset.image_shape) == ("pets", ("cat", "dog"), (3, 8, 8))
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.test.labels.tolist() == [0, 1, 1]
    assert (dataset.mean, dataset.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert dataset.prior_labels is None
    names = [name for name in SAMPLES if name.startswith("train")]
    expected = torch.stack([expected_tensor(root / name) for name in names])
    assert torch.equal(dataset.train.images(chunk=2), expected)
    some = torch.tensor([4, 0, 0, 3])
    assert torch.equal(dataset.train.load(some), expected[some])
    assert dataset.train.load(some).dtype == torch.uint8
    assert dataset.train.load(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 8, 8)


def test_grey_folder_takes_grey_statistics(root):
    dataset = load_folder(root, channels=1)
    assert dataset.image_shape == (1, 8, 8)
    assert torch.equal(dataset.test.images()[0], expected_tensor(root / "test/cat/0.webp", channels=1))
    assert dataset.mean == pytest.approx([0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406])
    assert load_folder(root, channels=1, mean=[0.5], std=[0.25]).std == (0.25,)


def test_order_survives_many_images(tmp_path):
    for split in ("train", "test"):
        for index in range(40):
            side = 60 if index % 2 else 8  # slow and fast files in turn
            path = tmp_path / split / "only" / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (side, side), index).save(path)
    images = load_folder(tmp_path, channels=1).train.images()
    assert images[:, 0, 0, 0].tolist() == list(range(40))


def test_chosen_classes_keep_their_order_and_prior_labels(root):
    mapping = {"cat": 281, "dog": 207, "unused": 3}
    dataset = load_folder(root, classes=["dog", "cat"], prior_labels=mapping)
    assert dataset.class_names == ("dog", "cat")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert torch.equal(dataset.train.images()[0], expected_tensor(root / "train/dog/0.png"))
    assert dataset.prior_labels == {"dog": 207, "cat": 281}
    assert "unused" in mapping
    write_image(root / "train" / "bird" / "0.png", "RGB", (8, 8), 0)
    assert load_folder(root, classes=["dog"]).class_names == ("dog",)


def test_split_names_and_train_limit(root):
    (root / "test").rename(root / "val")
    dataset = load_folder(root, test="val", train_per_class=2, validation=None)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(dataset.train.images()[1], expected_tensor(root / "train/cat/1.jpg"))
    assert len(load_folder(root, test="val", train_per_class=1, validation=None).test) == 3


def test_exif_orientation_is_honoured(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise_image(8, 8, seed=5).save(root / "train/cat/0.png", exif=exif)
    expected = np.asarray(noise_image(8, 8, seed=5).transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(load_folder(root).train.images()[0].permute(1, 2, 0), expected)


def test_hidden_files_and_stray_files_beside_classes_are_ignored(root):
    before = load_folder(root).fingerprint
    for name in ("train/.DS_Store", "train/cat/.DS_Store", "test/dog/Thumbs.db", "train/labels.csv"):
        (root / name).write_bytes(b"\0")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    assert load_folder(root).fingerprint == before


def test_fingerprint_follows_files_and_settings_but_not_the_place(root, tmp_path):
    before = load_folder(root).fingerprint
    assert load_folder(root).fingerprint == before
    changes = [
        dict(image_size=9),
        dict(channels=1),
        dict(classes=["dog", "cat"]),
        dict(train_per_class=1, validation=None),
    ]
    assert len({before, *(load_folder(root, **change).fingerprint for change in changes)}) == 5
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)  # keeps times of change
    assert load_folder(moved).fingerprint == before
    path = moved / "test/dog/0.gif"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert load_folder(moved).fingerprint != before
    (root / "train/cat/0.png").rename(root / "train/cat/00.png")
    assert load_folder(root).fingerprint != before


def test_wrong_extension_of_a_readable_picture_is_fine(root):
    noise_image(8, 8).save(root / "train/cat/9.jpg", format="PNG")
    assert load_folder(root).train.labels.tolist() == [0, 0, 0, 0, 1, 1]


def test_bytes_after_the_picture_are_fine(root):
    for name in ("train/cat/0.png", "train/cat/1.jpg"):
        with (root / name).open("ab") as file:
            file.write(bytes(40))
    assert len(load_folder(root).train.images()) == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(image_size=0), "dataset.image_size"),
        (dict(channels=4), "dataset.channels"),
        (dict(train_per_class=0, validation=None), "dataset.train_per_class"),
        (dict(folder=""), "dataset.folder"),
        (dict(test="validation"), "dataset.test"),
        (dict(train="fit"), "dataset.train"),
        (dict(test="train"), "dataset.test"),
        (dict(classes=[]), "dataset.classes"),
        (dict(classes=["cat", "cat"]), "dataset.classes"),
        (dict(classes=["cat", "cow"]), "dataset.classes: no class folder 'cow'"),
        (dict(prior_labels={"cat": 1}), "dataset.prior_labels: expected a label for every class, got none for 'dog'"),
        (dict(prior_labels={"cat": 1, "dog": 1}), "dataset.prior_labels"),
        (dict(prior_labels={"cat": 1, "dog": -1}), "dataset.prior_labels"),
        (dict(prior_labels={"cat": 1, "dog": "x"}), "dataset.prior_labels"),
        (dict(mean=[0.5]), "dataset.mean"),
        (dict(std=[0.5, 0.5]), "dataset.std"),
        (dict(std=[0.5, 0.5, 0.0]), "dataset.std"),
    ],
)
def test_bad_argument_names_its_key(root, changes, says):
    assert message_of(load_folder, root, **changes).startswith(says)


def test_missing_folder_is_named(tmp_path):
    message = message_of(load_folder, tmp_path / "nowhere")
    assert message.startswith("dataset.folder")
    assert str(tmp_path / "nowhere") in message


def test_missing_subfolder_lists_what_is_there(root):
    (root / "test").rename(root / "val")
    message = message_of(load_folder, root)
    assert message.startswith("dataset.test")
    assert "train, val" in message
    assert str(root) in message


def test_differing_class_folders_are_named(root):
    write_image(root / "train" / "bird" / "0.png", "RGB", (8, 8), 0)
    (root / "test" / "cat").rename(root / "test" / "cow")
    message = message_of(load_folder, root)
    assert message.startswith("dataset.folder")
    assert "only in train: 'bird', 'cat'" in message
    assert "only in test: 'cow'" in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_class_is_named(root, split):
    for path in (root / split / "dog").iterdir():
        path.unlink()
    (root / split / "dog" / ".DS_Store").touch()
    message = message_of(load_folder, root)
    assert message.startswith("dataset.folder")
    assert str(root / split / "dog") in message
    assert "no images" in message


def test_no_class_folders_at_all(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    message = message_of(load_folder, tmp_path)
    assert str(tmp_path / "train") in message
    assert "one folder a class" in message


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train/cat/notes.txt", b"hello", "is not an image file"),
        ("test/dog/notes.txt", b"hello", "is not an image file"),
        ("train/cat/fake.jpg", b"hello", "whatever its name says"),
        ("test/cat/fake.png", b"", "whatever its name says"),
        ("test/cat/fake.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image file"),
        ("test/cat/fake.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "whatever its name says"),
    ],
)
def test_file_that_is_no_image_is_named(root, name, content, says):
    (root / name).write_bytes(content)
    message = message_of(load_folder, root)
    assert message.startswith("dataset.folder")
    assert str(root / name) in message
    assert says in message


def test_folder_in_a_class_folder_is_named(root):
    (root / "train/cat/images").mkdir()
    message = message_of(load_folder, root)
    assert message.startswith("dataset.folder")
    assert f"{root / 'train/cat/images'} is a folder" in message


@pytest.mark.parametrize("name", [*SAMPLES, "test/cat/x.jpg", "test/cat/x.png", "train/dog/x.tiff"])
@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_truncated_image_is_named_at_construction(root, name, keep):
    if not (root / name).exists():
        write_image(root / name, "RGB", (40, 40), 0)
    whole = (root / name).read_bytes()
    (root / name).write_bytes(whole[: int(len(whole) * keep)])
    message = message_of(load_folder, root)
    assert message.startswith("dataset.folder")
    assert str(root / name) in message
    assert "truncated" in message


@pytest.mark.parametrize("name", ["test/cat/x.jpg", "test/cat/x.png"])
@pytest.mark.parametrize("cut", [1, 2, 12])
def test_a_missing_end_marker_alone_is_noticed(root, name, cut):
    write_image(root / name, "RGB", (40, 40), 0)
    (root / name).write_bytes((root / name).read_bytes()[:-cut])
    assert str(root / name) in message_of(load_folder, root)


def test_several_bad_files_are_counted(root):
    for name in ("train/cat/5.png", "train/dog/5.png", "test/dog/5.png"):
        (root / name).write_bytes(b"no")
    message = message_of(load_folder, root)
    assert str(root / "train/cat/5.png") in message
    assert "bad files in all: 3" in message


def test_no_file_escapes_the_check(root):
    good, bad = root / "train/cat/0.png", root / "bad.png"
    bad.write_bytes(b"no")
    message = message_of(check_files, [good] * 256 + [bad] + [good] * 255 + [bad])
    assert "bad files in all: 2" in message


def test_damage_inside_a_file_is_named_when_decoding(root):
    path = root / "train/cat/0.png"
    content = bytearray(path.read_bytes())
    start = content.index(b"IDAT") + 4
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    dataset = load_folder(root)
    message = message_of(dataset.train.images)
    assert message.startswith("dataset.folder")
    assert str(path) in message


def test_image_that_vanished_is_named_when_decoding(root):
    dataset = load_folder(root)
    (root / "train/dog/1.png").unlink()
    assert str(root / "train/dog/1.png") in message_of(dataset.train.images)


def test_floating_point_pixels_are_refused(root):
    Image.fromarray(np.ones((8, 8), np.float32)).save(root / "train/cat/7.tiff")
    message = message_of(load_folder, root)
    assert str(root / "train/cat/7.tiff") in message
    assert "mode F" in message


def test_inputs_are_not_modified_and_no_pixels_are_read(root, monkeypatch):
    monkeypatch.setattr(folder_module, "load_images", lambda *_: pytest.fail("decoded at construction"))
    classes, mapping, mean = ["dog", "cat"], {"cat": 1, "dog": 2}, [0.1, 0.2, 0.3]
    load_folder(root, classes=classes, prior_labels=mapping, mean=mean)
    assert (classes, mapping, mean) == (["dog", "cat"], {"cat": 1, "dog": 2}, [0.1, 0.2, 0.3])
