"""Networks trained by others, in whose features sets are measured: published Inception, ResNet-18, vision transformers.

Each is read from a file or folder on this machine, weights alone; nothing is downloaded but by a hub id of one's own.
``embed`` takes uint8 images ``[n, C, H, W]``, one channel standing for three, and gives ``[n, E]`` float32 on the CPU.
Values measured in different embeddings never compare; what was measured in which stands in ``metrics.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldgd.archives import load_archive
from manifoldgd.errors import UserError, require
from manifoldgd.files import content_hash
from manifoldgd.finite import check_finite
from manifoldgd.students.inference import centre_view

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]
# Where the files lie that the field measures with, by what reads them.
PUBLISHED = {
    f"{__name__}.Inception": "https://github.com/mseitzer/pytorch-fid/releases, pt_inception-2015-12-05-6726825d.pth",
    f"{__name__}.ResNet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
}


class OwnClassifier:
    """The classifier of the real training split, which :mod:`manifoldgd.pipeline.classifiers` trains and keeps."""


class Embedding:
    """A frozen network and how images are shown to it."""

    layer: ClassVar[str]  # whose output an embedding is
    at_once: ClassVar[int] = 50  # images that are seen at once
    name: str
    size: int  # E
    source: str  # hash of the weights

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def to(self, device: torch.device) -> Embedding:
        """On another device, in place."""
        self.network.to(device)
        return self

    def shown(self, images: Tensor) -> Tensor:
        """uint8 ``[n, 3, H, W]`` -> what the network takes."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """What :meth:`shown` gave -> ``[n, E]``."""
        return self.network(images)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """uint8 ``[n, C, H, W]`` with one channel or three -> ``[n, E]`` float32 on the CPU.

        Raises:
            UserError: another number of channels.
            NotFinite: an output is NaN or infinite.
        """
        require(images.shape[1] in (1, 3), f"embedding: {self.name} sees grey or RGB, got {images.shape[1]} channels")
        device = next(self.network.parameters()).device
        parts = (part.to(device).expand(-1, 3, -1, -1) for part in images.split(self.at_once))
        found = torch.cat([self.features(self.shown(part)).float().cpu() for part in parts])
        check_finite(found, f"embedding {self.name}: the outputs", "its weights are damaged")
        return found

    def describe(self) -> dict[str, Any]:
        """What a result says of it."""
        return {"name": self.name, "size": self.size, "layer": self.layer, "weights": self.source}


def described(embedding: Embedding | OwnClassifier) -> dict[str, Any]:
    """What a record says of an embedding before it is at work."""
    return embedding.describe() if isinstance(embedding, Embedding) else {"name": "classifier"}


# ResNet-18


class _Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Sequential()
        if stride != 1:
            self.downsample.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False)).append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class ResNet18Network(nn.Module):
    """ResNet-18 (He et al. 2016, arXiv 1512.03385), its weights called as torchvision calls them.

    122 entries, 11,689,512 parameters. Gives the spatial mean of the last stage ``[n, 512]``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        for stage, (inputs, outputs) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
            blocks = _Basic(inputs, outputs, 1 if stage == 1 else 2), _Basic(outputs, outputs, 1)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``[n, 3, H, W]`` -> ``[n, 512]``."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean((2, 3))


class ResNet18(Embedding):
    """The ResNet-18 of ImageNet from torchvision's file ``resnet18-f37072fd.pth``.

    Images are scaled to cover 256 pixels, cropped to 224 at the centre and normalised by ImageNet's mean and deviation.

    Args:
        weights: The file.

    Raises:
        UserError: It is not there, or holds something else.
    """

    name, size, layer = "ResNet-18 of ImageNet", 512, "spatial mean of the last stage"

    def __init__(self, *, weights: str) -> None:
        network = ResNet18Network()
        self.source = load_weights(network, weights, PUBLISHED[f"{__name__}.ResNet18"])
        super().__init__(network)

    def shown(self, images: Tensor) -> Tensor:
        """uint8 ``[n, 3, H, W]`` -> normalised ``[n, 3, 224, 224]``."""
        return normalised(centre_view(images.float() / 255, (224, 224), Fraction(8, 7)), MEAN, STD)


# Inception


class _Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, pad: Any = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)  # as TensorFlow pools; torchvision counts the border


class _A(nn.Module):
    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = _Conv(inputs, 48, 1), _Conv(48, 64, 5, pad=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(inputs, 64, 1), _Conv(64, 96, 3, pad=1)
        self.branch3x3dbl_3, self.branch_pool = _Conv(96, 96, 3, pad=1), _Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        triple = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        parts = self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), triple, self.branch_pool(_mean_pool(x))
        return torch.cat(parts, 1)


class _B(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(inputs, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(inputs, 64, 1), _Conv(64, 96, 3, pad=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        triple = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), triple, F.max_pool2d(x, 3, 2)], 1)


