"""The libraries that compute COCO's precision table, behind one function.

All three hold COCO's own semantics; that they agree to 1e-6 with pycocotools, the reference, on
random and hostile detections is tested.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pretrain.core.errors import InputError

Precision = npt.NDArray[np.float64]

# Fastest first: module of the data set, module and name of the evaluation.
_LIBRARIES = {
    "hotcoco": ("hotcoco", "hotcoco", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
    "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
}


def available() -> list[str]:
    """The backends that are installed, fastest first."""
    return [
        name
        for name, (module, _, _) in _LIBRARIES.items()
        if importlib.util.find_spec(module.partition(".")[0]) is not None
    ]


def choose(backend: str) -> str:
    """The backend to use; ``auto`` is the fastest that is installed.

    Raises:
        InputError: it is unknown or not installed.
    """
    installed = available()
    if backend == "auto" and installed:
        return installed[0]
    if backend in installed:
        return backend
    remedy = "pip install pycocotools" if backend not in _LIBRARIES else f"pip install {backend}"
    known = ", ".join(installed) or "none"
    raise InputError(f"evaluation backend '{backend}' is not there (installed: {known}); {remedy}")


def precision_table(
    truth: dict[str, Any], entries: Sequence[dict[str, Any]], kind: str, backend: str
) -> Precision:
    """COCO's precision at IoU thresholds, recall thresholds, categories and sizes.

    Args:
        truth: a set in COCO's format, annotations numbered from 1.
        entries: of COCO's result format, with ``bbox`` or ``segmentation`` alone.
        kind: ``bbox`` or ``segm``.
        backend: one that ``choose`` returned.

    Returns:
        (10, 101, K, 4) in [0, 1], categories by ascending id, sizes all, small, medium, large, at
        most 100 detections of a category in an image; -1 where there is nothing to find.
    """
    evaluation = match_images(truth, entries, kind, backend)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    # The last axis is the number of detections: 1, 10, 100.
    table: Precision = np.asarray(evaluation.eval["precision"], dtype=np.float64)[..., -1]
    return table


def match_images(
    truth: dict[str, Any], entries: Sequence[dict[str, Any]], kind: str, backend: str
) -> Any:
    """The backend's ``COCOeval`` after ``evaluate``; arguments as above."""
    data_module, module, name = _LIBRARIES[backend]
    make = importlib.import_module(data_module).COCO
    evaluator = getattr(importlib.import_module(module), name)

    def load(content: dict[str, Any]) -> Any:
        if backend != "pycocotools":
            return make(content)
        loaded = make()  # which takes a file or nothing
        loaded.dataset = content
        loaded.createIndex()
        return loaded

    with contextlib.redirect_stdout(io.StringIO()):
        ground = load(truth)
        # None of them loads an empty list of results.
        found = ground.loadRes(list(entries)) if entries else load({**truth, "annotations": []})
        evaluation = evaluator(ground, found, kind)
        evaluation.evaluate()
    return evaluation
