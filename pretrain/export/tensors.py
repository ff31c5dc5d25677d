"""The check of a network's tensors: their names, their shapes, and that all are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
import torchvision
from torch import Tensor

from pretrain.core.errors import InputError

FC_KEYS = ("fc.weight", "fc.bias")
"""Of a torchvision ResNet's classifier, which is no part of a backbone."""


@cache
def resnet_shapes(architecture: str) -> dict[str, torch.Size]:
    """Of every tensor of a torchvision ResNet but its classifier."""
    with torch.device("meta"):
        state = getattr(torchvision.models, architecture)(weights=None).state_dict()
    return {name: value.shape for name, value in state.items() if name not in FC_KEYS}


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
