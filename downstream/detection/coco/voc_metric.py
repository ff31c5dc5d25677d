"""PASCAL VOC's average precision from detections saved in COCO's result format.

The numbers are those of detectron2's ``PascalVOCDetectionEvaluator``: AP50, AP75, and AP as the
mean over IoU 0.50:0.95 in steps of 0.05, each the mean over categories. For a VOC 2007 test set
the 11-point metric of 2007 is taken at every threshold, as papers on VOC07 report; later years
take the area under the curve. IoU must exceed its threshold, each detection stands for the object
it overlaps most, and difficult objects count neither way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from downstream.detection.coco.coco_results import (
    Detection,
    Truth,
    of_kind,
    read_detections,
    read_truth,
)

Array = npt.NDArray[np.float64]
THRESHOLDS = tuple(range(50, 100, 5))
"""IoU in percent."""


def voc_average_precision(
    annotations: Path | Truth, detections: Path | Sequence[Detection], year: int = 2007
) -> tuple[dict[str, float], dict[str, float]]:
    """AP, AP50 and AP75 in percent, and AP by category.

    Boxes in COCO's form start at 0 and have no last pixel, so that plain overlap equals VOC's,
    whose corners are pixels counted from 1. As detectron2 writes them for VOC, scores are rounded
    to three digits and corners to one.

    Args:
        annotations: in COCO's format; an object with ``difficult``, ``ignore`` or ``iscrowd`` is
            difficult.
        detections: entries of COCO's result format, with boxes.
        year: 2007 has the 11-point metric.

    Raises:
        InputError: a file or an entry is not usable.
    """
    truth = read_truth(annotations)
    entries = of_kind(truth, read_detections(detections, truth), "bbox")
    table: dict[str, list[float]] = {}
    for category in truth["categories"]:
        number = category["id"]
        objects = [a for a in truth["annotations"] if a["category_id"] == number]
        if any(not _difficult(a) for a in objects):
            found = [d for d in entries if d["category_id"] == number]
            table[str(category["name"])] = _category(objects, found, year)
    if not table:
        return {}, {}
    means = 100 * np.array(list(table.values())).mean(axis=0)
    metrics = {"AP": float(means.mean()), "AP50": float(means[0]), "AP75": float(means[5])}
    return metrics, {name: 100 * float(np.mean(row)) for name, row in table.items()}


def _difficult(entry: Detection) -> bool:
    return any(entry.get(key) for key in ("difficult", "ignore", "iscrowd"))


def _category(objects: list[Detection], found: list[Detection], year: int) -> list[float]:
    """AP at every threshold, in [0, 1]."""
    of_image: dict[int, list[Detection]] = {}
    for entry in objects:
        of_image.setdefault(entry["image_id"], []).append(entry)
    boxes = {image: _corners(entries) for image, entries in of_image.items()}
    hard = {image: [_difficult(e) for e in entries] for image, entries in of_image.items()}
    total = sum(not _difficult(entry) for entry in objects)
    order = np.argsort([-round(d["score"], 3) for d in found], kind="stable")
    ranked = [found[place] for place in order]
    overlaps = [_overlaps(d, boxes.get(d["image_id"])) for d in ranked]
    results = []
    for percent in THRESHOLDS:
        taken: set[tuple[int, int]] = set()
        hits: list[int] = []
        for detection, overlap in zip(ranked, overlaps, strict=True):
            image = detection["image_id"]
            best = int(overlap.argmax()) if overlap.size else -1
            if best < 0 or not overlap[best] > percent / 100:
                hits.append(0)
            elif not hard[image][best]:
                hits.append(int((image, best) not in taken))
                taken.add((image, best))
        results.append(_area(np.array(hits, dtype=np.float64), total, year))
    return results


def _corners(entries: list[Detection]) -> Array:
    x, y, width, height = np.array([entry["bbox"] for entry in entries], dtype=np.float64).T
    return np.stack([x, y, x + width, y + height], axis=1)


def _overlaps(detection: Detection, boxes: Array | None) -> Array:
    """IoU with each of ``boxes``."""
    if boxes is None:
        return np.empty(0)
    left, top, right, bottom = np.round(_corners([detection])[0] + [1, 1, 0, 0], 1) - [1, 1, 0, 0]
    width = np.maximum(np.minimum(right, boxes[:, 2]) - np.maximum(left, boxes[:, 0]), 0)
    height = np.maximum(np.minimum(bottom, boxes[:, 3]) - np.maximum(top, boxes[:, 1]), 0)
    inside = width * height
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    overlap: Array = inside / ((right - left) * (bottom - top) + areas - inside)
    return overlap


def _area(hits: Array, total: int, year: int) -> float:
    """Of a ranked list of true (1) and false (0) detections."""
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    recall = true / total
    if year == 2007:
        points = [precision[recall >= point] for point in np.arange(0.0, 1.1, 0.1)]
        return float(sum(part.max() if part.size else 0.0 for part in points) / 11)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())
