"""COCO average precision of boxes and masks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downstream.detection.coco.backends import Precision, choose, precision_table
from downstream.detection.coco.coco_results import (
    Detection,
    Truth,
    of_kind,
    read_detections,
    read_truth,
)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KINDS = ("bbox", "segm")


@dataclass(frozen=True)
class Scores:
    """Average precision of one kind, in percent.

    Attributes:
        metrics: by name of ``METRICS``; a size without objects is left out.
        by_category: AP by category name; a category without objects is left out.
        precision: (10, 101, K, 4), COCO's table in [0, 1]: IoU thresholds, recalls 0, 0.01 to 1,
            categories by ascending id, sizes all, small, medium, large; -1 where there are no
            objects.
    """

    metrics: dict[str, float]
    by_category: dict[str, float]
    precision: Precision


def evaluate(
    annotations: Path | Truth,
    detections: Path | Sequence[Detection],
    kinds: Sequence[str] = KINDS,
    backend: str = "auto",
) -> dict[str, Scores]:
    """AP over IoU 0.50:0.95 and its parts, at most 100 detections of a category in an image.

    Args:
        annotations: a set in COCO's format, or its file.
        detections: entries of COCO's result format, or their file.
        kinds: ``bbox``, ``segm`` or both.
        backend: ``hotcoco``, ``faster-coco-eval``, ``pycocotools``, or ``auto``: the fastest of
            them that is installed.

    Returns:
        Scores by kind. Without any detection AP is 0.

    Raises:
        InputError: a file or an entry is not usable, or the backend is not installed.
    """
    backend = choose(backend)
    truth = read_truth(annotations)
    entries = read_detections(detections, truth)
    names = [str(category["name"]) for category in truth["categories"]]
    return {
        kind: summarize(precision_table(truth, of_kind(truth, entries, kind), kind, backend), names)
        for kind in kinds
    }


def summarize(precision: Precision, names: Sequence[str]) -> Scores:
    """COCO's numbers of its precision table; ``names`` are the categories'."""
    parts = {
        "AP": precision[..., 0],
        "AP50": precision[0, ..., 0],
        "AP75": precision[5, ..., 0],
        "APs": precision[..., 1],
        "APm": precision[..., 2],
        "APl": precision[..., 3],
    }
    every = {name: _mean(part) for name, part in parts.items()}
    single = {name: _mean(precision[:, :, k, 0]) for k, name in enumerate(names)}
    return Scores(
        {name: value for name, value in every.items() if math.isfinite(value)},
        {name: value for name, value in single.items() if math.isfinite(value)},
        precision,
    )


def _mean(part: Precision) -> float:
    """In percent; NaN where there is nothing to measure, whose sign in the table is -1."""
    valid = part[part > -1]
    return 100.0 * float(valid.mean()) if valid.size else math.nan


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
