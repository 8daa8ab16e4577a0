"""Tiny-ImageNet (Stanford CS231n): 200 classes of ImageNet at 64x64, 100,000 + 10,000 images.

Its layout is its own: ``train/<wnid>/images/*.JPEG`` beside boxes, and ``val/images/*.JPEG`` with their classes in
``val/val_annotations.txt``. The test images of the archive have no labels and are not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from manifoldgd.data.image_dataset import ImageOptions, check_options, image_dataset
from manifoldgd.data.image_folder import in_folders, in_list
from manifoldgd.data.label_lists import read_list
from manifoldgd.dataset import ImageDataset
from manifoldgd.errors import require, required


def tiny_imagenet(*, folder: str, **options: Unpack[ImageOptions]) -> ImageDataset:
    """Tiny-ImageNet as its archive is unpacked; its validation images are the test split.

    Args:
        folder: ``tiny-imagenet-200``, or where it lies.
        options: see :class:`manifoldgd.data.image_dataset.ImageOptions`.

    Raises:
        UserError: files are missing or damaged; and see :func:`manifoldgd.data.image_dataset.image_dataset`.
    """
    check_options(**options)
    given = Path(folder).expanduser()
    root = required(
        next((place for place in (given, given / "tiny-imagenet-200") if (place / "wnids.txt").is_file()), None),
        f"expected Tiny-ImageNet with wnids.txt, train and val in {given}, found no wnids.txt; unpack "
        "cs231n.stanford.edu/tiny-imagenet-200.zip and set it to it",
        key="folder",
    )
    names = sorted((root / "wnids.txt").read_text().split())
    if options["classes"] is not None:
        wanted = tuple(map(str, options["classes"]))
        missing = [name for name in wanted if name not in names]
        require(not missing, f"no class {', '.join(missing[:5])} in {root}/wnids.txt; correct it", key="classes")
        names = list(wanted)
    folders = [root / "train" / name / "images" for name in names]
    absent = [place for place in folders if not place.is_dir()]
    require(not absent, f"no folder {absent[:1]}, which wnids.txt names; unpack the archive again", key="folder")
    listed = read_list(root / "val" / "val_annotations.txt")
    test = in_list({root / "val" / "images" / name: class_name for name, class_name in listed.items()}, names)
    return image_dataset("tiny_imagenet", root, names, in_folders(folders), test, **options)
