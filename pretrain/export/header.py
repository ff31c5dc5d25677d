"""What an exported file says about itself, and reading it back without running any code."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.core.settings import Settings, parse

DEPTH = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}


class Provenance(Settings):
    """Where weights come from.

    Attributes:
        run: name of the run's folder.
        method: as a table calls it, such as ``moco+hcl``.
        step: optimiser steps done.
        checkpoint: file name.
        checkpoint_sha256: of that file.
    """

    run: str
    method: str
    step: int
    checkpoint: str
    checkpoint_sha256: str


class Header(Settings):
    """Entry ``hcl`` of a detectron2 export: what a detector's config must agree with.

    Attributes:
        version: of this header.
        backbone: torchvision's name of the network.
        config: detectron2 keys and the values under which the backbone computes what it
            computed in pretraining; pixel statistics are for images in 0..255.
        provenance: where the weights come from.
    """

    version: int = 1
    backbone: str
    config: dict[str, Any]
    provenance: Provenance


def pixel_config(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """The detectron2 keys by which images are read and scaled; arguments as below."""
    return {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [255.0 * value for value in mean],
        "MODEL.PIXEL_STD": [255.0 * value for value in std],
    }


def detectron2_config(
    backbone: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    """The detectron2 keys that decide what function the backbone computes.

    Args:
        backbone: torchvision's name.
        mean: per channel in RGB order, for images in [0, 1].
        std: likewise.
    """
    depth = DEPTH[backbone]
    return {
        **pixel_config(mean, std),
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if depth < 50 else 256,
        # torchvision strides in the 3x3 convolution; detectron2's default is the 1x1.
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NORM": "BN",
    }


@dataclass
class DetectionWeights:
    """An exported backbone in detectron2's names."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    header: Header


def read_detectron2(path: Path) -> DetectionWeights:
    """Read a file that ``hcl export --to detectron2`` wrote. Nothing in it is ever executed.

    Raises:
        InputError: it is missing, unreadable, or not such an export.
    """
    remedy = "write it with `hcl export RUN --to detectron2`"
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; {remedy}")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError):
        raise InputError(f"{path}: not a readable torch file of tensors; {remedy}") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("hcl"), dict):
        raise InputError(f"{path}: no entry 'hcl' saying how to use the weights; {remedy}")
    header = parse(Header, loaded["hcl"], source=str(path), at="hcl")
    tensors = loaded.get("model")
    if not isinstance(tensors, dict) or not tensors:
        raise InputError(f"{path}: no tensors in entry 'model'; {remedy}")
    return DetectionWeights(path, sha256(path), tensors, header)
