"""Student networks by name: those of the field's tables, and any model of timm."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from manifoldgd.errors import UserError, require
from manifoldgd.students.convnets import MLP, VGG, AlexNet, ConvNet, LeNet
from manifoldgd.students.network import ImageShape, Network, seeded
from manifoldgd.students.resnets import ResNet, ResNetAP
from manifoldgd.students.vit import ViT

TIMM = "timm:"  # before the name of one of timm's models, where an architecture is named


class TimmNetwork(Network):
    """A model of the library timm, untrained, with timm's own initial weights.

    Args:
        image_shape: Channels, height, width of the input; a model that is built for one size is built for this one.
        model: Its name in ``timm.list_models()``.

    Raises:
        UserError: timm cannot be imported, knows no such model, or does not build it for such images.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, *, model: str, generator: torch.Generator) -> None:
        super().__init__()
        timm = timm_library(model)
        channels, height, width = image_shape
        numbers = {"pretrained": False, "in_chans": channels, "num_classes": num_classes}
        with seeded(generator):
            try:
                try:
                    self.model = timm.create_model(model, img_size=(height, width), **numbers)
                except TypeError:  # a network of convolutions takes images of any size, and no such argument
                    self.model = timm.create_model(model, **numbers)
            except Exception as error:  # whatever a model raises at sizes that it is not made for
                reason = " ".join(str(error).split())
                raise UserError(
                    f"timm does not build {model} for images of {channels}x{height}x{width} ({reason}); choose "
                    "another model or another size",
                    "name",
                ) from error
        self.embedding_size = getattr(self.model, "head_hidden_size", None) or self.model.num_features

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, what goes into the model's last linear layer."""
        return self.model.forward_head(self.model.forward_features(x), pre_logits=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> logits ``[B, num_classes]``."""
        return self.model(x)


def timm_library(model: str) -> Any:
    """The module timm, which has a model of this name.

    Raises:
        UserError: It cannot be imported, or has no such model.
    """
    try:
        timm = importlib.import_module("timm")
    except Exception as error:  # timm imports torchvision, which raises what it likes beside another torch
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{model} is a model of timm, which cannot be imported ({reason}); install it with "
            "`pip install 'manifoldgd[timm]'`, with a torchvision that fits torch, or choose another student",
            "name",
        ) from error
    near = timm.list_models(f"*{model}*")[:5]
    require(
        timm.is_model(model),
        f"expected a model of timm, got {model!r}{f', near {near}' if near else ''}; `timm.list_models()` names all",
        key="name",
    )
    return timm


ARCHITECTURES: dict[str, type[Network]] = {
    "convnet": ConvNet,
    "resnet": ResNet,
    "resnet_ap": ResNetAP,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg": VGG,
    "vit": ViT,
}


def check_architecture(architecture: str) -> None:
    """Raise :class:`UserError` unless there is such an architecture; a model of timm is looked up when it is built."""
    require(
        architecture in ARCHITECTURES or architecture.startswith(TIMM),
        f"expected one of {sorted(ARCHITECTURES)} or {TIMM}MODEL, got {architecture!r}; choose one",
        key="architecture",
    )


def build_network(
    architecture: str,
    width: int | None,
    depth: int | None,
    image_shape: ImageShape,
    num_classes: int,
    generator: torch.Generator,
) -> Network:
    """A fresh network; see the classes for what they raise. A model of timm has its own width and depth."""
    if architecture.startswith(TIMM):
        model = architecture.removeprefix(TIMM)
        return TimmNetwork(image_shape, num_classes, model=model, generator=generator)
    kind: Any = ARCHITECTURES[architecture]
    return kind(image_shape, num_classes, width=width, depth=depth, generator=generator)


def network_name(architecture: str, width: int | None, depth: int | None) -> str:
    """What tables call a network, for instance ``ConvNet-3``; what is not the literature's is named beside it."""
    if architecture.startswith(TIMM):
        return f"{architecture.removeprefix(TIMM)} (timm)"
    kind = ARCHITECTURES[architecture]
    remarks = [] if width == kind.usual_width else [f"width {width}"]
    if kind.usual_depth is not None and depth != kind.usual_depth:
        remarks.append(f"depth {depth}")
    label = kind.label if kind.usual_depth is not None else f"{kind.label}-{depth}"
    return f"{label} ({', '.join(remarks)})" if remarks else label
