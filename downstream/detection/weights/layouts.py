"""The layouts in which others save a ResNet: which tensors are the backbone, and which are not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.export.detectron2_format import DEPTH
from pretrain.export.tensors import resnet_shapes

COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        name: whose.
        prefix: before torchvision's names of the backbone.
        beside: what other tensors outside the prefix may be called.
        head: what tensors behind the prefix are a head, which is left out.
    """

    name: str
    prefix: str
    beside: str = r"(?!)"
    head: str = r"(?!)"


# The first whose prefix leads to a ResNet's first convolution is taken.
LAYOUTS = (
    Layout(
        "MoCo",
        "module.encoder_q.",
        beside=r"module\.(encoder_k\.|queue).*",
        head=r"fc\.([0-9]+\.)?(weight|bias)",
    ),
    Layout(
        "MoCo v3",
        "module.base_encoder.",
        beside=r"module\.(momentum_encoder|predictor)\..*",
        head=r"fc\.[0-9]+\..*",
    ),
    # OpenSelfSup's training checkpoints name the backbone twice; extracted ones have no prefix.
    Layout(
        "DenseCL or ORL",
        "backbone.",
        beside=r"(encoder_q|encoder_k|online_net|target_net|neck|head|\w*head|queue\w*)(\..*)?",
    ),
    Layout("torchvision in DataParallel", "module.", head=r"fc\.(weight|bias)"),
    Layout("torchvision, timm or an extracted backbone", "", head=r"fc\.(weight|bias)"),
)


@dataclass(frozen=True)
class ResNetState:
    """A ResNet's tensors by torchvision's names, as a layout says.

    Attributes:
        layout: whose.
        architecture: torchvision's name of the ResNet that is nearest.
        tensors: what may be part of it: also what no layout explains, by its whole name.
        notes: what was left out or filled in.
    """

    layout: str
    architecture: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def find_resnet(path: Path, state: Mapping[str, Tensor]) -> ResNetState:
    """The ResNet in ``state``: heads, key encoders and queues that a layout knows are left out.

    Counters of batches that the file does not have start at 0.

    Raises:
        InputError: no layout fits.
    """
    layout = next((one for one in LAYOUTS if f"{one.prefix}conv1.weight" in state), None)
    if layout is None:
        raise InputError(f"{path}: {_unknown(list(state))}")
    tensors: dict[str, Tensor] = {}
    beside: list[str] = []
    heads: list[str] = []
    for name, value in state.items():
        inner = name.removeprefix(layout.prefix)
        if not name.startswith(layout.prefix):
            if re.fullmatch(layout.beside, name):
                beside.append(name)
            else:
                tensors[name] = value
        elif re.fullmatch(layout.head, inner):
            heads.append(inner)
        else:
            tensors[inner] = value
    architecture = _nearest(set(tensors))
    missing = [name for name in resnet_shapes(architecture) if name not in tensors]
    counters = [name for name in missing if name.endswith(COUNTER)]
    notes = [f"read as a checkpoint of {layout.name}"]
    left = beside + heads
    if left:
        notes.append(f"left out: {len(left)} tensors, such as '{left[0]}'")
    if counters:
        notes.append(f"{len(counters)} counters of batches are not in the file and start at 0")
    tensors |= {name: torch.zeros((), dtype=torch.long) for name in counters}
    return ResNetState(layout.name, architecture, tensors, tuple(notes))


def _nearest(names: set[str]) -> str:
    """The architecture with the fewest names missing or left over."""
    return min(DEPTH, key=lambda architecture: len(names ^ set(resnet_shapes(architecture))))


def _unknown(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    if any("bottom_up." in name or name.startswith("roi_heads.") for name in names):
        return f"tensors of a trained detector ({shown}); to measure it, use --eval-only"
    if "stem.conv1.weight" in names:
        return "detectron2's names without saying how the weights are to be used; give the source"
    known = ", ".join(f"'{layout.prefix}conv1.weight'" for layout in LAYOUTS)
    return f"no ResNet in a known layout: it has {shown}, and none of {known}"
