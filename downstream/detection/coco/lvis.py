"""LVIS: annotations, and the average precision of its federated evaluation.

An image is labeled exhaustively for some categories only. Detections of a category that an image
was not searched for are left out, and unmatched ones of a category whose objects there are not all
labeled count neither way (Gupta et al. 2019, section 3).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from downstream.detection.coco.coco_results import (
    Detection,
    Truth,
    of_kind,
    read_detections,
    read_truth,
)
from downstream.detection.coco.evaluate import summarize
from downstream.detection.coco.sets import CocoSet, from_content
from pretrain.core.errors import InputError

LIMIT = 300
"""Detections of an image that count."""

FREQUENCIES = ("r", "c", "f")
"""Rare, common, frequent."""

SEARCHED = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class LvisSet(CocoSet):
    """One split.

    Attributes:
        searched: by image id, ``SEARCHED``: categories known to be absent, and categories of
            which not all objects are labeled.
        frequencies: of ``FREQUENCIES``, in the order of the categories.
    """

    searched: dict[int, dict[str, list[int]]]
    frequencies: tuple[str, ...]

    def ground_truth(self) -> Truth:
        """The set in COCO's format with what LVIS's evaluation needs besides."""
        truth = super().ground_truth()
        for image in truth["images"]:
            image.update(self.searched[image["id"]])
        for category, frequency in zip(truth["categories"], self.frequencies, strict=True):
            category["frequency"] = frequency
        return truth


def is_lvis(content: Any) -> bool:
    """Whether the content of an annotation file is LVIS's."""
    images = content.get("images") if isinstance(content, dict) else None
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and SEARCHED[0] in first


def read_lvis(content: Any, annotations: Path, images: Path) -> LvisSet:
    """Check LVIS's annotations.

    Args:
        content: of the file.
        annotations: the file.
        images: COCO's folder, with train2017 and val2017; an image's place is the end of its
            ``coco_url`` where it has no ``file_name``.

    Raises:
        InputError: naming file, entry and remedy.
    """
    try:
        for image in content["images"]:
            if "file_name" not in image:
                image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
        searched = {
            image["id"]: {key: list(image[key]) for key in SEARCHED} for image in content["images"]
        }
        ordered = sorted(content["categories"], key=lambda category: category["id"])
        frequencies = tuple(str(category["frequency"]) for category in ordered)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{annotations}: not an LVIS file: {error!r}") from None
    if not set(frequencies) <= set(FREQUENCIES):
        raise InputError(f"{annotations}: a category's frequency must be one of {FREQUENCIES}")
    plain = from_content(content, annotations, images)
    base = {field.name: getattr(plain, field.name) for field in fields(CocoSet)}
    return LvisSet(**base, searched=searched, frequencies=frequencies)


def lvis_average_precision(
    truth: Truth, detections: Sequence[Detection], kind: str
) -> tuple[dict[str, float], dict[str, float]]:
    """AP and its parts as in COCO, of rare (APr), common (APc) and frequent (APf) categories too.

    Args:
        truth: of ``LvisSet.ground_truth``.
        detections: in COCO's result format; the best 300 of an image count.
        kind: ``bbox`` or ``segm``.

    Returns:
        Metrics in percent, and AP by category name.

    Raises:
        InputError: the library for it is not installed.
    """
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise InputError("LVIS's evaluation needs faster-coco-eval; pip install faster-coco-eval")
    from faster_coco_eval import COCO, COCOeval_faster

    checked = read_truth(truth)
    extra = {image["id"]: {key: image[key] for key in SEARCHED} for image in truth["images"]}
    checked["images"] = [image | extra[image["id"]] for image in checked["images"]]
    found = of_kind(checked, _best(read_detections(detections, checked)), kind)
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(checked)
        results = ground.loadRes(found) if found else COCO({**checked, "annotations": []})
        evaluation = COCOeval_faster(ground, results, kind, lvis_style=True)
        evaluation.params.maxDets = [LIMIT]
        evaluation.evaluate()
        evaluation.accumulate()
    table = np.asarray(evaluation.eval["precision"], dtype=np.float64)[..., -1]
    scores = summarize(table, [str(category["name"]) for category in checked["categories"]])
    rarity = np.array([category["frequency"] for category in checked["categories"]])
    groups = {f"AP{group}": table[:, :, rarity == group, 0] for group in FREQUENCIES}
    means = {n: 100 * float(t[t > -1].mean()) for n, t in groups.items() if (t > -1).any()}
    return scores.metrics | means, scores.by_category


def _best(detections: Sequence[Detection]) -> list[Detection]:
    of_image: dict[int, list[Detection]] = {}
    for entry in detections:
        of_image.setdefault(entry["image_id"], []).append(entry)
    kept = [sorted(entries, key=lambda e: -e["score"])[:LIMIT] for entries in of_image.values()]
    return [entry for entries in kept for entry in entries]
