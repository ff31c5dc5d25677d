"""The layouts in which others save a ResNet: which tensors are the backbone, and which are not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.export.header import DEPTH

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
class Found:
    """A backbone with torchvision's names, and what was left out or filled in."""

    layout: str
    architecture: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def strip(path: Path, state: Mapping[str, Tensor]) -> Found:
    """The backbone in ``state``; every tensor is either part of it or known not to be.

    Raises:
        InputError: no layout fits, a tensor is foreign, or one is missing.
    """
    layout = next((one for one in LAYOUTS if f"{one.prefix}conv1.weight" in state), None)
    if layout is None:
        raise InputError(f"{path}: {_unknown(list(state))}")
    inside = {
        name.removeprefix(layout.prefix): value
        for name, value in state.items()
        if name.startswith(layout.prefix)
    }
    beside = [name for name in state if not name.startswith(layout.prefix)]
    foreign = [name for name in beside if not re.fullmatch(layout.beside, name)]
    heads = [name for name in inside if re.fullmatch(layout.head, name)]
    tensors = {name: value for name, value in inside.items() if name not in heads}
    architecture = _nearest(set(tensors))
    expected = shapes(architecture)
    foreign += [f"{layout.prefix}{name}" for name in tensors if name not in expected]
    if foreign:
        raise InputError(
            f"{path}: {len(foreign)} tensors are not part of {architecture}, such as "
            f"'{sorted(foreign)[0]}' (a projection head left in, or another network?); save the "
            f"backbone alone, with torchvision's names (read as: {layout.name})"
        )
    missing = [name for name in expected if name not in tensors]
    lost = [name for name in missing if not name.endswith(COUNTER)]
    if lost:
        raise InputError(
            f"{path}: {len(expected) - len(lost)}/{len(expected)} tensors of {architecture}; "
            f"missing '{layout.prefix}{sorted(lost)[0]}'; save the whole backbone "
            f"(read as: {layout.name})"
        )
    notes = [f"read as a checkpoint of {layout.name}"]
    left = len(beside) + len(heads)
    if left:
        notes.append(f"left out: {left} tensors, such as '{(beside + heads)[0]}'")
    if missing:
        notes.append(f"{len(missing)} counters of batches are not in the file and start at 0")
    tensors |= {name: torch.zeros((), dtype=torch.long) for name in missing}
    return Found(layout.name, architecture, tensors, tuple(notes))


@cache
def shapes(architecture: str) -> dict[str, torch.Size]:
    """Of every tensor of a torchvision ResNet but its classifier."""
    with torch.device("meta"):
        state = getattr(torchvision.models, architecture)(weights=None).state_dict()
    return {name: value.shape for name, value in state.items() if not name.startswith("fc.")}


def _nearest(names: set[str]) -> str:
    """The architecture with the fewest names missing or left over."""
    return min(DEPTH, key=lambda architecture: len(names ^ set(shapes(architecture))))


def _unknown(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    if any("bottom_up." in name or name.startswith("roi_heads.") for name in names):
        return f"tensors of a trained detector ({shown}); to measure it, use --eval-only"
    if "stem.conv1.weight" in names:
        return "detectron2's names without saying how the weights are to be used; give the source"
    known = ", ".join(f"'{layout.prefix}conv1.weight'" for layout in LAYOUTS)
    return f"no ResNet in a known layout: it has {shown}, and none of {known}"
