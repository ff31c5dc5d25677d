"""Proof that the detector's backbone computes what the pretrained network computed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from downstream.detection.model.heads import NORM
from downstream.detection.weights.backbone import Backbone
from downstream.detection.weights.networks import source_features
from pretrain.core.errors import InputError
from pretrain.export.features import LAYERS, probe

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
    worst = 0.0
    for layer, features in found.items():
        source = expected[layer]
        if not source.isfinite().all():
            raise InputError(
                f"{weights.path}: the network's own features at {layer} are not finite: bad weights"
            )
        scale = source.abs().max().item()
        same = source.shape == features.shape and scale > 0
        difference = (source - features).abs().max().item() / scale if same else float("nan")
        # Written so that a NaN fails.
        if not difference <= TOLERANCE:
            raise InputError(
                f"{weights.path}: the detector's backbone computes another function: features of "
                f"{layer} differ by {difference:.2g} of their scale (limit {TOLERANCE:g}); compare "
                f"INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and {network} of the config with "
                "the pretraining"
            )
        worst = max(worst, difference)
    return worst


def detector_features(model: nn.Module, images: Tensor, channels: str) -> dict[str, Tensor]:
    """Outputs of the detector's backbone by torchvision's layer names, on the CPU.

    Args:
        model: a detector.
        images: (N, 3, H, W) RGB in 0..255; sides are multiples of 32, so that none is padded.
        channels: order of colours in which detectron2 reads image files.
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
