"""From a picture, wherever it was stored, to the square ``uint8`` tensor that the rest of the project sees.

Upright, then 8-bit grey or RGB, then the centre crop with which ADM (Dhariwal, Nichol 2021, arXiv 2105.05233) and DiT
(Peebles, Xie 2022, arXiv 2212.09748) were trained, so that a prior of that family meets the pixels it knows. Who must
not lose the borders pads or stretches instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from torch import Tensor

# Part of every dataset fingerprint: change it when the pixels that come out change.
VERSION = "upright-centre-crop-1"

Fit = Literal["pad", "stretch"]

PILLOW_MODE = {1: "L", 3: "RGB"}  # by number of channels

FULL_RANGE = 65535  # white of 16-bit files that use all of their range

_DEEP_GREY = {"I", "I;16", "I;16B", "I;16L"}  # what Pillow makes of 16-bit grey PNG, PGM and TIFF files
# What Pillow turns into 8-bit grey or RGB; it reads some others (LAB), but knows no way from them.
_CONVERTIBLE = {"1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"} | _DEEP_GREY
# By the layout of 16-bit samples that Pillow reads the upper bytes of: the layout by which it reads the lower ones.
_LOWER_BYTES = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
_ROWS = 64  # of a large picture that are worked on at once: they stay in the processor's cache
_WITH_ALPHA = {"RGBA", "LA", "PA", "RGBa"}

# What turns the stored picture upright, by EXIF orientation (EXIF 2.3, tag 0x0112).
_UPRIGHT: dict[Any, Image.Transpose] = {  # by the EXIF orientation, whatever stands there
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableDepthError(ValueError):
    """16-bit samples lie in a way of which Pillow reads the upper bytes only."""


@dataclass(frozen=True)
class Treatment:
    """All that decides a picture's pixels beside the picture."""

    size: int  # side of the square, in pixels
    channels: int  # 1 for grey (ITU-R 601 luma), 3 for RGB
    # Value of 16-bit samples that becomes white, 1 ... 65535; what is above it is white too. None for the full range.
    # Images of 8 bits, and those whose file states its own range (PGM, PPM), do not depend on it.
    white: int | None = None
    fit: Fit | None = None  # None: the central square; pad: the whole on black; stretch: the whole, out of proportion

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the tensors: channels, height, width."""
        return self.channels, self.size, self.size

    def apply(self, image: Image.Image) -> Tensor:
        """See :func:`image_tensor`."""
        return image_tensor(image, self.size, self.channels, self.white, self.fit)

    def of_pixels(self, picture: Image.Image) -> Tensor:
        """The tensor of a picture that is upright and has the right number of 8-bit channels."""
        return square_tensor(picture, self.size, self.fit)


def image_tensor(
    image: Image.Image, size: int, channels: int, white: int | None = None, fit: Fit | None = None
) -> Tensor:
    """The picture as the project's tensor: upright, 8 bits a channel, square.

    Args:
        image: an image as Pillow opened it, not decoded yet; not modified beyond that.
        size: see :class:`Treatment`, as for the others.
        channels: 1 for grey, 3 for RGB.
        white: value of 16-bit samples that becomes white.
        fit: how it becomes square.

    Returns:
        ``[channels, size, size]`` uint8.

    Raises:
        UnreadableDepthError: ``white`` is set, and the image cannot be read at full depth.
    """
    samples = None if white is None else deep_samples(image)
    image.load()  # before the EXIF block is asked for: reading it may decode, and its errors are forgiven
    picture = image if samples is None or white is None else _levelled(samples, white)
    return square_tensor(eight_bit(upright(image, picture), channels), size, fit)


def square_tensor(picture: Image.Image, size: int, fit: Fit | None = None) -> Tensor:
    """A picture of mode ``L`` or ``RGB`` as ``[1 or 3, size, size]`` uint8."""
    if fit == "stretch":
        square = shrunk_to(picture, size, size)
    elif fit == "pad":
        square = padded(picture, size)
    else:
        square = centre_crop(picture, size)
    pixels = np.array(square)
    return torch.from_numpy(pixels).reshape(size, size, -1).permute(2, 0, 1).contiguous()


def deep_samples(image: Image.Image) -> np.ndarray | None:
    """The samples of a 16-bit image whose file does not state what is white; ``None`` for other images.

    Pillow reads 16-bit grey as it is, but of 16-bit colour the upper bytes only. The lower ones are read as the upper
    ones of the other byte order.

    Args:
        image: an image as Pillow opened it, not decoded yet.

    Returns:
        ``[h, w]`` or ``[h, w, bands]`` uint16, as stored, not upright; bands are RGB, RGBA or, for grey with alpha,
        LLLA.

    Raises:
        UnreadableDepthError: the samples lie otherwise (CMYK, planes of their own).
    """
    if image.format == "PPM":
        return None
    if image.mode in _DEEP_GREY:
        return np.asarray(image).astype(np.uint16)
    if not isinstance(image, ImageFile):  # pixels out of an array
        return None
    layouts = {_layout(tile) for tile in image.tile}
    if not any(";16" in layout for layout in layouts):
        return None
    if layouts == {"LA;16B"}:  # four bytes a pixel: those of grey, those of alpha
        grey, low_grey, alpha, low_alpha = np.moveaxis(_decoded_as(image, {"LA;16B": "RGBA"}).astype(np.uint16), -1, 0)
        return np.stack([grey * 256 + low_grey] * 3 + [alpha * 256 + low_alpha], axis=-1)
    if not layouts <= set(_LOWER_BYTES):
        found = ", ".join(sorted(layouts))
        raise UnreadableDepthError(f"16-bit samples of layout {found} cannot be read at full depth")
    low = _decoded_as(image, _LOWER_BYTES)
    return np.asarray(image).astype(np.uint16) * 256 + low


def _layout(tile: Any) -> str:
    """Pillow's name for how the samples of a part of a file lie."""
    return tile.args if isinstance(tile.args, str) else str(tile.args[0]) if tile.args else ""


