"""Proof that the detector's backbone computes what the pretrained network computed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from downstream.detection.model.heads import NORM
from downstream.detection.model.timm_backbone import find_stages
from downstream.detection.weights.backbone import Backbone
from pretrain.export.detectron2_format import detectron2_name
from pretrain.export.features import (
    LAYERS,
    compare_features,
    probe,
    timm_features,
    torchvision_features,
)
from pretrain.models.backbones import TIMM, build_backbone

TOLERANCE = 1e-4
"""Of the largest feature of a layer."""


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
        options = weights.config["HCL.TIMM.OPTIONS"]
        network = build_backbone(TIMM + weights.architecture, options)
        network.load_state_dict(weights.tensors)
        stages = find_stages(weights.architecture, network)
        outputs = timm_features(network, images, mean, std)
        return {
            layer: outputs[stage.module]
            for layer, stage in zip(LAYERS, stages.values(), strict=True)
        }
    network = getattr(torchvision.models, weights.architecture)(weights=None)
    names = [name for name in network.state_dict() if not name.startswith("fc.")]
    network.load_state_dict({n: weights.tensors[detectron2_name(n)] for n in names}, strict=False)
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
