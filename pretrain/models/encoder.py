"""Backbone and projection head."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from pretrain.core.settings import Settings
from pretrain.models.backbones import build_backbone


class EncoderSettings(Settings):
    """Which network.

    Attributes:
        backbone: torchvision's ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``, or any
            CNN or transformer of timm as ``timm/NAME``; definition and initialization are theirs.
        options: arguments of timm's constructor, such as ``drop_path_rate``.
        head: ``mlp``: Linear, ReLU, Linear, as MoCo-v2 (arXiv 2003.04297, section 3);
            ``mlp_bn``: Linear, batch norm, ReLU, Linear without bias, as BYOL's projector.
        hidden: width of the head's hidden layer; None takes the backbone's output width,
            as MoCo-v2 does.
        dim: width of the embedding.
    """

    backbone: str = "resnet50"
    options: dict[str, Any] = {}
    head: Literal["mlp", "mlp_bn"] = "mlp"
    hidden: int | None = None
    dim: int = 128


def build_head(kind: Literal["mlp", "mlp_bn"], width: int, hidden: int, dim: int) -> nn.Sequential:
    """A projection (N, width) -> (N, dim), of ``EncoderSettings.head``'s kind."""
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim)
        )
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, dim, bias=False),
    )


class Encoder(nn.Module):
    """``head(backbone(images))``: (N, 3, H, W) -> (N, dim), not normalized."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = build_backbone(settings.backbone, settings.options)
        width: int = self.backbone.num_features  # type: ignore[assignment]
        self.head = build_head(settings.head, width, settings.hidden or width, settings.dim)

    def forward(self, images: Tensor) -> Tensor:
        """Project images."""
        projected: Tensor = self.head(self.backbone(images))
        return projected
