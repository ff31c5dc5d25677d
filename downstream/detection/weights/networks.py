"""The pretrained network itself, in its own library: its tensors, and what it computes."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from downstream.detection.model.timm_backbone import find_stages
from downstream.detection.weights.backbone import Backbone
from downstream.detection.weights.layouts import shapes
from pretrain.core.errors import InputError
from pretrain.export.features import LAYERS, timm_features, torchvision_features
from pretrain.export.header import DEPTH
from pretrain.export.names import detectron2_name
from pretrain.models.backbones import TIMM, build_backbone


def tensor_shapes(weights: Backbone) -> dict[str, torch.Size]:
    """Of every tensor that the network has, by the names of ``weights.tensors``.

    Raises:
        InputError: no such network.
    """
    if weights.of_timm:
        with torch.device("meta"):
            state = _of_timm(weights).state_dict()
        return {name: value.shape for name, value in state.items()}
    if weights.architecture not in DEPTH:
        raise InputError(f"{weights.path}: unknown backbone '{weights.architecture}'")
    return {detectron2_name(name): shape for name, shape in shapes(weights.architecture).items()}


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
        network = _of_timm(weights)
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


def _of_timm(weights: Backbone) -> nn.Module:
    return build_backbone(TIMM + weights.architecture, weights.config["HCL.TIMM.OPTIONS"])
