"""Which detections found an object: COCO's matching, once, kept per image, category and size.

What pycocotools matches in each image is all that average precision of any resampling of the images
needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from downstream.detection.coco.backends import match_images
from downstream.detection.coco.coco_results import (
    Detection,
    Truth,
    of_kind,
    read_detections,
    read_truth,
)

SIZES = 4
"""All, small, medium and large objects."""

THRESHOLDS = 10
"""IoU 0.50 to 0.95."""

Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CategoryMatches:
    """One category's detections, by falling score as COCO ranks them.

    Attributes:
        image: (n,) position of each detection's image.
        score: (n,).
        hit: (4, 10, n) by size and IoU threshold: took an object that counts.
        counts: (4, 10, n): is in the ranking at all.
        objects: (4, images) number of objects that count.
    """

    image: Numbers
    score: npt.NDArray[np.float64]
    hit: Bools
    counts: Bools
    objects: Numbers


@dataclass(frozen=True)
class Matches:
    """All categories of one run's detections.

    Attributes:
        images: ids, ascending.
        names: of the categories, by ascending id.
        categories: in the same order.
    """

    images: tuple[int, ...]
    names: tuple[str, ...]
    categories: tuple[CategoryMatches, ...]


def match(
    annotations: Path | Truth, detections: Path | Sequence[Detection], kind: str = "bbox"
) -> Matches:
    """Match one run's detections.

    Args:
        annotations: a set in COCO's format, or its file.
        detections: entries of COCO's result format, or their file.
        kind: ``bbox`` or ``segm``.

    Raises:
        InputError: a file or an entry is not usable.
    """
    truth = read_truth(annotations)
    entries = of_kind(truth, read_detections(detections, truth), kind)
    names = tuple(str(category["name"]) for category in truth["categories"])
    ids = tuple(image["id"] for image in truth["images"])
    # Category by category, size by size, image by image; None without objects and detections.
    found = iter(match_images(truth, entries, kind, "pycocotools").evalImgs)
    categories = [
        _joined([[next(found) for _ in ids] for _ in range(SIZES)]) for _ in truth["categories"]
    ]
    return Matches(ids, names, tuple(categories))


def _joined(by_size: list[list[dict[str, Any] | None]]) -> CategoryMatches:
    """Join the images, ascending, and rank: equal scores stay in the order of the images."""
    objects = np.array(
        [[0 if m is None else int(np.sum(m["gtIgnore"] == 0)) for m in row] for row in by_size]
    )
    kept = [[m for m in row if m is not None] for row in by_size]
    empty = np.zeros((THRESHOLDS, 0), dtype=bool)

    def join(key: str) -> Bools:
        return np.stack([np.hstack([empty, *(m[key] != 0 for m in row)]) for row in kept])

    counts = ~join("dtIgnore")
    hit = join("dtMatches") & counts
    score = np.array([value for m in kept[0] for value in m["dtScores"]], dtype=np.float64)
    lengths = [0 if m is None else len(m["dtScores"]) for m in by_size[0]]
    image = np.repeat(np.arange(len(lengths)), lengths)
    order = np.argsort(-score, kind="stable")
    return CategoryMatches(image[order], score[order], hit[..., order], counts[..., order], objects)
