"""Other libraries' networks, holding exported tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor, nn

from pretrain.export.verify import check_tensors, resnet_shapes
from pretrain.models.backbones import import_timm

WRITTEN = {"source": "the exported file", "remedy": "nothing was written"}
"""Parts of the message about a tensor that is wrong in a file that was just written."""


def load_torchvision(backbone: str, state: dict[str, Tensor]) -> tuple[int, nn.Module]:
    """Load into a fresh torchvision network: everything but ``FC_KEYS`` must match.

    Raises:
        InputError: a tensor is missing, foreign, or has another shape.
    """
    shapes = resnet_shapes(backbone)
    check_tensors(state, shapes, network=f"torchvision's {backbone}", **WRITTEN)
    network: nn.Module = getattr(torchvision.models, backbone)(weights=None)
    network.load_state_dict(state, strict=False)
    return len(shapes), network


def load_timm(
    architecture: str, arguments: Mapping[str, Any], state: dict[str, Tensor]
) -> tuple[int, nn.Module]:
    """Load into a fresh network of timm: everything must match.

    Args:
        architecture: timm's name.
        arguments: of ``timm.create_model``.
        state: by timm's names.

    Raises:
        InputError: a tensor is missing, foreign, or has another shape.
    """
    network: nn.Module = import_timm().create_model(architecture, pretrained=False, **arguments)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    check_tensors(state, shapes, network=f"timm's {architecture}", **WRITTEN)
    network.load_state_dict(state)
    return len(shapes), network
