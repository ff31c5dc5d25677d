"""Placing weights in a detector whose config is known to use them rightly."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from downstream.detection.model.config import get, uses_timm
from downstream.detection.model.heads import NORM
from downstream.detection.weights.backbone import Backbone
from downstream.detection.weights.layouts import COUNTER
from pretrain.core.errors import InputError

# Batch norms that compute, in evaluation, what the pretrained ones do.
BATCH_NORMS = ("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN")


def check_config(weights: Backbone, config: Any) -> None:
    """Check that the detector will feed and wire the backbone as in pretraining.

    Raises:
        InputError: naming every key that differs and the value to set.
    """
    faults = []
    if uses_timm(config) and not weights.of_timm:
        faults.append(
            f"MODEL.BACKBONE.NAME is {config.MODEL.BACKBONE.NAME} and the weights are a plain "
            f"{weights.architecture}: set it to build_resnet_fpn_backbone and HCL.TIMM.NAME to ''"
        )
    for key, wanted in weights.config.items():
        found = get(config, key)
        if key in ("MODEL.RESNETS.NORM", "HCL.TIMM.NORM"):
            if found not in BATCH_NORMS:
                faults.append(f"{key} is '{found}', not a batch norm: set it to SyncBN or BN")
        elif not _equal(found, wanted):
            shown = _value(found) if isinstance(found, dict) else found
            faults.append(f"{key} is {shown}: set it to {_value(wanted)}")
    if faults:
        raise InputError(
            f"{weights.path}: pretrained otherwise than the config says: {'; '.join(faults)}"
        )


def load_backbone(weights: Backbone, model: nn.Module) -> int:
    """Copy the tensors into a detector by name: an FPN's backbone, or C4's and its head's res5.

    Returns:
        The number of tensors: all of the file but the counters that a frozen norm lacks.

    Raises:
        InputError: the detector has no place, or another shape, for one, or its backbone has a
            tensor that the file does not fill.
    """
    state = model.state_dict()
    fpn = any(name.startswith("backbone.bottom_up.") for name in state)
    roots = ("backbone.bottom_up.",) if fpn else ("backbone.", "roi_heads.")
    remedy = "is MODEL.BACKBONE.NAME a plain ResNet of MODEL.RESNETS?"
    if weights.of_timm:
        roots = ("backbone.bottom_up.network.",)
        remedy = f"are MODEL.BACKBONE.NAME and HCL.TIMM those of {weights.architecture}?"
    left, count = set(weights.tensors), 0
    for place, target in state.items():
        root = next((root for root in roots if place.startswith(root)), None)
        if root is None or (root == "roi_heads." and not place.startswith("roi_heads.res5.")):
            continue
        name = place.removeprefix(root)
        if name.startswith(f"res5.{NORM}."):
            continue  # of the head's own norm, which starts fresh
        value = weights.tensors.get(name)
        if value is None or name not in left or value.shape != target.shape:
            raise InputError(f"{weights.path}: nothing fits the detector's '{place}'; {remedy}")
        with torch.no_grad():
            target.copy_(value)
        left.remove(name)
        count += 1
    lost = sorted(name for name in left if not name.endswith(COUNTER))
    if lost:
        raise InputError(
            f"{weights.path}: tensor '{lost[0]}' was not loaded into the detector; {remedy}"
        )
    return count


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple):
        same = isinstance(found, list | tuple) and len(found) == len(wanted)
        # Configs write pixel statistics with three decimals.
        return same and all(abs(a - b) < 2e-3 for a, b in zip(found, wanted, strict=True))
    return bool(found == wanted)


def _value(wanted: Any) -> str:
    if isinstance(wanted, list | tuple):
        return "[" + ", ".join(f"{value:.3f}" for value in wanted) + "]"
    # A mapping in a form that an override takes.
    return json.dumps(wanted) if isinstance(wanted, dict) else str(wanted)