def _decoded_as(image: ImageFile, layouts: dict[str, str]) -> np.ndarray:
    """The pixels of an image's file, read anew with its samples taken to lie otherwise; the image can be read on."""

    def otherwise(args: Any) -> Any:
        return layouts[args] if isinstance(args, str) else (layouts[args[0]], *args[1:])

    file = image.fp
    assert file is not None
    assert image.format is not None  # it is open, and was read
    place = file.tell()
    file.seek(0)
    with Image.open(file, formats=[image.format]) as other:
        other.tile = [tile._replace(args=otherwise(tile.args)) for tile in other.tile]
        pixels = np.array(other)
    file.seek(place)
    return pixels


def _levelled(samples: np.ndarray, white: int) -> Image.Image:
    """16-bit samples as an 8-bit image in which ``white`` is white."""
    return Image.fromarray(np.rint(np.minimum(samples / white, 1) * 255).astype(np.uint8))


def upright(image: Image.Image, picture: Image.Image | None = None) -> Image.Image:
    """The image, or a ``picture`` made of its pixels, turned as the image's EXIF orientation says.

    ADM and DiT ignore the tag. We honour it: photographs straight from a camera would otherwise lie on their side in
    the distilled set and in front of the student, and files without the tag, nearly all of ImageNet, come out the same.
    """
    picture = image if picture is None else picture
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a garbled EXIF block raises nearly anything, says nothing, and leaves the pixels intact
        return picture
    method = _UPRIGHT.get(orientation)
    return picture if method is None else picture.transpose(method)


def is_convertible(image: Image.Image) -> bool:
    """Whether :func:`eight_bit` knows the kind of pixel, and its range is stated; needs only the file's header."""
    return image.mode in _CONVERTIBLE and has_stated_range(image)


def has_stated_range(image: Image.Image) -> bool:
    """Whether the pixels have 8 or 16 bits, and are not float or of 32 bits; needs only the file's header."""
    return image.mode != "F" and not (image.mode == "I" and image.format == "TIFF")


def eight_bit(image: Image.Image, channels: int) -> Image.Image:
    """The image in Pillow's mode ``L`` or ``RGB``, before any resampling (palette indices cannot be averaged).

    Transparent pixels are laid over white: the colour stored under them is arbitrary, mostly black. 16-bit grey is
    scaled to 8 bits, where Pillow's own conversion cuts everything above 255 off.
    """
    mode = PILLOW_MODE[channels]
    if image.mode in _DEEP_GREY:
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    elif image.mode in _WITH_ALPHA or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image if image.mode == mode else image.convert(mode)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The central ``size`` x ``size`` square at the scale where the short side equals ``size``.

    Both sides are halved (box filter, rounded down) while the short one is at least ``2 * size``, which keeps the
    bicubic resize that follows from aliasing; smaller images are enlarged. Odd margins lose the extra pixel at the
    right and bottom. Same operations as ADM's and DiT's preprocessing; Pillow versions differ by a grey level or two,
    as 12.0 always resamples rows of pixels before columns and 13.0 takes the cheaper order.
    """
    while min(image.size) >= 2 * size:
        image = halved(image)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def halved(picture: Image.Image) -> Image.Image:
    """A picture of mode ``L`` or ``RGB`` at half of both sides, rounded down, by Pillow's box filter.

    Even sides are halved by means of two, along rows and then along columns, each rounded: the same bits in half the
    time, which is most of what a large photograph takes beside its decoding. Of pictures more than twice as high as
    wide Pillow 13 halves the columns first.
    """
    half = picture.width // 2, picture.height // 2
    if picture.width % 2 or picture.height % 2 or picture.height > 2 * picture.width:
        return picture.resize(half, Image.Resampling.BOX)
    result = Image.new(picture.mode, half)
    for top in range(0, picture.height, _ROWS):
        rows = (0, top, picture.width, min(top + _ROWS, picture.height))
        result.paste(picture.reduce((2, 1), rows).reduce((1, 2)), (0, top // 2))
    return result


def pixel_bytes(picture: Image.Image) -> Iterator[bytes]:
    """The pixels of a picture, row by row, in parts."""
    for top in range(0, picture.height, _ROWS):
        yield picture.crop((0, top, picture.width, min(top + _ROWS, picture.height))).tobytes()


def padded(picture: Image.Image, size: int) -> Image.Image:
    """The whole picture in the middle of a black ``size`` x ``size`` square, its long side equal to ``size``."""
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new(picture.mode, (size, size))
    square.paste(shrunk_to(picture, width, height), ((size - width) // 2, (size - height) // 2))
    return square


def shrunk_to(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture at another size, sides halved with a box filter first as in :func:`centre_crop`."""
    while picture.width >= 2 * width and picture.height >= 2 * height:
        picture = halved(picture)
    return picture.resize((width, height), Image.Resampling.BICUBIC)
