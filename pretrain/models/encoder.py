"""Backbone and projection head."""

from __future__ import annotations

import difflib
from typing import Any, Literal

import torchvision
from torch import Tensor, nn

from pretrain.errors import InputError
from pretrain.settings import Settings

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101")


class EncoderSettings(Settings):
    """Which network.

    Attributes:
        backbone: one of ``BACKBONES``, torchvision's definition and initialisation.
        head: ``mlp``: Linear, ReLU, Linear, as MoCo-v2 (arXiv 2003.04297, section 3);
            ``mlp_bn``: Linear, batch norm, ReLU, Linear without bias, as BYOL's projector.
        hidden: width of the head's hidden layer; None takes the backbone's output width,
            as MoCo-v2 does.
        dim: width of the embedding.
    """

    backbone: str = "resnet50"
    head: Literal["mlp", "mlp_bn"] = "mlp"
    hidden: int | None = None
    dim: int = 128


def build_backbone(name: str) -> nn.Module:
    """A torchvision ResNet without its classifier: (N, 3, H, W) -> (N, num_features).

    The width stands in ``num_features``; parameter names are torchvision's.

    Raises:
        InputError: no such backbone.
    """
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"one of {', '.join(BACKBONES)}"
        raise InputError(f"model.backbone: unknown backbone '{name}'; {hint}")
    network: Any = getattr(torchvision.models, name)(weights=None)
    network.num_features = network.fc.in_features
    network.fc = nn.Identity()
    return network  # type: ignore[no-any-return]


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
    """``head(backbone(images))``: (N, 3, H, W) -> (N, dim), not normalised."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = build_backbone(settings.backbone)
        width: int = self.backbone.num_features  # type: ignore[assignment]
        self.head = build_head(settings.head, width, settings.hidden or width, settings.dim)

    def forward(self, images: Tensor) -> Tensor:
        """Project images."""
        projected: Tensor = self.head(self.backbone(images))
        return projected
