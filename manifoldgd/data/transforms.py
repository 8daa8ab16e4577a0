"""From an image file's picture to the square ``uint8`` tensor that the rest of the project sees.

Upright, then 8-bit grey or RGB, then the centre crop with which ADM (Dhariwal, Nichol 2021, arXiv 2105.05233) and DiT
(Peebles, Xie 2022, arXiv 2212.09748) were trained, so that a prior of that family meets the pixels it knows.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

# Part of every dataset fingerprint: change it when the pixels that come out change.
VERSION = "upright-centre-crop-1"

PILLOW_MODE = {1: "L", 3: "RGB"}  # by number of channels

_DEEP_GREY = {"I", "I;16", "I;16B", "I;16L"}  # what Pillow makes of 16-bit grey PNG, PGM and TIFF files
_WITH_ALPHA = {"RGBA", "LA", "PA", "RGBa"}

# What turns the stored picture upright, by EXIF orientation (EXIF 2.3, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_tensor(image: Image.Image, size: int, channels: int) -> Tensor:
    """The picture as the project's tensor: upright, 8 bits a channel, centre-cropped.

    Args:
        image: an image as Pillow opened it; not modified beyond being decoded.
        size: side of the square, in pixels.
        channels: 1 for grey (ITU-R 601 luma), 3 for RGB.

    Returns:
        ``[channels, size, size]`` uint8.
    """
    image.load()  # before the EXIF block is asked for: reading it may decode, and its errors are forgiven
    pixels = np.array(centre_crop(eight_bit(upright(image), channels), size))
    return torch.from_numpy(pixels).reshape(size, size, channels).permute(2, 0, 1).contiguous()


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says.

    ADM and DiT ignore the tag. We honour it: photographs straight from a camera would otherwise lie on their side in
    the distilled set and in front of the student, and files without the tag, nearly all of ImageNet, come out the same.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a garbled EXIF block raises nearly anything, says nothing, and leaves the pixels intact
        return image
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def is_convertible(image: Image.Image) -> bool:
    """Whether the pixels have a stated range (8 or 16 bits, not float or 32 bits); needs only the file's header."""
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
    return image.convert(mode)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The central ``size`` x ``size`` square at the scale where the short side equals ``size``.

    Both sides are halved (box filter, rounded down) while the short one is at least ``2 * size``, which keeps the
    bicubic resize that follows from aliasing; smaller images are enlarged. Odd margins lose the extra pixel at the
    right and bottom. Same operations as ADM's and DiT's preprocessing; Pillow versions differ by a grey level or two,
    as 12.0 always resamples rows of pixels before columns and 13.0 takes the cheaper order.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
