"""What the tests of datasets share."""

import numpy as np
import pytest
from PIL import Image

from manifoldgd.data import image_folder
from manifoldgd.errors import UserError


def message_of(function, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def noise_image(width, height, mode="RGB", seed=0):
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


SAMPLES = {
    "train/cat/0.png": ("RGB", (12, 9)),
    "train/cat/1.jpg": ("RGB", (30, 17)),
    "train/cat/2.JPEG": ("L", (8, 8)),
    "train/dog/0.png": ("RGBA", (9, 20)),
    "train/dog/1.png": ("P", (16, 16)),
    "test/cat/0.webp": ("RGB", (11, 13)),
    "test/dog/0.gif": ("P", (10, 8)),
    "test/dog/1.bmp": ("RGB", (8, 9)),
}


def write_image(path, mode, size, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = noise_image(*size, seed=seed).quantize(16) if mode == "P" else noise_image(*size, mode, seed=seed)
    image.save(path)


def write_pets(folder):
    """Two splits of cats and dogs, in every file format and kind of pixel that is read."""
    for seed, (name, (mode, size)) in enumerate(SAMPLES.items()):
        write_image(folder / name, mode, size, seed)
    return folder


def load_folder(root, **changes):
    arguments = dict(
        folder=str(root),
        train="train",
        test="test",
        test_labels=None,
        name=None,
        image_size=8,
        channels=3,
        white=None,
        fit=None,
        classes=None,
        prior_labels=None,
        expected_counts=None,
        obtain=None,
        mean=None,
        std=None,
        flip=True,
        test_share=None,
        group_by=None,
        skip_bad=False,
        train_per_class=None,
        validation=None,
    )
    return image_folder(**{**arguments, **changes})
