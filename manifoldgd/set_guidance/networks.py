"""Networks with random weights, in whose features sets of images are compared.

Random convolutional features tell distributions of images apart well enough to synthesise training sets by them, and
need no training (Zhao & Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, arXiv 2110.04181).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from manifoldgd.dataset import ImageDataset, check_statistics
from manifoldgd.diffusion.protocol import Decode, Need, SetSize
from manifoldgd.machine import half_precision
from manifoldgd.memory import AtOnce
from manifoldgd.randomness import generator
from manifoldgd.ranges import Million, Range, Seed, Width, checked
from manifoldgd.set_guidance.descent import SINGLE, Descent, OnStep, RealSide
from manifoldgd.set_guidance.residual import PixelResidual
from manifoldgd.students.augmentation import Augmentation
from manifoldgd.students.convnets import ConvNet
from manifoldgd.students.network import ImageShape

LEAST_SIDE = 3  # pixels a side of the deepest feature map: depth 3 at 28 pixels, 6 at 224, as in the literature
CHUNK = 256  # real images embedded at once, and their pixels: a network of 128 filters makes 512 MiB of those a layer
CHUNK_PIXELS = 2**20
# Pixel values that gradients flow back through at once: 1,300 images of 28x28, 5 of 256x256 in colour, each of which
# takes a large decoder 1 to 2 GB.
GRADIENT_VALUES = 2**20
KEPT_PARTS = 2  # so many at once keep their activations; 1,500 images of 28x28 take 4 GB and a quarter less time

# Images of a copy that share the operation where an augmentation draws one for all it is given. Small, so that each
# regression sees most operations.
ALIKE = 10


def depth_for(image_shape: ImageShape) -> int:
    """Blocks of a ConvNet for images ``(C, H, W)``: as many halvings as leave :data:`LEAST_SIDE` pixels, at least 1."""
    side = min(image_shape[1:])
    depth = 1
    while side >> (depth + 1) >= LEAST_SIDE:
        depth += 1
    return depth


class RandomNetworks:
    """A fixed pool of ConvNets whose weights were drawn and never trained. Pools of equal seeds are equal.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        count: networks in the pool.
        width: filters of each block.
        mean: per channel, of pixels in [0, 1].
        std: as ``mean``.
        precision: ``32-true``, or ``bf16-mixed`` / ``16-mixed`` for convolutions in half precision.
        seed: of the weights, and of the real images and augmented copies that the networks see; ``None`` is a seed too.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        count: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
        precision: str,
        seed: int | None = None,
    ) -> None:
        self.seed = seed
        self.networks = [random_network(image_shape, width, self.source("weights", index)) for index in range(count)]
        check_statistics(mean, std, image_shape[0])
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        self.precision = precision
        self.at_once = max(1, GRADIENT_VALUES // math.prod(image_shape))  # images

    def __len__(self) -> int:
        return len(self.networks)

    def source(self, *key: int | str) -> torch.Generator:
        """The pool's own draws for a purpose."""
        return generator("matching", *key, *(() if self.seed is None else ("pool", self.seed)))

    def to(self, device: torch.device | str) -> Self:
        """Move the networks, in place."""
        for network in self.networks:
            network.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def embed(self, index: int, pixels: Tensor) -> Tensor:
        """Pixels ``[n, C, H, W]`` in [-1, 1] -> features ``[n, E]`` float32 of one network; differentiable."""
        return self.embed_normalised(index, self.normalised(pixels.add(1).div(2)))

    def normalised(self, images: Tensor) -> Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] -> zero mean and unit variance over the dataset."""
        return (images - self.mean) / self.std

    def augmented(self, images: Tensor, augmentation: Augmentation, source: torch.Generator) -> Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] -> augmented and normalised, as students see them."""
        size = (images.shape[2], images.shape[3])
        if augmentation.space == "unit":
            return self.normalised(augmentation(images, source, size))
        return augmentation(self.normalised(images), source, size)

    def embed_normalised(self, index: int, images: Tensor) -> Tensor:
        """As :meth:`embed`, of images that :meth:`normalised` gave."""
        with half_precision(self.precision, images.device):
            return self.networks[index].features(images).float()


