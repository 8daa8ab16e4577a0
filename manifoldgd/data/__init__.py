"""Labelled image datasets with a training and a test split; the functions here are what ``conf/dataset`` names.

The functions share their names with the modules they live in: ``manifoldgd.data.digits`` is the function, and
``from manifoldgd.data.digits import ...`` still reaches the module.
"""

from manifoldgd.data.digits import digits
from manifoldgd.data.fashion_mnist import fashion_mnist
from manifoldgd.data.image_folder import image_folder
from manifoldgd.dataset import ImageDataset, Split

__all__ = ["ImageDataset", "Split", "digits", "fashion_mnist", "image_folder"]
