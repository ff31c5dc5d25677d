"""Objects of a COCO-format set as labeled images: fine classes, or their supercategories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from downstream.retrieval.datasets.labeled_images import (
    Item,
    LabeledImages,
    Split,
    collect,
    halves,
)
from pretrain.core.errors import InputError
from pretrain.datasets.readers.coco import read as read_coco

Classes = Literal["fine", "coarse"]


def read(
    annotations: Path,
    images: Path,
    *,
    classes: Classes = "fine",
    train_classes: int | None = None,
    min_side: float = 16.0,
    context: float = 0.1,
) -> LabeledImages:
    """Every box of at least ``min_side`` px, grown by ``context`` on each side, is an image.

    The first ``train_classes`` classes in the order of the file are trained on (by default half
    of them), the others tested; with ``coarse`` the classes are the supercategories.

    Args:
        annotations: COCO-format instances.
        images: folder of their images.
        classes: ``fine``, the categories, or ``coarse``, the ``supercategory`` of each.
        train_classes: see above.
        min_side: px; boxes with a shorter side are left out.
        context: share of its extent by which a box grows on every side.

    Raises:
        InputError: the set cannot be read, or a category lacks its supercategory.
    """
    from downstream.retrieval.objects import choose_objects, with_context  # which loads torch

    report = read_coco(annotations, images, on_bad_box="drop")
    objects = choose_objects(report, min_side=min_side, max_per_category=None)
    names = class_names(objects.categories, annotations, classes)
    present = {names[int(label)] for label in objects.labels}
    order = [name for name in dict.fromkeys(names) if name in present]
    parts: dict[str, Split] = halves(order, train_classes, annotations)
    items = []
    for image in np.unique(objects.image):
        record = objects.records[image]
        size = (record.width, record.height)
        rows = np.flatnonzero(objects.image == image)
        boxes = with_context(objects.boxes[rows], context, size).tolist()
        for (x1, y1, x2, y2), label in zip(boxes, objects.labels[rows], strict=True):
            name = names[label]
            items.append(Item(record.file_name, name, parts[name], (x1, y1, x2, y2), size))
    return collect("crops", images, items)


def class_names(categories: Sequence[str], annotations: Path, classes: Classes) -> list[str]:
    """The class of each category: itself, or its supercategory.

    Raises:
        InputError: a category lacks its supercategory.
    """
    if classes == "fine":
        return list(categories)
    document = json.loads(annotations.read_text(encoding="utf-8"))
    above = {
        category["name"]: category["supercategory"]
        for category in document["categories"]
        if isinstance(category.get("supercategory"), str) and category["supercategory"]
    }
    lacking = [name for name in categories if name not in above]
    if lacking:
        raise InputError(
            f"{annotations}: category '{lacking[0]}' has no 'supercategory'; take the fine classes"
        )
    return [above[name] for name in categories]
