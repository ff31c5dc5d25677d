"""A backbone in a detector: the config agrees, all tensors are placed, the function is the same."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from downstream.detection.model.config import get, uses_timm
from downstream.detection.model.heads import NORM
from downstream.detection.model.timm_backbone import find_stages
from downstream.detection.weights.backbone import COUNTER, Backbone
from pretrain.core.errors import InputError
from pretrain.export.detectron2_format import detectron2_name
from pretrain.export.verify import (
    LAYERS,
    compare_features,
    probe,
    timm_features,
    torchvision_features,
)
from pretrain.models.backbones import TIMM, build_backbone

# Batch norms that compute, in evaluation, what the pretrained ones do.
BATCH_NORMS = ("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN")

TOLERANCE = 1e-4
"""Of the largest feature of a layer."""


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


def check_forward(weights: Backbone, model: nn.Module, config: Any) -> float:
    """Compare the features of random images, read and scaled by detectron2, with the source's.

    The source is torchvision's or timm's network with the file's tensors, on RGB images scaled by
    the statistics of pretraining. FPN: res2 to res5 of the bottom-up path. C4: res4 of the backbone
    and the head's res5 on it, before the head's own norm.

    Args:
        weights: what the detector was given.
        model: the detector, on any device; its mode is restored.
        config: of the detector; its ``INPUT.FORMAT`` is the one images are read in.

    Returns:
        The largest difference, relative to the layer's largest feature.

    Raises:
        InputError: it exceeds ``TOLERANCE``, or features are not finite.
    """
    images = probe()
    expected = source_features(weights, images)
    found = detector_features(model, images, str(config.INPUT.FORMAT))
    network = "HCL.TIMM" if weights.of_timm else "MODEL.RESNETS"
    return compare_features(
        {layer: expected[layer] for layer in found},
        found,
        tolerance=TOLERANCE,
        source=f"{weights.path}: the detector's backbone",
        remedy=f"compare INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and {network} of the "
        "config with the pretraining",
    )


def source_features(weights: Backbone, images: Tensor) -> dict[str, Tensor]:
    """What the stages compute in the network's own forward: the maps of stride 4, 8, 16 and 32.

    Args:
        weights: with the network's tensors, and the statistics by which pixels are scaled.
        images: (N, 3, H, W) RGB in 0..255.

    Returns:
        (N, channels, H / stride, W / stride) by ``LAYERS``.
    """
    mean, std = (
        tuple(value / 255 for value in weights.config[f"MODEL.PIXEL_{kind}"])
        for kind in ("MEAN", "STD")
    )
    if weights.of_timm:
        network = build_backbone(TIMM + weights.architecture, weights.config["HCL.TIMM.OPTIONS"])
        network.load_state_dict(weights.tensors)
        stages = find_stages(weights.architecture, network)
        outputs = timm_features(network, images, mean, std)
        return {
            layer: outputs[stage.module]
            for layer, stage in zip(LAYERS, stages.values(), strict=True)
        }
    network = build_backbone(weights.architecture)
    names = network.state_dict()
    network.load_state_dict({name: weights.tensors[detectron2_name(name)] for name in names})
    return torchvision_features(network, images, mean, std)


def detector_features(model: nn.Module, images: Tensor, channels: str) -> dict[str, Tensor]:
    """Outputs of the detector's backbone by torchvision's layer names, on the CPU.

    Args:
        model: a detector.
        images: (N, 3, H, W) RGB in 0..255; sides are multiples of 32, so that none is padded.
        channels: order of colors in which detectron2 reads image files.
    """
    from detectron2.data.detection_utils import read_image

    given = []
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            path = Path(folder) / f"{number}.png"
            Image.fromarray(image.permute(1, 2, 0).to(torch.uint8).numpy()).save(path)
            array = np.ascontiguousarray(read_image(str(path), format=channels).transpose(2, 0, 1))
            given.append({"image": torch.as_tensor(array)})
    detector: Any = model
    training = model.training
    try:
        with torch.no_grad():
            scaled = detector.eval().preprocess_image(given).tensor
            features = _stages(detector, scaled)
    finally:
        model.train(training)
    named = {f"res{stage}": layer for stage, layer in enumerate(LAYERS, start=2)}
    return {named[name]: value.float().cpu() for name, value in features.items()}


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


def _stages(detector: Any, scaled: Tensor) -> dict[str, Tensor]:
    if hasattr(detector.backbone, "bottom_up"):
        outputs: dict[str, Tensor] = detector.backbone.bottom_up(scaled)
        return outputs
    outputs = detector.backbone(scaled)
    head = getattr(detector.roi_heads, "res5", None)
    if head is not None:
        features = outputs["res4"]
        for name, block in head.named_children():
            features = features if name == NORM else block(features)
        outputs = {**outputs, "res5": features}
    return outputs