class _C(nn.Module):
    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        across: dict[str, Any] = {"kernel": (1, 7), "pad": (0, 3)}
        down: dict[str, Any] = {"kernel": (7, 1), "pad": (3, 0)}
        self.branch1x1, self.branch_pool = _Conv(inputs, 192, 1), _Conv(inputs, 192, 1)
        self.branch7x7_1 = _Conv(inputs, inner, 1)
        self.branch7x7_2, self.branch7x7_3 = _Conv(inner, inner, **across), _Conv(inner, 192, **down)
        self.branch7x7dbl_1 = _Conv(inputs, inner, 1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = _Conv(inner, inner, **down), _Conv(inner, inner, **across)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = _Conv(inner, inner, **down), _Conv(inner, 192, **across)

    def forward(self, x: Tensor) -> Tensor:
        one, two = x, x
        for step in range(1, 4):
            one = getattr(self, f"branch7x7_{step}")(one)
        for step in range(1, 6):
            two = getattr(self, f"branch7x7dbl_{step}")(two)
        return torch.cat([self.branch1x1(x), one, two, self.branch_pool(_mean_pool(x))], 1)


class _D(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = _Conv(inputs, 192, 1), _Conv(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = _Conv(inputs, 192, 1), _Conv(192, 192, (1, 7), pad=(0, 3))
        self.branch7x7x3_3, self.branch7x7x3_4 = _Conv(192, 192, (7, 1), pad=(3, 0)), _Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        two = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), two, F.max_pool2d(x, 3, 2)], 1)


