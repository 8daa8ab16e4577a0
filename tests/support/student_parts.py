"""Students and small data that the tests of students share."""

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from sklearn.datasets import load_digits

CONF = str(Path(__file__).parents[2] / "conf")
MEAN, STD = (0.3053,), (0.3762,)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def student(*overrides, member="convnet3"):
    with initialize_config_dir(CONF, version_base=None):
        config = compose(overrides=[f"+student={member}", *overrides])
    return instantiate(config.student, _convert_="all")


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def hundred_digits():
    """Ten training images a class, and the usual test split: images, labels, images, labels."""
    data = load_digits()
    images = torch.tensor(data.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.tensor(data.target, dtype=torch.int64)
    few = torch.cat([torch.nonzero(labels[:1000] == label)[:10, 0] for label in range(10)])
    return images[few], labels[few], images[1000:], labels[1000:]


def pictures(count=6, channels=3, side=12, seed=0):
    return torch.randn(count, channels, side, side, generator=source(seed))
