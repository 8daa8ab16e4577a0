"""The part of timm that students use, with one tiny model of convolutions and one that is built for a size."""

import sys
import types

import torch
from torch import nn


class Convolutional(nn.Module):
    """Batch norm and dropout, which behave otherwise in tests than in training; a hidden layer in its head."""

    def __init__(self, num_classes, in_chans, pretrained=False):
        super().__init__()
        assert not pretrained
        self.body = nn.Sequential(nn.Conv2d(in_chans, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.num_features, self.head_hidden_size = 24, 5
        self.hidden, self.drop, self.fc = nn.Linear(24, 5), nn.Dropout(0.5), nn.Linear(5, num_classes)

    def forward_features(self, x):
        return self.body(x)

    def forward_head(self, x, pre_logits=False):
        x = self.drop(self.hidden(x.flatten(1)).relu())
        return x if pre_logits else self.fc(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class Sized(nn.Module):
    """Takes images of the size that it was built for."""

    def __init__(self, num_classes, in_chans, pretrained=False, img_size=(224, 224)):
        super().__init__()
        if min(img_size) < 8:
            raise AssertionError(f"img_size {img_size}\nis too small")
        self.num_features = 3
        self.embed, self.fc = nn.Linear(in_chans * img_size[0] * img_size[1], 3), nn.Linear(3, num_classes)

    def forward_features(self, x):
        return self.embed(x.flatten(1))

    def forward_head(self, x, pre_logits=False):
        return x if pre_logits else self.fc(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


MODELS = {"tiny_conv": Convolutional, "tiny_vit": Sized}


def put_in_place(monkeypatch):
    """Let ``import timm`` find this."""
    module = types.ModuleType("timm")
    module.create_model = lambda name, **numbers: MODELS[name](**numbers)
    module.is_model = lambda name: name in MODELS
    module.list_models = lambda pattern: [name for name in MODELS if pattern.strip("*") in name]
    monkeypatch.setitem(sys.modules, "timm", module)


def batch_norm_trains(network):
    """Whether the first batch norm of a network uses the batch's own statistics."""
    return next(each for each in network.modules() if isinstance(each, torch.nn.BatchNorm2d)).training
