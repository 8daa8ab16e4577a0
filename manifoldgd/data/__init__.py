"""Labelled image datasets with a training and a test split; the functions here are what ``conf/dataset`` names.

The functions share their names with the modules they live in: ``manifoldgd.data.digits`` is the function, and
``from manifoldgd.data.digits import ...`` still reaches the module.
"""

from manifoldgd.data.arrays import npz
from manifoldgd.data.cifar import cifar10, cifar100
from manifoldgd.data.digits import digits
from manifoldgd.data.fashion_mnist import fashion_mnist
from manifoldgd.data.image_folder import image_folder
from manifoldgd.data.parquet import parquet
from manifoldgd.data.svhn import svhn
from manifoldgd.data.tiny_imagenet import tiny_imagenet
from manifoldgd.data.webdataset import webdataset
from manifoldgd.dataset import ImageDataset, Split

__all__ = [
    "ImageDataset",
    "Split",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "image_folder",
    "npz",
    "parquet",
    "svhn",
    "tiny_imagenet",
    "webdataset",
]
