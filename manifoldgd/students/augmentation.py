"""Augmentation of whole batches, in torch, from an explicit generator.

An :class:`Augmentation` maps float images ``[B, C, H, W]`` to float images of the same count. ``space`` says what it
expects: ``"unit"`` for pixel values in [0, 1] before normalisation, ``"normalised"`` for zero mean and unit variance,
where the zeros that fill a shifted image are the mean colour. Each image gets parameters of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import Annotated, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from manifoldgd.errors import require
from manifoldgd.ranges import Range, Share, checked

Space = Literal["unit", "normalised"]
Factor = Annotated[float, Range("[0, 10]")]  # on colours
DSA_OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
GEOMETRIC = ("crop", "flip", "scale", "rotate")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Principal axes of ImageNet's colours in [0, 1], and the standard deviations along them (Krizhevsky et al. 2012, 4.1).
COLOUR_VARIANCES = (0.2175, 0.0188, 0.0045)
COLOUR_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


class Augmentation(Protocol):
    """What a training protocol asks of an augmentation."""

    space: ClassVar[Space]

    def __call__(self, images: Tensor, generator: Generator, size: tuple[int, int]) -> Tensor:
        """Float images ``[B, C, H, W]`` -> augmented ones ``[B, C, *size]``; the input stays as it is."""
        ...

    def without_flip(self) -> Augmentation:
        """The same for images whose mirror image belongs to another class."""
        ...


@cache
def constant(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device, copied there once."""
    with torch.inference_mode(False):  # whoever asks first, they may meet autograd later
        return torch.tensor(values, dtype=dtype).to(device)


def _uniform(images: Tensor, generator: Generator, *limits: tuple[float, float]) -> tuple[Tensor, ...]:
    """One draw for each image and pair of limits, each ``[B, 1, 1, 1]``, uniform in [low, high).

    They come from the host, so that they are the same on every device, in one copy.
    """
    draws = [
        low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator, dtype=images.dtype)
        for low, high in limits
    ]
    return torch.stack(draws).to(images.device).unbind()


def _integers(images: Tensor, generator: Generator, *limits: tuple[int, int]) -> tuple[Tensor, ...]:
    """One integer for each image and pair of limits, each ``[B]``, uniform in low ... high, both included."""
    draws = [torch.randint(low, high + 1, (len(images),), generator=generator) for low, high in limits]
    return torch.stack(draws).to(images.device).unbind()


