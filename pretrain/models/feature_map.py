"""The last feature map of a backbone together with its pooled output, in one forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretrain.core.errors import InputError
from pretrain.models.backbones import check_size, is_timm

STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
"""What torchvision's ResNets apply before they pool."""

STRIDE = 32
"""Pixels a cell of their last feature map."""

TOLERANCE = 1e-4

Layout = Literal["stages", "NCHW", "NHWC", "tokens"]


@dataclass(frozen=True)
class FeatureMap:
    """How a backbone's last feature map is had.

    Attributes:
        channels: of a cell.
        side: cells a side, for square images of the size asked for.
        layout: ``stages`` of a torchvision ResNet; of a timm model, what ``forward_features``
            gives: ``NCHW``, ``NHWC`` or ``tokens``.
    """

    channels: int
    side: int
    layout: Layout

    def read(self, backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled output (N, num_features) and the map (N, channels, H, W)."""
        if self.layout == "stages":
            features = images
            for name in STAGES:
                features = getattr(backbone, name)(features)
            return backbone.avgpool(features).flatten(1), features  # type: ignore[operator]
        check_size(backbone, images)
        return _read_timm(backbone, images, self.layout)


def find_feature_map(name: str, backbone: nn.Module, size: int) -> FeatureMap:
    """How to read the last feature map of ``backbone``, found by one forward of a small batch.

    Args:
        name: what to call it in messages.
        backbone: from ``build_backbone``.
        size: side of the images, pixels.

    Raises:
        InputError: it has none, or its map does not go with its pooled output.
    """
    if not is_timm(name):
        width: int = backbone.num_features  # type: ignore[assignment]
        return FeatureMap(width, -(-size // STRIDE), "stages")
    refusal = (
        f"model.backbone: {name} gives no feature map, which a dense method needs; "
        "take another backbone, such as timm/resnet50d"
    )
    training = backbone.training
    backbone.eval()
    # No random numbers: the run's initialization does not depend on this look.
    images = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
    try:
        with torch.no_grad():
            expected = backbone(images)
            layout = _layout(backbone, images)
            if layout is None:
                raise InputError(refusal)
            pooled, cells = _read_timm(backbone, images, layout)
    except (AssertionError, NotImplementedError):
        # How timm's models say that they cannot give normalized cells.
        raise InputError(refusal) from None
    finally:
        backbone.train(training)
    if cells.ndim != 4 or pooled.shape != expected.shape:
        raise InputError(refusal)
    if not torch.allclose(pooled, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise InputError(f"{refusal} (pooling its map gives other features than the model itself)")
    return FeatureMap(cells.shape[1], min(cells.shape[2:]), layout)


def _layout(backbone: Any, images: Tensor) -> Layout | None:
    if not hasattr(backbone, "forward_features") or not hasattr(backbone, "forward_head"):
        return None
    features = backbone.forward_features(images)
    if not isinstance(features, Tensor):
        return None
    if features.ndim == 4:
        return "NHWC" if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else "NCHW"
    has_cells = features.ndim == 3 and hasattr(backbone, "forward_intermediates")
    return "tokens" if has_cells else None


def _read_timm(backbone: Any, images: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    if layout == "tokens":
        # The normalized patch tokens of the last block, back on their grid.
        features, (cells,) = backbone.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW"
        )
    else:
        features = backbone.forward_features(images)
        cells = features.permute(0, 3, 1, 2) if layout == "NHWC" else features
    return backbone.forward_head(features), cells
