"""A tiny COCO-format set of rectangles and discs, and a config small enough to train on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

# Skips every module that imports this one.
pytest.importorskip("detectron2", reason="needs detectron2: python tools/install_detectron2.py")
mask_util = pytest.importorskip("pycocotools.mask")

SIDE = 64
# Category ids with a gap, out of order: detectron2's classes are their positions.
CATEGORIES = [{"id": 7, "name": "disc"}, {"id": 3, "name": "box"}]
SMALL = """
VERSION: 2
SEED: 0
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  DEVICE: cpu
  MASK_ON: True
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  BACKBONE: {NAME: build_resnet_fpn_backbone, FREEZE_AT: 0}
  RESNETS:
    DEPTH: 18
    RES2_OUT_CHANNELS: 64
    NORM: BN
    STRIDE_IN_1X1: False
    OUT_FEATURES: [res2, res3, res4, res5]
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 32}
  ANCHOR_GENERATOR: {SIZES: [[8], [16], [32], [48], [64]]}
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TRAIN: 50
    PRE_NMS_TOPK_TEST: 50
    POST_NMS_TOPK_TRAIN: 30
    POST_NMS_TOPK_TEST: 30
  ROI_HEADS:
    NAME: StandardROIHeads
    IN_FEATURES: [p2, p3, p4, p5]
    BATCH_SIZE_PER_IMAGE: 16
    SCORE_THRESH_TEST: 0.0
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 32, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 16, POOLER_RESOLUTION: 7}
INPUT:
  FORMAT: RGB
  MIN_SIZE_TRAIN: (64,)
  MIN_SIZE_TEST: 64
  MASK_FORMAT: bitmask
DATALOADER: {NUM_WORKERS: 0, ASPECT_RATIO_GROUPING: False}
SOLVER: {IMS_PER_BATCH: 2, BASE_LR: 0.005, WARMUP_ITERS: 2, MAX_ITER: 3, STEPS: [2]}
TEST: {DETECTIONS_PER_IMAGE: 10}
"""


@dataclass(frozen=True)
class Toy:
    """Paths of one split."""

    annotations: Path
    images: Path

    def content(self) -> dict[str, Any]:
        return json.loads(self.annotations.read_text())  # type: ignore[no-any-return]

    def rewrite(self, content: dict[str, Any]) -> None:
        self.annotations.write_text(json.dumps(content))

    @property
    def arguments(self) -> list[str]:
        return [str(self.annotations), str(self.images)]


def write_toy(folder: Path, *, images: int = 8, rle: bool = False, seed: int = 0) -> Toy:
    """Images of one box and one disc each; the last image has no object, the first a crowd."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(images):
        image = Image.fromarray(rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8))
        name = f"{number:03d}.png"
        entries.append({"id": 100 + number, "file_name": name, "width": SIDE, "height": SIDE})
        if number < images - 1:
            for category, size in ((3, 22), (7, 30)):
                x, y = (int(v) for v in rng.integers(0, SIDE - size, 2))
                corners = (x, y, x + size - 1, y + size - 1)
                mask = Image.new("L", (SIDE, SIDE))
                for canvas, color in ((mask, 1), (image, (230, 200, 40 * (category - 2)))):
                    draw = ImageDraw.Draw(canvas)
                    (draw.rectangle if category == 3 else draw.ellipse)(corners, fill=color)
                coded = mask_util.encode(np.asfortranarray(mask))
                polygon = [x, y, x + size, y, x + size, y + size, x, y + size]
                annotations.append(
                    {
                        "id": len(annotations),  # from 0: a trap for COCO's evaluation
                        "image_id": 100 + number,
                        "category_id": category,
                        "bbox": [x, y, size, size],
                        "area": int(mask_util.area(coded)),
                        "iscrowd": 0,
                        "segmentation": {**coded, "counts": coded["counts"].decode()}
                        if rle
                        else [polygon],
                    }
                )
        image.save(folder / "images" / name)
    crowd = {"size": [SIDE, SIDE], "counts": [0, 8 * SIDE, SIDE * SIDE - 8 * SIDE]}
    annotations.append(
        {
            "id": len(annotations),
            "image_id": 100,
            "category_id": 3,
            "bbox": [0, 0, 8, SIDE],
            "area": 8 * SIDE,
            "iscrowd": 1,
            "segmentation": crowd,
        }
    )
    path = folder / "instances.json"
    content = {"images": entries, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    return Toy(path, folder / "images")


def command(config: Path, toy: Toy, output: Path, *more: str) -> list[str]:
    """The words of `hcl detect` on the toy set."""
    data = ["--train", *toy.arguments, "--val", *toy.arguments]
    return ["detect", str(config), *data, "--output", str(output), *more]