def resample(
    images: Tensor,
    matrices: Tensor,
    size: tuple[int, int] | None = None,
    *,
    outside: Literal["zeros", "border"] = "zeros",
) -> Tensor:
    """Bilinear resampling along affine maps.

    Args:
        images: ``[B, C, H, W]``.
        matrices: ``[B, 2 or 3, 3]``, from output to input coordinates, each running over [-1, 1] between image borders.
        size: Height and width of the output, those of the input by default.
        outside: What lies beyond the centres of the outermost pixels.
    """
    shape = (*images.shape[:2], *(size or images.shape[2:]))
    grid = F.affine_grid(matrices[:, :2], list(shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=outside, align_corners=False)


def erase_squares(images: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero a rectangle of ``size`` (height, width) whose first row and column are ``rows`` and ``columns`` ``[B]``.

    It may stick out of the image.
    """
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device) - rows[:, None]
    x = torch.arange(width, device=images.device) - columns[:, None]
    inside = ((y >= 0) & (y < size[0]))[:, :, None] & ((x >= 0) & (x < size[1]))[:, None]
    return images.masked_fill(inside[:, None], 0.0)


@checked
class DSA:
    """Differentiable Siamese augmentation as used to train students (Zhao & Bilen 2021, arXiv 2102.08259, Table 9).

    With ``mode="single"`` one operation, drawn anew, is applied to the whole batch, each image with parameters of its
    own: this is what the authors' evaluation does. With ``mode="all"`` every operation acts, in the order of
    ``DSA_OPERATIONS``; crop, flip, scale and rotate are then one resampling instead of up to four, which blurs less
    and keeps what an earlier operation would have pushed across the border.

    Args:
        operations: Any of ``DSA_OPERATIONS``. Leave out ``flip`` where mirror images change the class, as for digits.
        mode: ``"single"`` or ``"all"``.
        flip_probability: In [0, 1].
        scale_ratio: At least 1; each axis is scaled by a factor in [1 / ratio, ratio] of the sampling grid.
        rotate_degrees: Largest angle either way.
        crop_ratio: Largest shift either way, as a share of the side.
        cutout_ratio: Side of the erased square, as a share of the image's.
        brightness: Width of the interval around 0 that is added.
        saturation: Largest factor on a pixel's difference to its own grey value; no effect on grey images.
        contrast: Factors on the difference to the image's mean lie in [contrast, contrast + 1].

    Raises:
        UserError: Unknown operation or mode.
    """

    space: ClassVar[Space] = "normalised"

    def __init__(
        self,
        *,
        operations: Sequence[str],
        mode: Literal["single", "all"],
        flip_probability: Share,
        scale_ratio: Annotated[float, Range("[1, 10]")],
        rotate_degrees: Annotated[float, Range("[0, 180]")],
        crop_ratio: Share,
        cutout_ratio: Share,
        brightness: Factor,
        saturation: Factor,
        contrast: Factor,
    ) -> None:
        unknown = [each for each in operations if each not in DSA_OPERATIONS]
        require(
            not unknown,
            f"expected any of {list(DSA_OPERATIONS)}, got {unknown}; correct the name",
            key="operations",
        )
        self.operations = tuple(each for each in DSA_OPERATIONS if each in operations)
        self.mode = mode
        self.flip_probability = flip_probability
        self.scale_ratio = scale_ratio
        self.rotate_degrees = rotate_degrees
        self.crop_ratio = crop_ratio
        self.cutout_ratio = cutout_ratio
        self.brightness, self.saturation, self.contrast = brightness, saturation, contrast

    def without_flip(self) -> DSA:
        """The same operations but ``flip``."""
        other = copy(self)
        other.operations = tuple(each for each in self.operations if each != "flip")
        return other

    def __call__(self, images: Tensor, generator: Generator, size: tuple[int, int]) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> augmented ones ``[B, C, *size]``, resized beforehand."""
        if tuple(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        if not self.operations:
            return images
        chosen = self.operations
        if self.mode == "single":
            chosen = (chosen[int(torch.randint(len(chosen), (), generator=generator))],)
        if "color" in chosen:
            images = self._recolour(images, generator)
        shift = self._shift(images, generator) if "crop" in chosen else None
        if "cutout" in chosen:
            images = self._cut_out(images, shift, generator)
        matrices = self._matrices(images, shift, chosen, generator)
        return images if matrices is None else resample(images, matrices)

    def _recolour(self, images: Tensor, generator: Generator) -> Tensor:
        limits = (-self.brightness / 2, self.brightness / 2), (0.0, self.saturation), (self.contrast, self.contrast + 1)
        brightness, saturation, contrast = _uniform(images, generator, *limits)
        images = images + brightness
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * saturation + grey
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * contrast + mean

    def _shift(self, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Whole pixels ``[B]`` by which output row and column 0 lie inside the input."""
        rows, columns = (int(side * self.crop_ratio + 0.5) for side in images.shape[2:])
        down, right = _integers(images, generator, (-rows, rows), (-columns, columns))
        return down, right

    def _cut_out(self, images: Tensor, shift: tuple[Tensor, Tensor] | None, generator: Generator) -> Tensor:
        """Erase a square; its place counts in the shifted image when a crop is still to come."""
        sides = images.shape[2:]
        sizes = [int(side * self.cutout_ratio + 0.5) for side in sides]
        limits = [(0, side - size % 2) for side, size in zip(sides, sizes, strict=True)]
        drawn = _integers(images, generator, *limits)
        places = [place - size // 2 for place, size in zip(drawn, sizes, strict=True)]
        if shift is not None:
            places = [place + by for place, by in zip(places, shift, strict=True)]
        return erase_squares(images, places[0], places[1], (sizes[0], sizes[1]))

    def _matrices(
        self, images: Tensor, shift: tuple[Tensor, Tensor] | None, chosen: Sequence[str], generator: Generator
    ) -> Tensor | None:
        """The product crop * flip * scale * rotate as ``[B, 3, 3]``, or ``None`` where none was chosen."""
        if not any(each in GEOMETRIC for each in chosen):
            return None
        height, width = images.shape[2:]
        matrices = torch.eye(3, dtype=images.dtype, device=images.device).repeat(len(images), 1, 1)
        if shift is not None:
            matrices[:, 0, 2], matrices[:, 1, 2] = 2 * shift[1] / width, 2 * shift[0] / height
        if "flip" in chosen:
            (chance,) = _uniform(images, generator, (0, 1))
            matrices[:, 0, 0] *= 1 - 2 * (chance.flatten() < self.flip_probability)
        if "scale" in chosen:
            limits = (1 / self.scale_ratio, self.scale_ratio)
            for axis, factors in enumerate(_uniform(images, generator, limits, limits)):
                matrices[:, :, axis] *= factors[:, :, 0, 0]
        if "rotate" in chosen:
            limit = math.radians(self.rotate_degrees)
            (angles,) = _uniform(images, generator, (-limit, limit))
            matrices = matrices @ rotations(angles.flatten())
        return matrices


def rotations(angles: Tensor) -> Tensor:
    """Rotations ``[B, 3, 3]`` of the plane by ``angles`` ``[B]`` in radians."""
    matrices = torch.eye(3, dtype=angles.dtype, device=angles.device).repeat(len(angles), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angles.cos()
    matrices[:, 0, 1], matrices[:, 1, 0] = -angles.sin(), angles.sin()
    return matrices


@checked
class LargeImage:
    """Random resized crop, flip, colour jitter and PCA lighting: the pipeline of IDC and its successors.

    The aspect ratio of a crop is log-uniform in [3/4, 4/3]. Brightness, contrast and saturation are jittered in this
    fixed order; grey images get brightness and contrast only.

    Args:
        smallest_area: Share of the image that a crop covers at least, in (0, 1].
        flip_probability: In [0, 1].
        jitter: Each colour factor lies in [1 - jitter, 1 + jitter].
        lighting: Standard deviation of the PCA lighting's coefficients.

    Raises:
        UserError: ``smallest_area`` outside (0, 1].
    """

    space: ClassVar[Space] = "unit"

    def __init__(
        self,
        *,
        smallest_area: Annotated[float, Range("(0, 1]")],
        flip_probability: Share,
        jitter: Share,
        lighting: Factor,
    ) -> None:
        self.smallest_area = smallest_area
        self.flip_probability = flip_probability
        self.jitter = jitter
        self.lighting = lighting

    def without_flip(self) -> LargeImage:
        """The same with a flip probability of 0."""
        other = copy(self)
        other.flip_probability = 0.0
        return other

    def __call__(self, images: Tensor, generator: Generator, size: tuple[int, int]) -> Tensor:
        """Images ``[B, C, H, W]`` in [0, 1] -> ``[B, C, *size]``, about in [0, 1]: not clamped, as in IDC."""
        colour = images.shape[1] == 3
        factors = [(1 - self.jitter, 1 + self.jitter)] * (3 if colour else 2)
        aspects = (math.log(3 / 4), math.log(4 / 3))
        limits = (self.smallest_area, 1), aspects, (-1, 1), (-1, 1), (0, 1), *factors
        area, aspect, across, down, chance, brightness, contrast, *rest = _uniform(images, generator, *limits)
        stretch = aspect.flatten().exp().sqrt()
        mirrored = chance.flatten() < self.flip_probability
        places = torch.stack([across.flatten(), down.flatten()])
        images = _cropped(images, area.flatten(), stretch, places, mirrored, size) * brightness
        mean = _grey(images).mean((1, 2, 3), keepdim=True)
        images = torch.lerp(mean, images, contrast)
        if not colour:
            return images
        (saturation,) = rest
        return torch.lerp(_grey(images), images, saturation) + self._light(images, generator)

    def _light(self, images: Tensor, generator: Generator) -> Tensor:
        draws = torch.randn(len(images), 3, generator=generator, dtype=images.dtype) * self.lighting
        shifts = (draws * draws.new_tensor(COLOUR_VARIANCES)) @ draws.new_tensor(COLOUR_AXES).T
        return shifts[:, :, None, None].to(images.device)


def _cropped(
    images: Tensor, area: Tensor, stretch: Tensor, places: Tensor, mirrored: Tensor, size: tuple[int, int]
) -> Tensor:
    """Random crops at another size.

    Args:
        images: ``[B, C, H, W]``.
        area: ``[B]`` shares of the image.
        stretch: ``[B]`` square roots of the aspect ratios.
        places: ``[2, B]`` in [-1, 1], across and down, from one side of the room that is left to the other.
        mirrored: ``[B]`` bool.
        size: height and width of the result.
    """
    # Shares of the sides. Clamping replaces torchvision's ten rejection rounds, which end in a centre crop.
    shares = torch.stack([area.sqrt() * stretch, area.sqrt() / stretch]).clamp(max=1.0)
    room = 1 - shares
    matrices = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
    matrices[:, 0, 0], matrices[:, 1, 1] = shares[0] * (1 - 2 * mirrored), shares[1]
    matrices[:, :, 2] = (room * places).T
    # Crops stay inside the image, but a zoomed one reads closer to its border than the last pixel's centre.
    return resample(images, matrices, size, outside="border")


def _grey(images: Tensor) -> Tensor:
    """Luma ``[B, 1, H, W]`` (ITU-R BT.601) of colour images; the mean of the channels otherwise."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * constant(LUMA, images.dtype, images.device)[:, None, None]).sum(1, keepdim=True)
