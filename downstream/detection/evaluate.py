"""COCO average precision of boxes and masks."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

Detection = dict[str, Any]


def collect(
    outputs: Iterable[Any], inputs: Iterable[Any], category_ids: Sequence[int]
) -> list[Detection]:
    """A model's outputs as entries of COCO's result format, boxes and masks.

    Args:
        outputs: dictionaries with ``instances``, as detectron2's models give them.
        inputs: what the model was given, with ``image_id``.
        category_ids: the file's id of each class.
    """
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json

    detections: list[Detection] = []
    for output, given in zip(outputs, inputs, strict=True):
        entries = instances_to_coco_json(output["instances"].to("cpu"), given["image_id"])
        for entry in entries:
            entry["category_id"] = category_ids[entry["category_id"]]
        detections.extend(entries)
    return detections


def average_precision(
    truth: dict[str, Any], detections: Sequence[Detection], kind: str
) -> tuple[dict[str, float], dict[str, float]]:
    """AP over IoU 0.50:0.95 and its parts, in percent, at most 100 detections an image.

    Args:
        truth: a set in COCO's format.
        detections: entries of COCO's result format.
        kind: ``bbox`` or ``segm``.

    Returns:
        Metrics by name of ``METRICS``, and AP by category name. What no object of the truth can
        measure (a size without objects) is left out. Without any detection AP is 0.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    drop = "bbox" if kind == "segm" else "segmentation"
    # With a box in the entry, COCO would take the box's area for the mask's size class.
    entries = [
        {**{k: v for k, v in d.items() if k != drop}, "id": number}
        for number, d in enumerate(detections, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(truth)
        nothing = {**truth, "annotations": []}
        found = ground.loadRes(entries) if entries else COCO(nothing)
        evaluation = COCOeval_faster(ground, found, iouType=kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # COCO's own sign for 'no such object' is -1.
    values = zip(METRICS, evaluation.stats[: len(METRICS)], strict=True)
    metrics = {name: 100.0 * float(value) for name, value in values if value >= 0}
    names = {category["id"]: category["name"] for category in truth["categories"]}
    # Indices: IoU threshold, recall, category, size (0 is all), detections an image (-1 is 100).
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_category: dict[str, float] = {}
    for k, number in enumerate(evaluation.params.catIds):
        valid = precision[:, :, k][precision[:, :, k] > -1]
        if valid.size:
            by_category[names[number]] = 100.0 * float(valid.mean())
    assert all(math.isfinite(value) for value in metrics.values())
    return metrics, by_category
