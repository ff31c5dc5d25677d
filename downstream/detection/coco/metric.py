"""The metric of a test set: COCO's, VOC's or LVIS's."""

from __future__ import annotations

from collections.abc import Sequence

from downstream.detection.coco.coco_results import Detection
from downstream.detection.coco.evaluate import evaluate
from downstream.detection.coco.lvis import LvisSet, lvis_average_precision
from downstream.detection.coco.sets import CocoSet
from downstream.detection.coco.voc_metric import voc_average_precision
from downstream.detection.coco.voc_sets import VocSet

ByCategory = dict[str, dict[str, float]]


def metric_of(val: CocoSet) -> str:
    """The metric's name: ``coco``, ``lvis``, ``voc07`` or ``voc``."""
    if isinstance(val, VocSet):
        return "voc07" if val.year == 2007 else "voc"
    return "lvis" if isinstance(val, LvisSet) else "coco"


def measure(
    val: CocoSet, detections: Sequence[Detection], kinds: Sequence[str]
) -> tuple[dict[str, float], ByCategory]:
    """Average precision by the metric of the set.

    Args:
        val: the test set.
        detections: in COCO's result format.
        kinds: ``bbox``, ``segm`` or both.

    Returns:
        ``bbox/AP`` and so on, and by kind the AP of every category, in percent.
    """
    truth = val.ground_truth()
    metrics: dict[str, float] = {}
    by_category: ByCategory = {}
    for kind in kinds:
        if isinstance(val, VocSet):
            found, single = voc_average_precision(truth, detections, val.year)
        elif isinstance(val, LvisSet):
            found, single = lvis_average_precision(truth, detections, kind)
        else:
            scores = evaluate(truth, detections, (kind,))[kind]
            found, single = scores.metrics, scores.by_category
        metrics |= {f"{kind}/{name}": value for name, value in found.items()}
        by_category[kind] = single
    return metrics, by_category