@dataclass(frozen=True)
class AugmentedCopies:
    """Images beside augmented copies of themselves, as students meet a set in the course of their training.

    The augmentation takes :data:`ALIKE` images of a copy at a time, put together at random.

    Attributes:
        count: copies of each image, >= 1.
        augmentation: that makes them; differentiable.
        draw: that chooses them. Equal draws give equal copies.
    """

    count: int
    augmentation: Augmentation
    draw: int

    def __call__(self, networks: RandomNetworks, pixels: Tensor, part: int) -> Tensor:
        """Pixels ``[n, C, H, W]`` in [-1, 1] -> ``[(1 + count) * n, C, H, W]`` normalised, the images first.

        Args:
            networks: whose input the result is.
            pixels: of a part of the set.
            part: its number.
        """
        source = networks.source("copies", self.draw, part)
        images = pixels.add(1).div(2)
        found = [networks.normalised(images)]
        for _ in range(self.count):
            order = torch.randperm(len(images), generator=source)
            mixed = images[order] if self.augmentation.space == "unit" else found[0][order]
            size = (images.shape[2], images.shape[3])
            copy = torch.cat([self.augmentation(some, source, size) for some in mixed.split(ALIKE)])[order.argsort()]
            found.append(networks.normalised(copy) if self.augmentation.space == "unit" else copy)
        return torch.cat(found)


