"""Detectors of known skill on made-up objects: boxes only, no image is needed."""

from __future__ import annotations

from typing import Any

import numpy as np

SIDE = 640


def make_truth(
    images: int, categories: int, objects_an_image: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Objects of all sizes; categories as unequal as in COCO, an object in 50 is a crowd."""
    shares = 1 / (np.arange(categories) + 3)
    numbers = rng.poisson(objects_an_image, images)
    total = int(numbers.sum())
    image = np.repeat(np.arange(1, images + 1), numbers)
    category = rng.choice(categories, total, p=shares / shares.sum()) + 1
    sides = np.exp(rng.uniform(np.log(12), np.log(300), (total, 2)))
    corner = rng.uniform(0, 1, (total, 2)) * (SIDE - sides)
    crowd = rng.random(total) < 0.02
    annotations = [
        {
            "id": n + 1,
            "image_id": int(image[n]),
            "category_id": int(category[n]),
            "bbox": [*corner[n].tolist(), *sides[n].tolist()],
            "area": float(sides[n].prod()),
            "iscrowd": int(crowd[n]),
            "difficulty": float(rng.random()),
        }
        for n in range(total)
    ]
    return {
        "images": [{"id": n, "width": SIDE, "height": SIDE} for n in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"category {k}"} for k in range(1, categories + 1)],
    }


def detect(
    truth: dict[str, Any], skill: float, false_alarms: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Detections of the objects, better placed and surer with more ``skill`` in [0, 1].

    What is hard is hard for every detector, as it is in life: two detectors' APs on the same
    images go together, which is what pairing makes use of.
    """
    detections = []
    categories = len(truth["categories"])

    def add(image: int, category: int, box: list[float], score: float) -> None:
        detections.append(
            {"image_id": image, "category_id": category, "bbox": box, "score": round(score, 4)}
        )

    for entry in truth["annotations"]:
        hard = entry["difficulty"]
        if rng.random() < hard * (1 - skill):
            continue
        box = np.array(entry["bbox"])
        spread = np.tile(box[2:], 2) * 0.15 * (0.3 + hard) * (1.2 - skill)
        moved = box + rng.normal(0, 1, 4) * spread
        moved[2:] = np.maximum(moved[2:], 4)
        sure = np.clip(rng.normal(0.75 - 0.4 * hard + 0.2 * skill, 0.15), 0.05, 1)
        add(entry["image_id"], entry["category_id"], moved.tolist(), float(sure))
    shares = 1 / (np.arange(categories) + 3)
    numbers = rng.poisson(false_alarms, len(truth["images"]))
    image = np.repeat([entry["id"] for entry in truth["images"]], numbers)
    category = rng.choice(categories, len(image), p=shares / shares.sum()) + 1
    boxes = np.concatenate(
        [rng.uniform(0, 400, (len(image), 2)), rng.uniform(12, 240, (len(image), 2))], axis=1
    )
    scores = np.clip(rng.beta(1.2, 5, len(image)), 0.05, 1)
    for n in range(len(image)):
        add(int(image[n]), int(category[n]), boxes[n].tolist(), float(scores[n]))
    return detections
