"""Convolutional networks of timm as backbones of detectron2's detectors, with its FPN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import yaml
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from downstream.detection.model.config import TIMM_FPN, TIMM_NORMS, uses_timm
from pretrain.core.errors import InputError
from pretrain.models.backbones import TIMM, build_backbone

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Pixels a cell of each map, under the names that detectron2's ResNets give the stages."""

SIDE = 64
"""Pixels; of the image by which a network's maps are measured."""


@dataclass(frozen=True)
class Stage:
    """One stage of a network of timm.

    Attributes:
        index: of its map among those the network can return.
        module: whose output the map is.
    """

    index: int
    module: str


class TimmBackbone(Backbone):  # type: ignore[misc]
    """The maps of stride 4, 8, 16 and 32 of one network, as ``res2`` to ``res5``.

    The network is whole and keeps timm's names of its tensors. What none of the maps depends on,
    such as a convolution between the last map and the pooling, is never trained.

    Args:
        architecture: timm's name.
        options: arguments of its constructor, as in pretraining's ``model.options``.
        norm: of ``TIMM_NORMS``; what becomes of the network's batch norms.
        freeze_at: stages that are not trained: 1 the stem, 2 also res2, up to 5.

    Raises:
        InputError: timm has no such network, or its maps are of other strides.
    """

    def __init__(self, architecture: str, options: dict[str, Any], norm: str, freeze_at: int):
        super().__init__()
        network = _build(architecture, options)
        stages = find_stages(architecture, network)
        self.indices = [stage.index for stage in stages.values()]
        needed, channels = _measure(architecture, network, stages)
        first = f"{stages['res2'].module}."
        frozen = {name for name, _ in network.named_parameters()}.difference(*needed.values())
        if freeze_at == 1:
            frozen |= {name for name in needed["res2"] if not name.startswith(first)}
        elif freeze_at > 1:
            frozen |= needed[f"res{min(freeze_at, 5)}"]
        self.network = _freeze(_with_norm(network, norm), frozen)
        self._out_features = list(STRIDES)
        self._out_feature_strides = dict(STRIDES)
        self._out_feature_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> (N, channels, H / stride, W / stride) by ``res2`` to ``res5``."""
        network: Any = self.network
        maps = network.forward_intermediates(images, indices=self.indices, intermediates_only=True)
        return dict(zip(STRIDES, maps, strict=True))


def build_timm_fpn_backbone(cfg: Any, _input_shape: ShapeSpec) -> FPN:
    """The network of ``HCL.TIMM``, and detectron2's FPN of ``MODEL.FPN`` on its maps."""
    return FPN(
        bottom_up=_chosen(cfg),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def register() -> None:
    """Make the backbone known to detectron2, unless someone's code already has."""
    assert build_timm_fpn_backbone.__name__ == TIMM_FPN
    if TIMM_FPN not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(build_timm_fpn_backbone)


def check_choice(config: Any) -> None:
    """Check that ``HCL.TIMM`` and ``MODEL.BACKBONE.NAME`` go together and name what can be built.

    Raises:
        InputError: naming the key to change.
    """
    name = config.HCL.TIMM.NAME
    if uses_timm(config) and name:
        _chosen(config)
    elif uses_timm(config):
        raise InputError("HCL.TIMM.NAME is empty: set it to a network of timm, such as resnet10t")
    elif name:
        raise InputError(
            f"HCL.TIMM.NAME is {name}, which nothing reads: set MODEL.BACKBONE.NAME to {TIMM_FPN}, "
            "or HCL.TIMM.NAME to ''"
        )


def _chosen(config: Any) -> TimmBackbone:
    chosen = config.HCL.TIMM
    options = yaml.safe_load(chosen.OPTIONS.dump())
    return TimmBackbone(chosen.NAME, options, chosen.NORM, config.MODEL.BACKBONE.FREEZE_AT)


def find_stages(architecture: str, network: nn.Module) -> dict[str, Stage]:
    """Where the maps of ``STRIDES`` are: the last of each stride in timm's own list.

    Raises:
        InputError: the network does not give them.
    """
    modules = dict(network.named_modules())
    information: Any = getattr(network, "feature_info", None) or []
    if not hasattr(network, "forward_intermediates"):
        information = []
    found = {
        entry["reduction"]: Stage(index, entry["module"])
        for index, entry in enumerate(information)
        if entry["module"] in modules
    }
    if not set(STRIDES.values()) <= set(found):
        raise InputError(_refusal(architecture))
    return {name: found[stride] for name, stride in STRIDES.items()}


def _build(architecture: str, options: dict[str, Any]) -> nn.Module:
    try:
        return build_backbone(TIMM + architecture, options)
    except InputError as error:
        text = str(error).replace("model.backbone:", "HCL.TIMM.NAME:")
        raise InputError(text.replace("model.options", "HCL.TIMM.OPTIONS")) from None


def _measure(
    architecture: str, network: Any, stages: dict[str, Stage]
) -> tuple[dict[str, set[str]], dict[str, int]]:
    """The tensors that each map depends on, by their names, and the map's channels."""
    images = torch.linspace(-1, 1, 3 * SIDE * SIDE).view(1, 3, SIDE, SIDE)
    indices = [stage.index for stage in stages.values()]
    trained = {n: value for n, value in network.named_parameters() if value.requires_grad}
    training = network.training
    try:
        maps = network.eval().forward_intermediates(
            images, indices=indices, intermediates_only=True
        )
    except (AssertionError, RuntimeError, TypeError):
        # How timm's models say that they cannot take the image, or give maps of it.
        raise InputError(_refusal(architecture)) from None
    finally:
        network.train(training)
    found, channels = {}, {}
    for (stage, stride), features in zip(STRIDES.items(), maps, strict=True):
        if features.ndim != 4 or set(features.shape[2:]) != {SIDE // stride}:
            raise InputError(_refusal(architecture))
        gradients = torch.autograd.grad(
            features.sum(), list(trained.values()), retain_graph=True, allow_unused=True
        )
        found[stage] = {n for n, value in zip(trained, gradients, strict=True) if value is not None}
        channels[stage] = int(features.shape[1])
    return found, channels


def _refusal(architecture: str) -> str:
    return (
        f"HCL.TIMM.NAME: {architecture} does not give maps of stride 4, 8, 16 and 32 for images of "
        "any size, which an FPN needs; take a convolutional network that does, such as resnet10t"
    )


def _with_norm(network: nn.Module, norm: str) -> nn.Module:
    if norm not in TIMM_NORMS:
        raise InputError(f"HCL.TIMM.NORM is '{norm}': set it to one of {', '.join(TIMM_NORMS)}")
    if norm == "BN":
        return network
    # timm's own functions know its batch norms with an activation; detectron2's drop that.
    layers = _layers()
    convert = layers.convert_sync_batchnorm if norm == "SyncBN" else layers.freeze_batch_norm_2d
    converted: nn.Module = convert(network)
    return converted


def _freeze(network: nn.Module, names: set[str]) -> nn.Module:
    """Train nothing of what is called ``names``; batch norms among them use running statistics."""
    for name, parameter in network.named_parameters():
        if name in names:
            parameter.requires_grad = False
    for place, layer in list(network.named_modules()):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and f"{place}.weight" in names:
            network.set_submodule(place, _layers().freeze_batch_norm_2d(layer))
    return network


def _layers() -> Any:
    import timm.layers

    return timm.layers