def embed_latents(
    networks: RandomNetworks, index: int, decode: Decode, latents: Tensor, copies: AugmentedCopies | None = None
) -> Tensor:
    """Scaled latents ``[n, C, H, W]`` -> features of their images, differentiable.

    More than ``networks.at_once`` images are taken in parts. The activations of more than :data:`KEPT_PARTS` parts are
    computed again on the way back, so memory does not grow with the set.

    Returns:
        ``[n, E]``, or ``[n, 1 + copies, E]`` with augmented copies of each image.
    """
    each = 1 if copies is None else 1 + copies.count

    def embedded(number: int, part: Tensor) -> Tensor:
        with half_precision(networks.precision, part.device):
            pixels = decode(part).float()
        if copies is None:
            return networks.embed(index, pixels)
        features = networks.embed_normalised(index, copies(networks, pixels, number))
        return features.unflatten(0, (each, -1)).transpose(0, 1)

    parts = latents.split(max(1, networks.at_once // each))
    if len(parts) <= KEPT_PARTS:
        return torch.cat([embedded(number, part) for number, part in enumerate(parts)])
    return torch.cat([checkpoint(embedded, number, part, use_reentrant=False) for number, part in enumerate(parts)])


def feature_size(image_shape: ImageShape, width: int) -> int:
    """``E`` of a random network of so many filters for images ``(C, H, W)``."""
    depth = depth_for(image_shape)
    return width * (image_shape[1] >> depth) * (image_shape[2] >> depth)


@checked
@dataclass(frozen=True, kw_only=True)
class NetworkDescent(Descent):
    """Descent of an energy that looks at images through random networks.

    Attributes:
        networks: random networks in the pool, >= 1.
        width: their filters, >= 1.
        real_per_class: real images of each class that the energy knows, >= 1.
        pool_seed: of the draw of networks and real images. ``None`` is one draw that sets of all seeds share, so that
            the spread between them leaves out what another draw would change.
        residual: what is still changed in the decoded images by the same energy; ``None`` for nothing.
    """

    networks: Annotated[int, Range("[1, 1000]")]  # all are held in memory
    width: Width
    real_per_class: Million
    pool_seed: Seed | None
    residual: PixelResidual | None = None
    random_networks: ClassVar[bool] = True

    @property
    def judges_sets(self) -> bool:
        """Without a rate and a residual there is no energy."""
        return self.rate > 0 or self.residual is not None

    def evaluations(self, steps: int, taken: int) -> int:
        """With those of the residual."""
        latent = super().evaluations(steps, taken) if self.rate > 0 else 0
        return latent + (0 if self.residual is None else self.residual.steps)

    def pool(self, real: RealSide) -> RandomNetworks:
        """The networks, for images of the dataset and on the device; they are students that never train."""
        return RandomNetworks(**self.pool_numbers(real)).to(real.machine.device)

    def pool_numbers(self, real: RealSide) -> dict[str, Any]:
        """The arguments of :class:`RandomNetworks`."""
        dataset = real.dataset
        return {
            "image_shape": dataset.image_shape,
            "count": self.networks,
            "width": self.width,
            "mean": dataset.mean,
            "std": dataset.std,
            "precision": real.machine.student_precision,
            "seed": self.pool_seed,
        }

    @property
    def learned_each(self) -> int:
        """Images that the energy sees for each of the set."""
        return 1

    def memory(self, size: SetSize) -> dict[str, Need]:
        """Of a batch's features besides, and of the pixels that the residual changes."""
        rows = size.rows(self.together)
        features = SINGLE * rows * self.learned_each * feature_size(size.image_shape, self.width)
        needs = super().memory(size) | {
            f"features of {rows * self.learned_each:,} images at once": Need(
                4 * features, f"lower {self._lower} or width of the guidance"
            )
        }
        if self.residual is not None:
            needs[f"the pixels of {rows:,} images at once"] = Need(
                self.residual.held * SINGLE * rows * math.prod(size.image_shape),
                "lower ipc, or leave the residual out (guidance/residual@guidance.then.residual=null)",
            )
        return needs

    @property
    def _lower(self) -> str:
        return "ipc" if self.learned_each == 1 else "ipc, copies"

    def seen(
        self, kind: str, real: RealSide, networks: RandomNetworks, compute: Callable[..., Tensor], parts: int
    ) -> Tensor:
        """What the networks make of real images by :func:`real_means` or :func:`real_features`, from the cache.

        Args:
            kind: as for :meth:`RealSide.cached`.
            real: the real images.
            networks: the pool.
            compute: one of the two functions.
            parts: that it announces.
        """
        numbers = {"networks": self.networks, "width": self.width, "real_per_class": self.real_per_class}
        numbers |= {} if self.pool_seed is None else {"pool_seed": self.pool_seed}

        def make(on_part: OnStep) -> Tensor:
            return compute(networks, real.dataset, self.real_per_class, real.machine.device, on_part)

        return real.cached(kind, numbers, make, parts)


def random_network(image_shape: ImageShape, width: int, source: torch.Generator, classes: int = 1) -> ConvNet:
    """A ConvNet of random weights that do not learn; those of its features do not depend on the classes."""
    network = ConvNet(image_shape, classes, width=width, depth=depth_for(image_shape), generator=source)
    network.eval().requires_grad_(False)
    return network


@torch.no_grad()
def real_means(
    networks: RandomNetworks,
    dataset: ImageDataset,
    per_class: int,
    device: torch.device,
    on_part: Callable[[], None] = lambda: None,
) -> Tensor:
    """Mean features of real training images, ``[P, classes, E]`` float32 on the CPU, for the ``P`` networks.

    Args:
        networks: the pool.
        dataset: its training split is read.
        per_class: images of each class that are averaged, a fixed draw; all of a class that has fewer.
        device: where the networks are.
        on_part: called after each class.
    """
    means, embed = [], _Embedding(networks, device)
    for label in range(len(dataset.class_names)):
        rows = drawn_rows(networks, dataset, label, per_class)
        sums = [torch.zeros((), device=device)] * len(networks)
        for part in rows.split(chunk_of(dataset.image_shape)):
            sums = [total + found.sum(0) for total, found in zip(sums, embed(dataset, part), strict=True)]
        means.append(torch.stack([total / len(rows) for total in sums]).cpu())
        on_part()
    return torch.stack(means, dim=1)


@torch.no_grad()
def real_features(
    networks: RandomNetworks,
    dataset: ImageDataset,
    per_class: int,
    device: torch.device,
    on_part: Callable[[], None] = lambda: None,
) -> Tensor:
    """Features of the images that :func:`real_means` averages, ``[P, N, E]`` float16 on the CPU, class by class.

    ``on_part`` is called after each :func:`chunk_of` images.
    """
    rows = torch.cat([drawn_rows(networks, dataset, label, per_class) for label in range(len(dataset.class_names))])
    features, done, embed = None, 0, _Embedding(networks, device)
    for part in rows.split(chunk_of(dataset.image_shape)):
        for index, each in enumerate(embed(dataset, part)):
            found = each.half().cpu()
            if features is None:
                features = found.new_empty(len(networks), len(rows), found.shape[1])
            features[index, done : done + len(part)] = found
        done += len(part)
        on_part()
    assert features is not None  # every class has images
    return features


def chunk_of(image_shape: ImageShape) -> int:
    """Real images ``(C, H, W)`` that are read and embedded at once."""
    return min(CHUNK, max(1, CHUNK_PIXELS // math.prod(image_shape[1:])))


def real_labels(dataset: ImageDataset, per_class: int) -> Tensor:
    """Class of each row of :func:`real_features`, ``[N]``."""
    counts = dataset.train.labels.bincount(minlength=len(dataset.class_names)).clamp(max=per_class)
    return torch.arange(len(counts)).repeat_interleave(counts)


def drawn_rows(networks: RandomNetworks, dataset: ImageDataset, label: int, count: int) -> Tensor:
    """Positions ``[n]`` of real images of one class."""
    rows = torch.nonzero(dataset.train.labels == label).flatten()
    source = networks.source("real", dataset.class_names[label])
    return rows[torch.randperm(len(rows), generator=source)[:count]]


class _Embedding:
    """Shows real images to all networks of a pool while they are in memory."""

    def __init__(self, networks: RandomNetworks, device: torch.device) -> None:
        self.networks, self.device = networks, device
        self._at_once = AtOnce(CHUNK, "features of real images")

    def __call__(self, dataset: ImageDataset, rows: Tensor) -> Iterator[Tensor]:
        """Features ``[n, E]`` of training images ``[n]``, of one network after the other."""
        pixels = dataset.train.load(rows).to(self.device).float().div(127.5).sub(1)
        for index in range(len(self.networks)):
            yield self._at_once(partial(self.networks.embed, index), pixels)
