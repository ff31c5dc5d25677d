"""Detection results with everything that `hcl detect` leaves in a folder, without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from downstream.detection.coco.evaluate import evaluate
from downstream.results.result import Result, write_result
from pretrain.core.files import sha256

SIDE = 64
CONFIG = {
    "MODEL": {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"DEPTH": 50, "NORM": "SyncBN"},
        "FPN": {"NORM": "SyncBN"},
        "ROI_BOX_HEAD": {"NUM_CONV": 4, "NUM_FC": 1, "NORM": "SyncBN"},
        "ROI_HEADS": {"NAME": "StandardROIHeads"},
        "ROI_MASK_HEAD": {"NORM": "SyncBN"},
        "MASK_ON": True,
    },
    "INPUT": {"FORMAT": "RGB"},
}


def write_truth(path: Path, images: int = 40, seed: int = 0) -> dict[str, Any]:
    """Boxes of three categories, one of which has no object."""
    rng = np.random.default_rng(seed)
    objects = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(1, 5)):
            sides = rng.integers(10, 40, 2)
            x, y = rng.integers(0, SIDE - sides)
            box = [float(v) for v in (x, y, *sides)]
            entry = {"image_id": image, "category_id": int(rng.integers(1, 3)), "bbox": box}
            objects.append({**entry, "id": len(objects) + 1, "area": box[2] * box[3], "iscrowd": 0})
    names = enumerate(("disc", "box", "never"), 1)
    content = {
        "images": [{"id": n, "width": SIDE, "height": SIDE} for n in range(1, images + 1)],
        "annotations": objects,
        "categories": [{"id": k, "name": name} for k, name in names],
    }
    path.write_text(json.dumps(content))
    return content


def simulate(truth: dict[str, Any], skill: float, seed: int) -> list[dict[str, Any]]:
    """Objects found more often and placed better with more skill, and false alarms."""
    rng = np.random.default_rng(seed)
    found = []
    for entry in truth["annotations"]:
        if rng.random() < skill:
            moved = np.array(entry["bbox"]) + rng.normal(0, 3 * (1 - skill), 4)
            box = [*moved[:2].tolist(), *np.maximum(moved[2:], 2).tolist()]
            keys = {key: entry[key] for key in ("image_id", "category_id")}
            found.append({**keys, "bbox": box, "score": float(rng.uniform(0.3, 1))})
        if rng.random() < 0.4:
            box = [*rng.uniform(0, 40, 2).tolist(), *rng.uniform(8, 24, 2).tolist()]
            keys = {"image_id": entry["image_id"], "category_id": int(rng.integers(1, 4))}
            found.append({**keys, "bbox": box, "score": float(rng.uniform(0, 0.6))})
    return found


def write_detection(
    folder: Path,
    run: str,
    annotations: Path,
    *,
    skill: float,
    seed: int,
    config: dict[str, Any] | None = None,
    **protocol: Any,
) -> Path:
    """One transfer's folder."""
    truth = json.loads(annotations.read_text())
    found = simulate(truth, skill, seed)
    scores = evaluate(truth, found, ("bbox",))["bbox"]
    (folder / "detections").mkdir(parents=True)
    (folder / "detections.json").write_text(json.dumps(found))
    (folder / "config.yaml").write_text(yaml.safe_dump(config or CONFIG))
    pictures = []
    for image in (1, 2):
        name = f"detections/{image:012d}.jpg"
        Image.fromarray(np.full((48, 64, 3), (60 * seed + 40 * image) % 256, np.uint8)).save(
            folder / name
        )
        pictures.append(name)
    result = Result(
        task="detection",
        run=run,
        metrics={f"bbox/{name}": value for name, value in scores.metrics.items()},
        protocol={
            "config": "fpn",
            "iterations": 90000,
            "images_per_batch": 16,
            "backbone_norm": "SyncBN",
            "val_annotations_sha256": sha256(annotations),
            **protocol,
        },
        provenance={
            "seed": seed,
            "weights": {"sha256": f"{run}{seed}"},
            "val": {"annotations": str(annotations), "images": len(truth["images"])},
            "machine": "NVIDIA H100, 16 cores, x86_64",
            "seconds": {"train": 7000.0, "evaluation": 200.0},
        },
        artifacts={"detections": pictures, "results": "detections.json"},
    )
    write_result(result, folder)
    return folder
