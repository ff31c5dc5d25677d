"""Sets of objects and detections with everything that evaluation may trip over."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

SIDE = 160


def coded(box: list[float]) -> dict[str, Any]:
    """A filled rectangle with a corner cut off, as RLE with text counts."""
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    x, y, width, height = (round(value) for value in box)
    mask[y : y + height, x : x + width] = 1
    mask[y : y + height // 3, x : x + width // 3] = 0
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def random_box(rng: np.random.Generator) -> list[float]:
    # Small, medium and large objects in COCO's sense, and sides that lie on the limits.
    side = rng.choice([8, 20, 32, 60, 96, 120], 2) + rng.integers(0, 4, 2)
    return [*(float(v) for v in rng.integers(0, SIDE - side)), *(float(v) for v in side)]


def hostile(seed: int, images: int = 12) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth and detections.

    Crowds, images without objects or detections, a category without objects, one without
    detections, equal scores, doubles, more than 100 detections of a category in an image, polygon
    and both forms of RLE masks, annotation id 0, image ids out of order.
    """
    rng = np.random.default_rng(seed)
    categories = [{"id": k, "name": f"c{k}"} for k in (9, 2, 5, 7)]
    entries = [{"id": int(i), "width": SIDE, "height": SIDE} for i in rng.permutation(images) + 50]
    objects: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []

    def detect(image: int, category: int, box: list[float], score: float) -> None:
        moved = np.clip(np.array(box) + rng.integers(-2, 3, 4), 0, SIDE - 1)
        moved[2:] = np.clip(moved[2:], 2, SIDE - moved[:2])
        shape = [float(value) for value in moved]
        entry = {"image_id": image, "category_id": category, "score": score, "bbox": shape}
        detections.append({**entry, "segmentation": coded(shape)})

    for place, entry in enumerate(entries):
        image = entry["id"]
        for _ in range(0 if place == 0 else rng.integers(1, 7)):
            category = int(rng.choice([9, 2, 5]))  # 7 has no object
            box = random_box(rng)
            x, y, width, height = box
            mask: Any = coded(box)
            crowd = bool(rng.random() < 0.2)
            if rng.random() < 0.4:
                mask = [[x, y, x + width, y, x + width, y + height, x, y + height]]
                crowd = False
            objects.append(
                {
                    "id": len(objects),
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": width * height,
                    "iscrowd": int(crowd),
                    "segmentation": mask,
                }
            )
            if place != 1 and category != 5:  # 5 is never detected, image 1 has no detection
                for _ in range(rng.integers(0, 4)):
                    detect(image, category, box, float(rng.integers(1, 8)) / 8)
        if place != 1:
            detect(image, 7, random_box(rng), 0.5)
            detect(image, 2, random_box(rng), 0.5)
    crowded = entries[2]["id"]
    for _ in range(130):
        detect(crowded, 2, random_box(rng), float(rng.integers(1, 20)) / 20)
    content = {"images": entries, "annotations": objects, "categories": categories}
    return content, detections


def reference(content: dict[str, Any], detections: list[dict[str, Any]], kind: str) -> Any:
    """COCO's own evaluation, called as its documentation says."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ground = COCO()
    ground.dataset = copy.deepcopy(content)
    for number, entry in enumerate(ground.dataset["annotations"], 1):
        entry["id"] = number
    ground.createIndex()
    drop = "bbox" if kind == "segm" else "segmentation"
    found = ground.loadRes([{k: v for k, v in d.items() if k != drop} for d in detections])
    evaluation = COCOeval(ground, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation
