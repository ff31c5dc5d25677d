"""detectron2's names and settings of a ResNet, and the files of ``hcl export --to detectron2``."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.core.run_files import CHECKPOINTS
from pretrain.core.settings import Settings, parse
from pretrain.pretrained import PretrainedEncoder

DEPTH = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}


class Provenance(Settings):
    """Where weights come from.

    Attributes:
        run: name of the run's folder.
        method: as a table calls it, such as ``moco+hcl``.
        step: optimizer steps done.
        checkpoint: file name.
        checkpoint_sha256: of that file.
    """

    run: str
    method: str
    step: int
    checkpoint: str
    checkpoint_sha256: str


def provenance_of(pretrained: PretrainedEncoder) -> Provenance:
    """Of the checkpoint that was read."""
    folder = pretrained.checkpoint.resolve().parent
    return Provenance(
        run=folder.parent.name if folder.name == CHECKPOINTS else folder.name,
        method=pretrained.description.method,
        step=pretrained.step,
        checkpoint=pretrained.checkpoint.name,
        checkpoint_sha256=sha256(pretrained.checkpoint),
    )


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


_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

# Every tensor of a torchvision ResNet without classifier matches exactly one row.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"conv1\.weight"), "stem.conv1.weight"),
    (re.compile(rf"bn1\.{_NORM}"), r"stem.conv1.norm.\1"),
    (re.compile(r"layer([1-4])\.(\d+)\.conv([1-3])\.weight"), r"res{stage}.\2.conv\3.weight"),
    (re.compile(rf"layer([1-4])\.(\d+)\.bn([1-3])\.{_NORM}"), r"res{stage}.\2.conv\3.norm.\4"),
    (re.compile(r"layer([1-4])\.(\d+)\.downsample\.0\.weight"), r"res{stage}.\2.shortcut.weight"),
    (
        re.compile(rf"layer([1-4])\.(\d+)\.downsample\.1\.{_NORM}"),
        r"res{stage}.\2.shortcut.norm.\3",
    ),
)


def detectron2_name(name: str) -> str:
    """Detectron2's name of torchvision's ``name``, without the ``backbone.bottom_up`` prefix.

    ``layer{t}`` becomes ``res{t+1}``, ``bn{k}`` becomes ``conv{k}.norm`` and ``downsample``
    becomes ``shortcut``.

    Raises:
        InputError: no such tensor in a ResNet backbone, such as a classifier's or a head's.
    """
    found = [(rule.fullmatch(name), template) for rule, template in _RULES]
    matches = [(match, template) for match, template in found if match]
    if not matches:
        raise InputError(f"tensor '{name}' is not part of a ResNet backbone; it cannot be exported")
    assert len(matches) == 1, name
    match, template = matches[0]
    if "{stage}" in template:
        template = template.replace("{stage}", str(int(match[1]) + 1))
    return match.expand(template)


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


class DetectionWeights(NamedTuple):
    """An exported backbone in detectron2's names."""

    header: Header
    tensors: dict[str, Tensor]


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
    return DetectionWeights(header, tensors)
