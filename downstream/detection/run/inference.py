"""Detecting on a whole set, on one process or several, and measuring it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from torch import nn

from downstream.detection.coco.coco_results import Detection
from downstream.detection.coco.evaluate import collect
from downstream.detection.coco.metric import ByCategory, measure
from downstream.detection.coco.sets import CocoSet
from downstream.detection.model.config import VAL
from pretrain.core.errors import InputError

Say = Callable[[str], None]


class Mapper(DatasetMapper):  # type: ignore[misc]
    """detectron2's mapper; an image that cannot be read is the user's error and is named."""

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        """Read, augment and annotate one image."""
        name = dataset_dict["file_name"]
        try:
            return super().__call__(dataset_dict)
        except SizeMismatchError:
            wanted = f"{dataset_dict['width']} x {dataset_dict['height']}"
            raise InputError(
                f"{name}: the image is not {wanted} as its annotation file says; fix that entry"
            ) from None
        except (OSError, SyntaxError, EOFError) as error:
            # Pillow reports damaged files by all of these.
            raise InputError(f"{name}: not a readable image ({error}); replace it") from None


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_detector`` found; empty but for the seconds where it is not the main process.

    Attributes:
        detections: in COCO's result format.
        metrics: ``bbox/AP`` and so on, in percent.
        by_category: AP by category name, by ``bbox`` and ``segm``.
        seconds: it took.
    """

    detections: list[Detection]
    metrics: dict[str, float]
    by_category: ByCategory
    seconds: float


def evaluate_detector(config: Any, detector: nn.Module, val: CocoSet, say: Say) -> Evaluation:
    """Detect on the whole test set, each process on its part, and compute average precision."""
    start = time.perf_counter()
    say(f"evaluating on {len(val.records)} images")
    loader = build_detection_test_loader(config, VAL, mapper=Mapper(config, is_train=False))
    own: list[Detection] = []
    with inference_context(detector), torch.no_grad():
        for inputs in loader:
            own += collect(detector(inputs), inputs, val.category_ids)
    parts = comm.gather(own)
    if not comm.is_main_process():
        return Evaluation([], {}, {}, time.perf_counter() - start)
    detections = [entry for part in parts for entry in part]
    kinds = ("bbox", "segm") if config.MODEL.MASK_ON else ("bbox",)
    metrics, by_category = measure(val, detections, kinds)
    return Evaluation(detections, metrics, by_category, time.perf_counter() - start)
