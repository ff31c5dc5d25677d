"""The presets say what the papers' files say, and each builds, trains and evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_detection import Toy

import hcl
from downstream.detection.model.config import get, load_config
from downstream.detection.model.protocol_check import check_form, claimed
from downstream.results.result import read_result
from pretrain.core.errors import InputError
from pretrain.core.presets import configs_root, find_config

NAMES = sorted(path.stem for path in (configs_root() / "detection").glob("*.yaml"))

# From DenseCL's and ORL's Base-RCNN-FPN and R_50_FPN_1x_infomin.
FPN: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.MASK_ON": True,
    "MODEL.PIXEL_MEAN": [123.675, 116.280, 103.530],
    "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MAX_SIZE_TEST": 1333,
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.STEPS": (60000, 80000),
    "SOLVER.MAX_ITER": 90000,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_FACTOR": 1.0 / 1000,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 200,
    "HCL.ACCUMULATE": 1,
    "HCL.LABELS.PERCENT": 100.0,
}
TWICE = {"SOLVER.STEPS": (120000, 160000), "SOLVER.MAX_ITER": 180000}
# From MoCo's Base-RCNN-C4-BN and coco_R_50_C4_2x_moco, with DenseCL's and ORL's SyncBN.
_FPN_ONLY = ("FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD", "ANCHOR_GENERATOR", "IN_FEATURES", "TOPK")
C4: dict[str, Any] = {
    **{key: value for key, value in FPN.items() if not any(part in key for part in _FPN_ONLY)},
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
}
VOC = {
    "MODEL.MASK_ON": False,
    "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    "INPUT.MIN_SIZE_TRAIN": tuple(range(480, 801, 32)),
    "DATASETS.TRAIN": ("voc_2007_trainval", "voc_2012_trainval"),
    "DATASETS.TEST": ("voc_2007_test",),
    "SOLVER.STEPS": (18000, 22000),
    "SOLVER.MAX_ITER": 24000,
    "SOLVER.WARMUP_ITERS": 100,
}
TABLE: dict[str, dict[str, Any]] = {
    "mask_rcnn_r50_fpn_1x_ssl": FPN,
    "mask_rcnn_r50_fpn_2x_ssl": {**FPN, **TWICE},
    "mask_rcnn_r50_c4_1x_ssl": C4,
    "mask_rcnn_r50_c4_2x_ssl": {**C4, **TWICE},
    "faster_rcnn_r50_c4_voc_24k_ssl": {**C4, **VOC},
    "mask_rcnn_r50_fpn_1x_accumulate_ssl": {**FPN, "HCL.ACCUMULATE": 4},
    "mask_rcnn_r50_fpn_10pct_ssl": {
        **FPN,
        "HCL.LABELS.PERCENT": 10.0,
        "SOLVER.STEPS": (6000, 8000),
        "SOLVER.MAX_ITER": 9000,
    },
    "mask_rcnn_r50_fpn_1pct_ssl": {
        **FPN,
        "HCL.LABELS.PERCENT": 1.0,
        "SOLVER.STEPS": (2400, 3200),
        "SOLVER.MAX_ITER": 3600,
    },
}


def differences(one: Any, other: Any, prefix: str = "") -> set[str]:
    """Keys in which two configs differ."""
    found = set()
    for name in set(one) | set(other):
        key = f"{prefix}{name}"
        mine, theirs = one.get(name), other.get(name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found |= differences(mine, theirs, f"{key}.")
        elif mine != theirs:
            found.add(key)
    return found


def preset(name: str) -> Any:
    return load_config(find_config(name, "detection"), [])


@pytest.mark.parametrize("name", TABLE)
def test_resolved_presets_are_the_published_protocols(name: str) -> None:
    config = preset(name)
    found = {key: get(config, key) for key in TABLE[name]}
    assert {k: v for k, v in found.items() if v != TABLE[name][k]} == {}


@pytest.mark.parametrize(
    ("name", "zoo"),
    [
        ("mask_rcnn_r50_fpn_1x_stock", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"),
        ("mask_rcnn_r50_c4_1x_stock", "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml"),
    ],
)
def test_stock_differs_from_detectron2_in_what_the_weights_ask_for(name: str, zoo: str) -> None:
    model_zoo = pytest.importorskip("detectron2.model_zoo")
    input_keys = {"INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"}
    where = {"MODEL.DEVICE", "MODEL.WEIGHTS", "SEED", "HCL"}
    theirs = model_zoo.get_config(zoo)
    expected = input_keys | where | {"MODEL.RESNETS.STRIDE_IN_1X1"}
    assert differences(preset(name), theirs) == expected


def test_lvis_differs_from_coco_in_detectron2s_own_settings_for_it() -> None:
    model_zoo = pytest.importorskip("detectron2.model_zoo")
    ours = differences(preset("mask_rcnn_r50_fpn_lvis_1x_ssl"), preset("mask_rcnn_r50_fpn_1x_ssl"))
    coco = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    lvis = model_zoo.get_config("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    assert ours == differences(lvis, coco)
    mine = preset("mask_rcnn_r50_fpn_lvis_1x_ssl")
    assert {key: get(mine, key) for key in ours} == {key: get(lvis, key) for key in ours}


def test_the_small_batch_scales_linearly() -> None:
    small, full = (preset(f"mask_rcnn_r50_fpn_1x_{part}ssl") for part in ("batch4_", ""))
    factor = full.SOLVER.IMS_PER_BATCH // small.SOLVER.IMS_PER_BATCH
    assert factor == 4
    assert small.SOLVER.BASE_LR * factor == full.SOLVER.BASE_LR
    for key in ("SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS", "TEST.PRECISE_BN.NUM_ITER"):
        assert get(small, key) == factor * get(full, key)
    assert tuple(factor * step for step in full.SOLVER.STEPS) == small.SOLVER.STEPS
    assert len(differences(small, full)) == 6


SMALL = """
MODEL.DEVICE cpu SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.001
TEST.PRECISE_BN.NUM_ITER 1 INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64
DATALOADER.NUM_WORKERS 0 MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8 MODEL.RPN.PRE_NMS_TOPK_TRAIN 30
MODEL.RPN.PRE_NMS_TOPK_TEST 30 MODEL.RPN.POST_NMS_TOPK_TRAIN 20 MODEL.RPN.POST_NMS_TOPK_TEST 10
TEST.DETECTIONS_PER_IMAGE 5
"""
THIN_FPN = """
MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.FPN.OUT_CHANNELS 16
MODEL.ROI_BOX_HEAD.CONV_DIM 8 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 8
MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 4 MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION 4
"""
THIN_C4 = """
MODEL.RESNETS.RES2_OUT_CHANNELS 16 MODEL.RESNETS.WIDTH_PER_GROUP 4 MODEL.ROI_MASK_HEAD.CONV_DIM 8
MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 4
"""


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_trains_and_evaluates(name: str, toy: Toy, tmp_path: Path) -> None:
    if "resnet10t" in name or "_r10_" in name:
        pytest.importorskip("timm")
    arguments = ["detect", name, "--train", *toy.arguments, "--val", *toy.arguments]
    more = [*SMALL.split(), *(THIN_C4 if "c4" in name else THIN_FPN).split()]
    if "pct" in name:
        more += ["HCL.LABELS.PERCENT", "50.0"]
    assert hcl.main([*arguments, "--output", str(tmp_path / "out"), *more]) == 0
    result = read_result(tmp_path / "out")
    assert result.protocol["form"] == claimed(name)
    assert result.protocol["iterations"] == 2
    assert ("segm/AP" in result.metrics) == ("faster" not in name)
    assert 0 <= result.metrics["bbox/AP"] <= 100
    if "accumulate" in name:
        assert result.protocol["images_per_norm"] == 1


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("fpn_1x_ssl", "MODEL.BACKBONE.FREEZE_AT 2", "FREEZE_AT is 2: set it to 0"),
        ("fpn_1x_ssl", "MODEL.RESNETS.NORM FrozenBN", "RESNETS.NORM is 'FrozenBN': set it to Sync"),
        ("fpn_1x_ssl", "MODEL.FPN.NORM ''", "FPN.NORM is ''"),
        ("fpn_1x_ssl", "MODEL.ROI_BOX_HEAD.NORM GN", "ROI_BOX_HEAD.NORM is 'GN'"),
        ("fpn_1x_ssl", "MODEL.ROI_MASK_HEAD.NORM BN", "ROI_MASK_HEAD.NORM is 'BN'"),
        ("fpn_1x_ssl", "MODEL.ROI_BOX_HEAD.NUM_FC 2", "NUM_FC is 2: set it to 1"),
        ("fpn_1x_ssl", "MODEL.ROI_BOX_HEAD.NUM_CONV 0", "NUM_CONV is 0: set it to 4"),
        ("fpn_1x_ssl", "TEST.PRECISE_BN.ENABLED False", "PRECISE_BN.ENABLED is False"),
        ("c4_1x_ssl", "MODEL.ROI_HEADS.NAME Res5ROIHeads", "set it to Res5ROIHeadsExtraNorm"),
        ("c4_1x_stock", "MODEL.BACKBONE.FREEZE_AT 0", "not the stock form"),
    ],
)
def test_overrides_that_break_the_protocol(name: str, override: str, message: str) -> None:
    path = find_config(f"mask_rcnn_r50_{name}", "detection")
    config = load_config(path, override.split())
    with pytest.raises(InputError, match=message):
        check_form(config, claimed(path.stem))
    check_form(config, "free")
    check_form(load_config(path, []), claimed(path.stem))
