"""The result of one transfer, in the schema of all results."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from downstream.detection.coco.metric import metric_of
from downstream.detection.coco.pictures import draw_detections
from downstream.detection.coco.sets import CocoSet
from downstream.detection.model.config import digest, get, norm_key
from downstream.detection.model.protocol_check import SYNCHRONIZED
from downstream.detection.options import Options
from downstream.detection.run.checkpoints import TrainedDetector
from downstream.detection.run.inference import Evaluation
from downstream.detection.run.result_folder import PICTURES
from downstream.detection.weights.backbone import Backbone
from downstream.results.result import Result, write_result
from pretrain.core.files import sha256, write_json
from pretrain.environment import machine, versions


@dataclass(frozen=True)
class Job:
    """What one transfer is made of.

    Attributes:
        options: as asked for.
        config: resolved, frozen.
        form: of the protocol.
        train: None where nothing is trained.
        val: test set.
        weights: None for random initialization and where nothing is trained.
        trained: the detector that is only measured.
        name: row of the table.
        world: number of processes.
        version: of detectron2.
        fingerprint: of config, weights and data.
    """

    options: Options
    config: Any
    form: str
    train: CocoSet | None
    val: CocoSet
    weights: Backbone | None
    trained: TrainedDetector | None
    name: str
    world: int
    version: str
    fingerprint: str


@dataclass(frozen=True)
class Outcome:
    """What it gave; seconds are None where there were none."""

    found: Evaluation
    seconds: dict[str, float | None]


def write_outcome(job: Job, outcome: Outcome) -> Result:
    """Write detections, pictures and ``result.json`` into the job's folder."""
    folder = job.options.output
    # Written first: the detections outlive a fault in drawing.
    write_json(folder / "detections.json", outcome.found.detections)
    pictures = draw_detections(job.val, outcome.found.detections, folder / PICTURES)
    curve = {"curve": "metrics.json"} if job.train else {}
    result = Result(
        task="detection",
        run=job.name,
        metrics=outcome.found.metrics,
        protocol=_protocol(job),
        provenance=_provenance(job, outcome),
        artifacts={
            "detections": [str(path.relative_to(folder)) for path in pictures],
            "results": "detections.json",
            **curve,
            "by_category": outcome.found.by_category,
        },
    )
    write_result(result, folder)
    return result


def _protocol(job: Job) -> dict[str, Any]:
    config = job.config
    iterations = job.trained.iterations if job.trained else config.SOLVER.MAX_ITER
    parts, batch = config.HCL.ACCUMULATE, config.SOLVER.IMS_PER_BATCH
    norm = get(config, norm_key(config))
    joined = norm in SYNCHRONIZED
    seen = batch // parts // (1 if joined else job.world)
    found: dict[str, Any] = {
        "config": job.options.config.stem,
        "config_sha256": digest(config, without=("SEED",)),
        "form": job.form,
        "metric": metric_of(job.val),
        "iterations": iterations,
        "images_per_batch": batch,
        "base_lr": config.SOLVER.BASE_LR,
        "backbone_norm": norm,
        "freeze_at": config.MODEL.BACKBONE.FREEZE_AT,
        "val_annotations_sha256": job.val.sha256,
    }
    if norm != "FrozenBN":
        found["images_per_norm"] = seen
    if job.train is not None:
        found["train_annotations_sha256"] = job.train.sha256
    return found


def _provenance(job: Job, outcome: Outcome) -> dict[str, Any]:
    data = {"val": _data(job.val)} | ({"train": _data(job.train)} if job.train else {})
    return {
        "fingerprint": job.fingerprint,
        "command": list(job.options.command),
        "seed": job.config.SEED,
        "weights": _origin(job),
        **data,
        "world": job.world,
        "versions": {**versions(), "detectron2": job.version},
        "machine": machine(torch.device(job.config.MODEL.DEVICE)),
        "seconds": outcome.seconds,
    }


def _data(part: CocoSet) -> dict[str, Any]:
    return {"annotations": str(part.annotations), "images": len(part.records)}


def _origin(job: Job) -> dict[str, Any]:
    if job.trained is not None:
        return {"detector": str(job.trained.path), "sha256": job.trained.sha256}
    if job.weights is None:
        return {"file": None, "initialisation": "random"}
    weights = job.weights
    place = {"file": str(weights.path), "sha256": weights.sha256, "layout": weights.layout}
    return {**place, **weights.origin}


def rounded(value: float, digits: int) -> float | None:
    """For the record; None where there is no number."""
    return round(value, digits) if math.isfinite(value) else None


def write_truth(val: CocoSet, folder: Path) -> CocoSet:
    """The set with its annotations in COCO's format, written where there is no such file (VOC)."""
    if val.annotations.is_file():
        return val
    path = folder / val.annotations.name
    write_json(path, val.ground_truth())
    return replace(val, annotations=path, sha256=sha256(path))
