"""Pretrained backbones of any origin, with detectron2's names and what a config must agree with.

Nothing is unpickled: torch files are read with ``weights_only=True``.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from downstream.detection.layouts import strip
from pretrain.errors import InputError
from pretrain.export.header import DEPTH, detectron2_config, read_detectron2, sha256
from pretrain.export.names import detectron2_name
from pretrain.pretrained import Pretrained, load_pretrained

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation per channel, RGB in [0, 1]."""


@dataclass(frozen=True)
class Backbone:
    """One pretrained ResNet.

    Attributes:
        path: where it was read.
        sha256: of that file.
        layout: whose names the file has.
        architecture: torchvision's name of the network.
        tensors: by detectron2's names, without any prefix; float32.
        config: detectron2 keys and the values under which the backbone computes what it
            computed in pretraining; pixel statistics are for images in 0..255.
        name: for the table.
        origin: for the record.
        notes: what had to be assumed or left out.
    """

    path: Path
    sha256: str
    layout: str
    architecture: str
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    name: str
    origin: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_backbone(path: Path) -> Backbone:
    """Read an export, run folder or checkpoint of this project, or a checkpoint of another's.

    Others are torchvision's and timm's ResNets, MoCo's, DenseCL's and ORL's (``layouts``), as a
    torch file or safetensors. They must say nothing of their input, or RGB; without a statement
    ImageNet's mean and deviation are assumed, and that is noted.

    Raises:
        InputError: it is missing, would have to be unpickled, or is of no known layout.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such weights file; write it with `hcl export RUN --to detectron2`"
        )
    if path.is_dir():
        return _of_run(path, load_pretrained(path))
    if path.suffix == ".safetensors":
        return _of_safetensors(path)
    content = load_torch(path)
    if isinstance(content.get("hcl"), dict):
        return _of_export(path)
    if "description" in content and "model" in content:
        return _of_run(path, load_pretrained(path))
    state = _state(path, content)
    epoch = content.get("epoch")
    more = {"epoch": epoch} if isinstance(epoch, int) else {}
    return _foreign(path, state, IMAGENET, ("RGB and ImageNet's mean and deviation assumed",), more)


def load_torch(path: Path) -> dict[str, Any]:
    """The content of a torch file that holds tensors and plain values alone.

    Raises:
        InputError: it is no torch file, or holds what only unpickling could restore.
    """
    if path.suffix in (".pkl", ".pickle"):
        raise InputError(
            f"{path}: a pickle, which may run any code when opened, is never opened; give the "
            "checkpoint it was made of"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "WeightsUnpickler error" in str(error) or "unsupported global" in str(error).lower():
            raise InputError(
                f"{path}: holds objects that only unpickling could restore, which may run any "
                "code; where you trust it, save its tensors alone: torch.save(the state_dict, FILE)"
            ) from None
        raise InputError(f"{path}: not a readable torch file of tensors") from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError):
        raise InputError(f"{path}: not a readable torch file of tensors") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no dictionary of tensors")
    return content


def _of_export(path: Path) -> Backbone:
    found = read_detectron2(path)
    header = found.header
    return Backbone(
        path,
        found.sha256,
        "hcl export",
        header.backbone,
        found.tensors,
        header.config,
        header.provenance.run,
        header.provenance.model_dump(),
    )


def _of_run(path: Path, pretrained: Pretrained) -> Backbone:
    description = pretrained.description
    architecture = description.encoder.backbone
    if architecture not in DEPTH:
        raise InputError(
            f"{path}: its backbone is {architecture}, and detectron2's detectors here have only "
            f"the ResNets {', '.join(DEPTH)}"
        )
    state = pretrained.backbone.state_dict()
    folder = pretrained.checkpoint.resolve().parent
    run = folder.parent.name if folder.name == "checkpoints" else folder.name
    digest = sha256(pretrained.checkpoint)
    return Backbone(
        pretrained.checkpoint,
        digest,
        "hcl run",
        architecture,
        {detectron2_name(name): value.contiguous() for name, value in state.items()},
        detectron2_config(architecture, description.mean, description.std),
        run,
        {
            "run": run,
            "method": description.method,
            "step": pretrained.step,
            "checkpoint": pretrained.checkpoint.name,
            "checkpoint_sha256": digest,
        },
    )


def _of_safetensors(path: Path) -> Backbone:
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f"{path}: reading it needs safetensors; pip install safetensors") from None
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
    notes: tuple[str, ...] = ()
    try:
        said = json.loads(header["pretrained_cfg"]) if "pretrained_cfg" in header else header
        mean, std = (
            tuple(json.loads(said[key]) if isinstance(said[key], str) else said[key])
            for key in ("mean", "std")
        )
    except (KeyError, ValueError, TypeError):
        mean, std = IMAGENET
        notes = ("RGB and ImageNet's mean and deviation assumed",)
    known: dict[str, Any] = {k: header[k] for k in ("run", "method", "step") if k in header}
    return _foreign(path, state, (mean, std), notes, known)


def _state(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path}: no tensors, neither by itself nor under state_dict or model")
    return state


def _foreign(
    path: Path,
    state: Mapping[str, Tensor],
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    notes: tuple[str, ...],
    more: dict[str, Any],
) -> Backbone:
    found = strip(path, state)
    notes += found.notes
    half = sorted({str(t.dtype) for t in found.tensors.values() if t.dtype.itemsize == 2})
    if half:
        notes += (f"stored as {half[0].removeprefix('torch.')}, trained on as float32",)
    tensors = {
        detectron2_name(name): value.float() if value.is_floating_point() else value
        for name, value in found.tensors.items()
    }
    digest = sha256(path)
    name = str(more.get("run", path.name.removesuffix(".tar").rpartition(".")[0]))
    return Backbone(
        path,
        digest,
        found.layout,
        found.architecture,
        tensors,
        detectron2_config(found.architecture, *pixels),
        name,
        {"layout": found.layout, **more},
        notes,
    )
