"""Which detections found an object: COCO's matching, once, kept per image, category and size.

The rules are those of COCO's evaluation: in each image and category the detections, by falling
score, take the object they overlap most among those not yet taken; objects that do not count
(crowds, other sizes) only where no other is left; what is matched to one of those, or unmatched
and of another size, does not count either. What this gives is all that average precision of any
resampling of the images needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from downstream.detection.coco.coco_results import (
    Detection,
    Truth,
    of_kind,
    read_detections,
    read_truth,
)

THRESHOLDS = np.linspace(0.5, 0.95, 10)
# Of all, small, medium and large objects, in px²; both ends belong to a size.
SIZES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
MOST = 100
"""Detections of a category in an image."""

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
    ids = tuple(image["id"] for image in truth["images"])
    position = {number: place for place, number in enumerate(ids)}
    sides = {image["id"]: image for image in truth["images"]}
    objects = _grouped(truth["annotations"])
    found = _grouped(entries)
    images_of: dict[int, list[int]] = {}
    for image, number in sorted({*objects, *found}):
        images_of.setdefault(number, []).append(image)
    categories = []
    for category in truth["categories"]:
        parts = []
        number_of_objects = np.zeros((len(SIZES), len(ids)), dtype=np.int64)
        for image in images_of.get(category["id"], []):
            part = _image(
                objects.get((image, category["id"]), []),
                found.get((image, category["id"]), []),
                kind,
                sides[image],
            )
            parts.append((np.full(len(part[0]), position[image]), *part[:3]))
            number_of_objects[:, position[image]] = part[3]
        categories.append(_ranked(parts, number_of_objects))
    names = tuple(str(category["name"]) for category in truth["categories"])
    return Matches(ids, names, tuple(categories))


def _grouped(entries: Sequence[Detection]) -> dict[tuple[int, int], list[Detection]]:
    groups: dict[tuple[int, int], list[Detection]] = {}
    for entry in entries:
        groups.setdefault((entry["image_id"], entry["category_id"]), []).append(entry)
    return groups


def _ranked(parts: list[tuple[Any, ...]], objects: Numbers) -> CategoryMatches:
    """Join the images, ascending, and rank: equal scores stay in the order of the images."""
    if not parts:
        empty = np.zeros((len(SIZES), len(THRESHOLDS), 0), dtype=bool)
        return CategoryMatches(np.zeros(0, np.int64), np.zeros(0), empty, empty, objects)
    image, score, hit, counts = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")
    return CategoryMatches(image[order], score[order], hit[..., order], counts[..., order], objects)


def _image(
    objects: list[Detection], found: list[Detection], kind: str, sides: dict[str, Any]
) -> tuple[npt.NDArray[np.float64], Bools, Bools, Numbers]:
    """Scores, hits, what counts, and the numbers of objects that count, by size."""
    scores = np.array([entry["score"] for entry in found], dtype=np.float64)
    order = np.argsort(-scores, kind="stable")[:MOST]
    scores, found = scores[order], [found[place] for place in order]
    crowd = np.array([bool(entry["iscrowd"]) for entry in objects], dtype=bool)
    ignored = crowd | _other_size(np.array([entry["area"] for entry in objects]))
    shape = (len(SIZES), len(THRESHOLDS), len(found))
    hit, counts = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    if found:
        shapes, areas = _shapes(found, kind, sides)
        counts[:] = ~_other_size(areas)[:, None, :]
        if objects:
            overlaps = _overlaps(shapes, _shapes(objects, kind, sides)[0], crowd)
            _take(overlaps, crowd, ignored, hit, counts)
    return scores, hit, counts, (~ignored).sum(axis=1)


def _other_size(areas: npt.NDArray[np.float64]) -> Bools:
    """(4, n): is not of the size."""
    outside: Bools = (areas < SIZES[:, :1]) | (areas > SIZES[:, 1:])
    return outside


def _shapes(
    entries: list[Detection], kind: str, sides: dict[str, Any]
) -> tuple[Any, npt.NDArray[np.float64]]:
    """What pycocotools overlaps, and areas as COCO takes them of detections."""
    import pycocotools.mask

    if kind == "bbox":
        boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64)
        return boxes, boxes[:, 2] * boxes[:, 3]
    masks = []
    for entry in entries:
        mask = entry["segmentation"]
        if isinstance(mask, list):
            height, width = sides["height"], sides["width"]
            mask = pycocotools.mask.merge(pycocotools.mask.frPyObjects(mask, height, width))
        masks.append(mask)
    return masks, pycocotools.mask.area(masks).astype(np.float64)


def _overlaps(found: Any, objects: Any, crowd: Bools) -> npt.NDArray[np.float64]:
    import pycocotools.mask

    table: npt.NDArray[np.float64] = pycocotools.mask.iou(found, objects, crowd.astype(np.uint8))
    return table


def _take(
    overlaps: npt.NDArray[np.float64], crowd: Bools, ignored: Bools, hit: Bools, counts: Bools
) -> None:
    """Fill in ``hit`` and ``counts``: all sizes and thresholds at once, detection by detection."""
    free = np.ones((len(SIZES), len(THRESHOLDS), len(crowd)), dtype=bool)
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)[None, :, None]
    last = len(crowd) - 1
    grid = np.indices(hit.shape[:2])
    size, threshold = grid[0], grid[1]
    for number in np.flatnonzero(overlaps.max(axis=1) >= limits.min()):
        row = overlaps[number]
        may = (free | crowd) & (row >= limits)
        counted = may & ~ignored[:, None, :]
        pool = np.where(counted.any(axis=2, keepdims=True), counted, may)
        # Of equal overlaps COCO takes the last.
        best = last - np.where(pool, row, -1.0)[..., ::-1].argmax(axis=2)
        taken = pool.any(axis=2)
        beside = ignored[size, best]
        hit[..., number] = taken & ~beside
        counts[..., number] = np.where(taken, ~beside, counts[..., number])
        free[size[taken], threshold[taken], best[taken]] = False
