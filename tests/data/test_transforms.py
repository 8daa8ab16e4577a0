"""Images to tensors: the crop, pixel formats, orientation."""

import io

import numpy as np
import pytest
import torch
from data_parts import noise_image
from PIL import Image, ImageOps

from manifoldgd.data.transforms import centre_crop, eight_bit, halved, image_tensor, pixel_bytes, upright


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


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(2, 2), (64, 128), (130, 514), (1000, 66), (7, 6), (6, 7), (2, 3)])
def test_halving_by_twos_has_the_bits_of_the_box_filter(mode, size):
    image = noise_image(*size).convert(mode)
    expected = np.asarray(image.resize((size[0] // 2, size[1] // 2), Image.Resampling.BOX))
    assert np.array_equal(np.asarray(halved(image)), expected)
    assert b"".join(pixel_bytes(image)) == np.asarray(image).tobytes()


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
