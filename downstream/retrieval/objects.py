"""Which objects of a COCO-format set take part, and their crops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.data.decode import ImageError, read_image
from pretrain.data.views import Window, resize, whole_pixels
from pretrain.datasets.records import ReadReport, Record


@dataclass(frozen=True)
class Objects:
    """The chosen objects, image by image in the order of the file.

    Attributes:
        folder: of the images.
        records: images.
        image: int64 (N,), the object's image as a position in ``records``.
        boxes: float32 (N, 4), x1 y1 x2 y2 in px.
        labels: int32 (N,), positions in ``categories``.
        categories: names.
        dropped: how many objects were left out, by reason.
    """

    folder: Path
    records: list[Record]
    image: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    categories: tuple[str, ...]
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.boxes)


def choose_objects(report: ReadReport, *, min_side: float, max_per_category: int | None) -> Objects:
    """Take the boxes of ``report`` whose shorter side has at least ``min_side`` px.

    Of a category with more than ``max_per_category``, that many are taken, spread evenly over
    the file.

    Raises:
        InputError: fewer than 2 objects remain.
    """
    counts = [len(record.boxes) for record in report.records]
    image = np.repeat(np.arange(len(counts)), counts)
    boxes = np.concatenate([np.empty((0, 4), np.float32), *[r.boxes for r in report.records]])
    labels = np.concatenate([np.empty(0, np.int32), *[r.labels for r in report.records]])
    large = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) >= min_side
    kept = np.flatnonzero(large)
    if max_per_category is not None:
        kept = _thin(kept, labels, max_per_category)
    dropped = {
        **report.dropped,
        f"smaller than {min_side:g} px": int((~large).sum()),
        "beyond the limit per category": int(large.sum()) - len(kept),
    }
    if len(kept) < 2:
        left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise InputError(
            f"{report.annotations}: retrieval needs at least 2 objects, found {len(kept)}"
            f"{f' (left out: {left_out})' if left_out else ''}; give a set with more boxes"
        )
    return Objects(
        report.images,
        report.records,
        image[kept],
        boxes[kept],
        labels[kept],
        report.categories,
        dropped,
    )


def _thin(kept: NDArray[np.int64], labels: NDArray[np.int32], limit: int) -> NDArray[np.int64]:
    chosen = []
    for label in np.unique(labels[kept]):
        rows = kept[labels[kept] == label]
        count = min(limit, len(rows))
        chosen.append(rows[np.arange(count) * len(rows) // count])
    return np.sort(np.concatenate(chosen)) if chosen else kept


def with_context(
    boxes: NDArray[np.float32], context: float, size: tuple[int, int]
) -> NDArray[np.int64]:
    """Windows of whole pixels (n, 4): boxes grown on every side by a share of their extent.

    Args:
        boxes: (n, 4) x1 y1 x2 y2.
        context: share of the width added left and right each, of the height above and below.
        size: width and height of the image, which the windows do not leave.
    """
    margin = context * (boxes[:, 2:] - boxes[:, :2])
    grown = np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
    return whole_pixels(grown.astype(np.float32), size)


def cut_objects(
    objects: Objects, rows: NDArray[np.int64], size: int, context: float
) -> list[Tensor]:
    """Crops of some objects, each uint8 (3, size, size); every image is decoded once.

    Raises:
        InputError: an image cannot be read.
    """
    crops: dict[int, Tensor] = {}
    for image in np.unique(objects.image[rows]):
        here = rows[objects.image[rows] == image]
        pixels = read(objects, int(image))
        for row, window in zip(here, windows(objects, here, context), strict=True):
            crops[int(row)] = resize(pixels, window, size)
    return [crops[int(row)] for row in rows]


@dataclass(frozen=True)
class Cut:
    """A view of an object or of a whole scene.

    Attributes:
        view: uint8 (3, size, size).
        is_scene: whether it is a whole image.
        side: square root of the area of the image that it shows, px.
    """

    view: Tensor
    is_scene: bool
    side: float


def cut_all(objects: Objects, size: int, context: float) -> Iterator[Cut]:
    """Every object's crop in order, and whole scenes between them.

    The whole image follows the crops of its objects where its annotations have two or more.

    Raises:
        InputError: an image cannot be read.
    """
    for image in np.unique(objects.image):
        rows = np.flatnonzero(objects.image == image)
        pixels = read(objects, int(image))
        shown = [(window, False) for window in windows(objects, rows, context)]
        if len(objects.records[image].boxes) > 1:
            shown.append(((0, 0, pixels.shape[2], pixels.shape[1]), True))
        for window, is_scene in shown:
            x1, y1, x2, y2 = window
            side = math.sqrt((x2 - x1) * (y2 - y1))
            yield Cut(resize(pixels, window, size), is_scene, side)


def windows(objects: Objects, rows: NDArray[np.int64], context: float) -> list[Window]:
    """The windows of objects that lie in one image."""
    record = objects.records[objects.image[rows[0]]]
    grown = with_context(objects.boxes[rows], context, (record.width, record.height))
    return [(int(x1), int(y1), int(x2), int(y2)) for x1, y1, x2, y2 in grown]


def read(objects: Objects, image: int) -> Tensor:
    """Decode an image of the set to uint8 (3, H, W).

    Raises:
        InputError: it cannot be read.
    """
    record = objects.records[image]
    path = objects.folder / record.file_name
    try:
        return read_image(path, (record.width, record.height))
    except ImageError as error:
        raise InputError(f"{path}: {error}; replace the file") from None