class _E(nn.Module):
    def __init__(self, inputs: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        across: dict[str, Any] = {"kernel": (1, 3), "pad": (0, 1)}
        down: dict[str, Any] = {"kernel": (3, 1), "pad": (1, 0)}
        self.branch1x1, self.branch_pool = _Conv(inputs, 320, 1), _Conv(inputs, 192, 1)
        self.branch3x3_1 = _Conv(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _Conv(384, 384, **across), _Conv(384, 384, **down)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(inputs, 448, 1), _Conv(448, 384, 3, pad=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _Conv(384, 384, **across), _Conv(384, 384, **down)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pairs = self.branch3x3_2a(one), self.branch3x3_2b(one), self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)
        return torch.cat([self.branch1x1(x), *pairs, self.branch_pool(self.pool(x))], 1)


class InceptionNetwork(nn.Module):
    """Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567) as the Frechet Inception distance takes it.

    That is the network of 2015-12-05 with 1,008 outputs and without auxiliary ones; mean poolings leave the border out,
    and the last block pools by maxima. 23,850,960 parameters, called as in the file of pytorch-fid. Gives the spatial
    mean of the last block ``[n, 2048]``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = _Conv(3, 32, 3, 2), _Conv(32, 32, 3)
        self.Conv2d_2b_3x3, self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = (
            _Conv(32, 64, 3, pad=1),
            _Conv(64, 80, 1),
            _Conv(80, 192, 3),
        )
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _A(192, 32), _A(256, 64), _A(288, 64)
        self.Mixed_6a = _B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (
            _C(768, 128),
            _C(768, 160),
            _C(768, 160),
            _C(768, 192),
        )
        self.Mixed_7a = _D(768)
        self.Mixed_7b, self.Mixed_7c = _E(1280, _mean_pool), _E(2048, lambda x: F.max_pool2d(x, 3, 1, 1))
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 3, 299, 299]`` in [-1, 1] -> ``[n, 2048]``."""
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return x.mean((2, 3))


class Inception(Embedding):
    """The network of the Frechet Inception distance (Heusel et al. 2017), ``pt_inception-2015-12-05-6726825d.pth``.

    Images are stretched to 299x299 pixels as TensorFlow 1 did it, without antialiasing and from the corners, and go
    from 0 ... 255 to [-1, 1) by ``(x - 128) / 128``.

    Args:
        weights: The file.

    Raises:
        UserError: It is not there, or holds something else.
    """

    name, size, layer = "Inception of the FID", 2048, "spatial mean of the last block"

    def __init__(self, *, weights: str) -> None:
        network = InceptionNetwork()
        self.source = load_weights(network, weights, PUBLISHED[f"{__name__}.Inception"])
        super().__init__(network)

    def shown(self, images: Tensor) -> Tensor:
        """uint8 ``[n, 3, H, W]`` -> ``[n, 3, 299, 299]``."""
        return (stretched(images.float(), 299) - 128) / 128


def stretched(images: Tensor, side: int) -> Tensor:
    """Bilinear resampling ``[n, C, H, W] -> [n, C, side, side]`` of TensorFlow 1: pixel i lies at i * H / side."""
    for axis in (2, 3):
        length = images.shape[axis]
        places = torch.arange(side, device=images.device, dtype=images.dtype) * (length / side)
        low = places.long().clamp(max=length - 1)
        share = (places - low).view([-1 if each == axis else 1 for each in range(4)])
        first, second = images.index_select(axis, low), images.index_select(axis, (low + 1).clamp(max=length - 1))
        images = first + share * (second - first)
    return images


# Any vision model of transformers


class VisionModel(Embedding):
    """Any vision model of the library transformers, such as ``facebook/dinov2-base`` or ``microsoft/resnet-18``.

    Of a transformer the embedding is the class token of the last layer, of a network of convolutions the spatial mean.
    Size, crop, mean and deviation are those of its ``preprocessor_config.json``; images are scaled by antialiased
    bilinear resampling, where some of these models were trained with bicubic.

    Args:
        model: A folder as ``save_pretrained`` writes it, or an id of the Hugging Face Hub.

    Raises:
        UserError: transformers is not there, or the model is not, or is no vision model.
    """

    layer = "class token, or spatial mean, of the last layer"

    def __init__(self, *, model: str) -> None:
        try:
            from transformers import AutoModel
        except Exception as error:  # whatever the import raises
            raise UserError(
                f"takes transformers, which cannot be imported ({error}); `pip install 'manifoldgd[text]'`", "model"
            ) from error
        try:
            network = AutoModel.from_pretrained(model, use_safetensors=True)
            numbers = _preprocessing(model)
            self.side, self.cover, self.mean, self.std = _seen(numbers)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"expected a folder or a hub id of a vision model with safetensors and preprocessor_config.json, got "
                f"{model!r} ({reason}); download it first",
                "model",
            ) from error
        super().__init__(network)
        self.name = f"{network.config.model_type} {Path(model).name}"
        folder = Path(model)
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        self.source = " ".join(map(content_hash, files)) or str(getattr(network.config, "_commit_hash", None))
        with torch.no_grad():
            self.size = self.features(torch.zeros(1, 3, self.side, self.side)).shape[1]

    def shown(self, images: Tensor) -> Tensor:
        """uint8 ``[n, 3, H, W]`` -> normalised ``[n, 3, side, side]``."""
        return normalised(centre_view(images.float() / 255, (self.side, self.side), self.cover), self.mean, self.std)

    def features(self, images: Tensor) -> Tensor:
        """Normalised ``[n, 3, side, side]`` -> ``[n, E]``."""
        last = self.network(pixel_values=images).last_hidden_state
        return last.mean((2, 3)) if last.ndim == 4 else last[:, 0]


def _preprocessing(model: str) -> Mapping[str, Any]:
    from transformers.utils import cached_file

    path = cached_file(model, "preprocessor_config.json")
    assert path is not None  # only if asked not to raise
    return json.loads(Path(path).read_text("utf-8"))


def _seen(numbers: Mapping[str, Any]) -> tuple[int, Fraction, Any, Any]:
    """Side of what a model sees, by how much images cover it before the crop, mean and deviation."""
    size = numbers.get("size", 224)
    covered = size if isinstance(size, int) else size.get("shortest_edge") or size["height"]
    crop = numbers.get("crop_size", covered) if numbers.get("do_center_crop", "crop_size" in numbers) else covered
    side = crop if isinstance(crop, int) else crop["height"]
    if "crop_pct" in numbers and "crop_size" not in numbers:  # of ConvNeXt and ResNet, which scale by its inverse
        return side, 1 / Fraction(str(numbers["crop_pct"])), numbers["image_mean"], numbers["image_std"]
    return side, Fraction(covered, side), numbers["image_mean"], numbers["image_std"]


def normalised(images: Tensor, mean: Any, std: Any) -> Tensor:
    """``[n, 3, H, W]`` in [0, 1] -> less the mean and over the deviation of each channel."""
    means, deviations = (images.new_tensor(each).view(1, 3, 1, 1) for each in (mean, std))
    return (images - means) / deviations


def load_weights(network: nn.Module, weights: str, where: str) -> str:
    """Fill a network from a state dict on disk, weights only; returns a hash of the file.

    Counters of batches, which older files lack, count for nothing.

    Raises:
        UserError: the file is not there, or its names or shapes are not those of the network.
    """
    file = Path(weights).expanduser()
    require(file.is_file(), f"expected a file, got {weights}, which is not there; get it from {where}", "weights")
    try:
        held = load_archive(file)
        wanted = network.state_dict()
        held = {name: each for name, each in held.items() if not name.endswith("num_batches_tracked")}
        missing = [name for name in wanted if not name.endswith("num_batches_tracked") and name not in held]
        other = [name for name in held if name not in wanted or held[name].shape != wanted[name].shape]
        require(not missing and not other, f"missing {missing[:3]}, unknown or of another shape {other[:3]}")
        network.load_state_dict(held, strict=False)
    except Exception as error:  # whatever a file that is something else raises
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: expected weights from {where}, got something else ({reason})", "weights") from error
    return content_hash(file)
