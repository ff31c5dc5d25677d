"""Any folder of class folders."""

from __future__ import annotations

from pathlib import Path

from downstream.retrieval.datasets.labeled_images import (
    SPLITS,
    Item,
    LabeledImages,
    Split,
    collect,
    halves,
)
from pretrain.core.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def read(root: Path, train_classes: int | None = None) -> LabeledImages:
    """Read ``CLASS/IMAGE``, or ``SPLIT/CLASS/IMAGE`` with splits train, test, query, gallery.

    Without splits the first ``train_classes`` classes by name are trained on (by default half of
    them), the others tested: no class is in both.

    Raises:
        InputError: there are no such folders, or one class is alone.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give one that holds a folder of images a class")
    names = class_folders(root)
    if names and set(names) <= set(SPLITS):
        items = [
            Item(f"{split}/{label}/{file}", label, split)
            for split in SPLITS
            for label in class_folders(root / split)
            for file in image_files(root / split / label)
        ]
    else:
        filled = [name for name in names if image_files(root / name)]
        parts: dict[str, Split] = halves(filled, train_classes, root)
        items = [
            Item(f"{label}/{file}", label, parts[label])
            for label in filled
            for file in image_files(root / label)
        ]
    if not items:
        raise InputError(f"{root}: no images in class folders; expected CLASS/IMAGE.jpg")
    return collect("folder", root, items)


def class_folders(folder: Path) -> list[str]:
    """Names of the folders inside, sorted; hidden ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def image_files(folder: Path) -> list[str]:
    """Names of the images inside, sorted.

    Hidden files are left out: macOS leaves a ``._NAME.jpg``, which is no image, beside a file.
    """
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
