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

from downstream.detection.model.config import TIMM_FPN
from downstream.detection.weights.layouts import strip
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.core.run_files import CHECKPOINTS
from pretrain.export.header import (
    DEPTH,
    detectron2_config,
    pixel_config,
    read_detectron2,
)
from pretrain.export.names import detectron2_name
from pretrain.models.backbones import TIMM, is_timm
from pretrain.pretrained import Pretrained, load_pretrained

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation per channel, RGB in [0, 1]."""


@dataclass(frozen=True)
class Backbone:
    """One pretrained network.

    Attributes:
        path: where it was read.
        sha256: of that file.
        layout: whose names the file has.
        architecture: torchvision's name of a ResNet, or timm's name of another network.
        tensors: a ResNet's by detectron2's names, without any prefix; others' by timm's. float32.
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

    @property
    def of_timm(self) -> bool:
        """Whether the network is timm's; a plain ResNet of timm's counts as torchvision's."""
        return "HCL.TIMM.NAME" in self.config


def read_backbone(path: Path) -> Backbone:
    """Read an export, run folder or checkpoint of this project, or a checkpoint of another's.

    Others are torchvision's and timm's ResNets, MoCo's, DenseCL's and ORL's (``layouts``), as a
    torch file or safetensors. Other networks of timm must come from this project, whose files say
    how to build them. Others' files must say nothing of their input, or RGB; without a statement
    ImageNet's mean and deviation are assumed, and that is noted.

    Raises:
        InputError: it is missing, would have to be unpickled, or is of no known layout.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such weights file; write it with `hcl export RUN --to detectron2`, or "
            "--to timm for a network of timm"
        )
    if path.is_dir():
        return _of_run(load_pretrained(path))
    if path.suffix == ".safetensors":
        return _of_safetensors(path)
    content = load_torch(path)
    if isinstance(content.get("hcl"), dict):
        return _of_export(path)
    if "description" in content and "model" in content:
        return _of_run(load_pretrained(path))
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


def _of_run(pretrained: Pretrained) -> Backbone:
    description = pretrained.description
    encoder = description.encoder
    pixels = description.mean, description.std
    state = {name: value.contiguous() for name, value in pretrained.backbone.state_dict().items()}
    network = _network_of_timm(encoder.backbone, encoder.options)
    if network is None:
        architecture = encoder.backbone.removeprefix(TIMM)
        config = detectron2_config(architecture, *pixels)
        state = {detectron2_name(name): value for name, value in state.items()}
    else:
        architecture, config = network[0], _timm_config(network, *pixels)
    folder = pretrained.checkpoint.resolve().parent
    run = folder.parent.name if folder.name == CHECKPOINTS else folder.name
    digest = sha256(pretrained.checkpoint)
    return Backbone(
        pretrained.checkpoint,
        digest,
        "hcl run",
        architecture,
        state,
        config,
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
    network = _network_of_header(path, header)
    if network is not None:
        tensors, more = _single(state)
        name = str(known.get("run", path.stem))
        config = _timm_config(network, mean, std)
        origin = {"layout": "hcl export", **known}
        return Backbone(
            path,
            sha256(path),
            "hcl export",
            network[0],
            tensors,
            config,
            name,
            origin,
            notes + more,
        )
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
    single, half = _single(found.tensors)
    notes += found.notes + half
    tensors = {detectron2_name(name): value for name, value in single.items()}
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


def _single(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in float32, and a note where some were stored in half precision."""
    half = sorted({str(value.dtype) for value in state.values() if value.dtype.itemsize == 2})
    tensors = {
        n: value.float() if value.is_floating_point() else value for n, value in state.items()
    }
    kind = half[0].removeprefix("torch.") if half else ""
    return tensors, (f"stored as {kind}, trained on as float32",) if half else ()


Network = tuple[str, dict[str, Any]]
"""timm's name, and the options of its constructor."""


def _network_of_timm(backbone: str, options: Mapping[str, Any]) -> Network | None:
    """None where ``backbone`` is a ResNet that torchvision has too, with the same names."""
    name = backbone.removeprefix(TIMM)
    if not is_timm(backbone) or (name in DEPTH and not options):
        return None
    # Lists as configs have them: a run's settings have tuples in their place.
    return name, json.loads(json.dumps(options))


def _network_of_header(path: Path, header: Mapping[str, str]) -> Network | None:
    """What a safetensors file of ``hcl export`` says; None where it is a ResNet or says nothing."""
    try:
        if "architecture" in header and "model_args" in header:  # --to timm
            arguments = json.loads(header["model_args"])
            options = {key: value for key, value in arguments.items() if key != "num_classes"}
            return _network_of_timm(TIMM + header["architecture"], options)
        # --to safetensors
        return _network_of_timm(header.get("backbone", ""), json.loads(header.get("options", "{}")))
    except (KeyError, ValueError, AttributeError):
        raise InputError(
            f"{path}: its header does not say how to build the network; write it again with "
            "`hcl export RUN --to timm`"
        ) from None


def _timm_config(
    network: Network, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    name, options = network
    return {
        **pixel_config(mean, std),
        "MODEL.BACKBONE.NAME": TIMM_FPN,
        "HCL.TIMM.NAME": name,
        "HCL.TIMM.OPTIONS": options,
        "HCL.TIMM.NORM": "BN",
    }
