"""CUB-200-2011: 200 species of birds, the first 100 to train on."""

from __future__ import annotations

from pathlib import Path

from downstream.retrieval.datasets.class_folders import image_files
from downstream.retrieval.datasets.labeled_images import Item, LabeledImages, collect, find_root
from pretrain.core.errors import InputError

FOLDER = "CUB_200_2011"
REMEDY = "unpack CUB_200_2011.tgz there (`hcl data prepare cub DIR --archive CUB_200_2011.tgz`)"
TRAIN_CLASSES = 100


def read(root: Path) -> LabeledImages:
    """Read ``images/CLASS/*.jpg``, classes in the order of their numbered folders.

    Raises:
        InputError: the folder is not there or has not 200 classes.
    """
    base = find_root(root, FOLDER, "images", REMEDY)
    images = base / "images"
    classes = sorted(path.name for path in images.iterdir() if path.is_dir())
    if len(classes) != 2 * TRAIN_CLASSES:
        raise InputError(f"{images}: {len(classes)} classes, but CUB-200-2011 has 200; {REMEDY}")
    items = [
        Item(f"images/{label}/{file}", label, "train" if place < TRAIN_CLASSES else "test")
        for place, label in enumerate(classes)
        for file in image_files(images / label)
    ]
    return collect("cub", base, items)
