"""The two checks of a backbone that was written or read: its tensors, and what it computes.

Tensors: their names, their shapes, and that all are numbers. Features on random input: the evidence
that a file in another library, or in a detector, computes the same function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.core.errors import InputError
from pretrain.models.backbones import build_backbone, is_timm
from pretrain.pretrained import PretrainedEncoder

TOLERANCE = 1e-5
LAYERS = ("layer1", "layer2", "layer3", "layer4")
FC_KEYS = ("fc.weight", "fc.bias")
"""Of a torchvision ResNet's classifier, which is no part of a backbone."""


@cache
def resnet_shapes(architecture: str) -> dict[str, torch.Size]:
    """Of every tensor of a torchvision ResNet but its classifier."""
    with torch.device("meta"):
        state = build_backbone(architecture).state_dict()
    return {name: value.shape for name, value in state.items()}


def check_tensors(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    *,
    source: str,
    network: str,
    remedy: str,
) -> None:
    """Check that ``tensors`` are all tensors of a network and no others.

    Args:
        tensors: by name.
        shapes: of all tensors of the network, by name.
        source: of the tensors, for the message.
        network: likewise.
        remedy: likewise.

    Raises:
        InputError: a tensor is foreign (a projection head, a classifier), is missing, has another
            shape, or holds what is not a number.
    """
    foreign = sorted(set(tensors) - set(shapes))
    if foreign:
        raise InputError(
            f"{source}: {len(foreign)} tensors are not part of {network}, such as "
            f"'{foreign[0]}' (a projection head or classifier?); {remedy}"
        )
    missing = sorted(set(shapes) - set(tensors))
    if missing:
        raise InputError(
            f"{source}: {len(shapes) - len(missing)}/{len(shapes)} tensors of {network}; "
            f"missing '{missing[0]}'; {remedy}"
        )
    for name, shape in shapes.items():
        value = tensors[name]
        if value.shape != shape:
            raise InputError(
                f"{source}: '{name}' has shape {tuple(value.shape)}, "
                f"{network} needs {tuple(shape)}; {remedy}"
            )
        if not value.isfinite().all():
            raise InputError(
                f"{source}: '{name}' holds infinite values or NaN, as an overflow of float16 "
                "leaves; save the weights in float32"
            )


def probe(size: tuple[int, int] = (96, 160)) -> Tensor:
    """Two random RGB images, float32 (2, 3, H, W) in 0..255; channels differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *size, generator=generator) * 255
    return (images * torch.tensor([1.0, 0.7, 0.4]).view(3, 1, 1)).round()


def torchvision_features(
    network: nn.Module, images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Tensor]:
    """Outputs of ``layer1`` to ``layer4`` and ``avgpool`` in evaluation mode.

    Args:
        network: a torchvision ResNet, with or without its classifier.
        images: (N, 3, H, W) RGB in 0..255.
        mean: for images in [0, 1].
        std: likewise.
    """
    outputs, _ = _watch(network, (*LAYERS, "avgpool"), images, mean, std)
    return outputs


def timm_features(
    network: nn.Module, images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Tensor]:
    """Outputs of the stages that a timm model names, and ``pooled``, in evaluation mode.

    Args:
        network: a timm model without classifier.
        images: (N, 3, H, W) RGB in 0..255.
        mean: for images in [0, 1].
        std: likewise.
    """
    modules = dict(network.named_modules())
    stages: Any = getattr(network, "feature_info", None) or []
    names = [stage["module"] for stage in stages if stage.get("module") in modules]
    outputs, pooled = _watch(network, names, images, mean, std)
    return {**outputs, "pooled": pooled}


def backbone_features(pretrained: PretrainedEncoder) -> tuple[Tensor, dict[str, Tensor]]:
    """Random images in 0..255 that the run's backbone can take, and its features of them."""
    description = pretrained.description
    if not is_timm(description.encoder.backbone):
        images, read = probe(), torchvision_features
    else:
        # Transformers may take no other size than that of the run.
        images, read = probe((description.size, description.size)), timm_features
    return images, read(pretrained.backbone, images, description.mean, description.std)


def _watch(
    network: nn.Module,
    names: Iterable[str],
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs of the modules called ``names``, and that of the network."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.detach().clone()

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    scaled = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    try:
        with torch.no_grad():
            output: Tensor = network.eval()(scaled)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, output


def compare_features(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    *,
    tolerance: float = TOLERANCE,
    source: str = "the exported file",
    remedy: str = "nothing was written",
) -> float:
    """Largest difference over all layers, relative to the layer's largest feature.

    Args:
        expected: features by layer.
        found: likewise, of at least these layers.
        tolerance: largest difference that is accepted.
        source: of the weights that gave ``found``, for the message.
        remedy: likewise.

    Raises:
        InputError: the difference exceeds ``tolerance``, a shape differs, or ``expected`` is not
            finite.
    """
    worst = 0.0
    for name, features in expected.items():
        other = found[name]
        if features.shape != other.shape:
            raise InputError(
                f"{source} gives features of another shape at {name}: "
                f"{tuple(other.shape)} instead of {tuple(features.shape)}; {remedy}"
            )
        if not features.isfinite().all():
            raise InputError(
                f"the pretrained network's own features at {name} are not finite: bad weights"
            )
        scale = features.abs().max().item()
        difference = (features - other).abs().max().item() / scale if scale > 0 else float("nan")
        # Written so that a NaN fails.
        if not difference <= tolerance:
            raise InputError(
                f"{source} computes another function: features of {name} differ by "
                f"{difference:.2g} of their scale (limit {tolerance:g}); {remedy}"
            )
        worst = max(worst, difference)
    return worst
