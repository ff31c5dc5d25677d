"""Other libraries' networks, holding exported tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor, nn

from pretrain.core.errors import InputError
from pretrain.export.target import agree
from pretrain.models.backbones import import_timm

FC_KEYS = ("fc.weight", "fc.bias")


def load_torchvision(backbone: str, state: dict[str, Tensor]) -> tuple[int, nn.Module]:
    """Load into a fresh torchvision network: everything but ``FC_KEYS`` must match.

    Raises:
        InputError: a tensor is missing, left over, or has another shape.
    """
    network: nn.Module = getattr(torchvision.models, backbone)(weights=None)
    expected = set(network.state_dict()) - set(FC_KEYS)
    return _load(network, state, expected, f"torchvision's {backbone}", "torchvision")


def load_timm(
    architecture: str, arguments: Mapping[str, Any], state: dict[str, Tensor]
) -> tuple[int, nn.Module]:
    """Load into a fresh network of timm: everything must match.

    Args:
        architecture: timm's name.
        arguments: of ``timm.create_model``.
        state: by timm's names.

    Raises:
        InputError: a tensor is missing, left over, or has another shape.
    """
    network: nn.Module = import_timm().create_model(architecture, pretrained=False, **arguments)
    return _load(network, state, set(network.state_dict()), f"timm's {architecture}", "timm")


def _load(
    network: nn.Module, state: dict[str, Tensor], expected: set[str], whose: str, library: str
) -> tuple[int, nn.Module]:
    agree(expected, set(state), whose)
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{library} refused the weights: {error}") from None
    return len(expected), network
