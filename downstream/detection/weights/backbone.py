"""Pretrained backbones: one constructor for each origin, every tensor checked.

What is read has detectron2's names and says what a detector's config must agree with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from downstream.detection.model.config import TIMM_FPN
from downstream.detection.weights.layouts import find_resnet
from downstream.weight_files import load_safetensors, load_torch
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.export.detectron2_format import (
    DEPTH,
    detectron2_config,
    detectron2_name,
    pixel_config,
    provenance_of,
    read_detectron2,
)
from pretrain.export.tensors import check_tensors, resnet_shapes
from pretrain.models.backbones import TIMM, build_backbone, is_timm
from pretrain.pretrained import PretrainedEncoder, load_pretrained

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


@dataclass(frozen=True)
class PixelStatistics:
    """By which pixels in [0, 1] are scaled; ImageNet's where a file does not say it."""

    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    notes: tuple[str, ...] = ("RGB and ImageNet's mean and deviation assumed",)


def read_backbone(path: Path) -> Backbone:
    """Read an export, run folder or checkpoint of this project, or a checkpoint of another's.

    Others are torchvision's and timm's ResNets, MoCo's, DenseCL's and ORL's (``layouts``), as a
    torch file or safetensors. Other networks of timm must come from this project, whose files say
    how to build them. Others' files must say nothing of their input, or RGB; without a statement
    ImageNet's mean and deviation are assumed, and that is noted.

    Raises:
        InputError: it is missing, would have to be unpickled, is of no known layout, or its
            tensors are not those of its network.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such weights file; write it with `hcl export RUN --to detectron2`, or "
            "--to timm for a network of timm"
        )
    if path.is_dir():
        return from_run(load_pretrained(path))
    if path.suffix == ".safetensors":
        return from_safetensors(path)
    content = load_torch(path)
    if isinstance(content.get("hcl"), dict):
        return from_export(path)
    if "description" in content and "model" in content:
        return from_run(load_pretrained(path))
    epoch = content.get("epoch")
    origin = {"epoch": epoch} if isinstance(epoch, int) else {}
    return from_resnet(path, _state(path, content), PixelStatistics(), origin)


def from_export(path: Path) -> Backbone:
    """Of ``hcl export --to detectron2``."""
    export = read_detectron2(path)
    header = export.header
    if header.backbone not in DEPTH:
        raise InputError(f"{path}: unknown backbone '{header.backbone}'")
    shapes = {detectron2_name(n): shape for n, shape in resnet_shapes(header.backbone).items()}
    _check(path, export.tensors, shapes, header.backbone, "detectron2")
    return Backbone(
        path=path,
        sha256=export.sha256,
        layout="hcl export",
        architecture=header.backbone,
        tensors=export.tensors,
        config=header.config,
        name=header.provenance.run,
        origin=header.provenance.model_dump(),
    )


def from_run(pretrained: PretrainedEncoder) -> Backbone:
    """Of a run of ``hcl pretrain`` or one of its checkpoints."""
    description, path = pretrained.description, pretrained.checkpoint
    encoder = description.encoder
    pixels = description.mean, description.std
    tensors = {name: value.contiguous() for name, value in pretrained.backbone.state_dict().items()}
    shapes = {name: value.shape for name, value in tensors.items()}  # they were loaded strictly
    network = _network_of_timm(encoder.backbone, encoder.options)
    architecture = encoder.backbone.removeprefix(TIMM)
    _check(path, tensors, shapes, architecture, "detectron2" if network is None else "timm")
    if network is None:
        config = detectron2_config(architecture, *pixels)
        tensors = {detectron2_name(name): value for name, value in tensors.items()}
    else:
        config = _timm_config(network, *pixels)
    origin = provenance_of(pretrained)
    return Backbone(
        path=path,
        sha256=origin.checkpoint_sha256,
        layout="hcl run",
        architecture=architecture,
        tensors=tensors,
        config=config,
        name=origin.run,
        origin=origin.model_dump(),
    )


def from_safetensors(path: Path) -> Backbone:
    """Of ``hcl export`` for timm or safetensors, or of another's ResNet."""
    state, header = load_safetensors(path)
    pixels = _pixels_of(header)
    origin: dict[str, Any] = {k: header[k] for k in ("run", "method", "step") if k in header}
    network = _network_of_header(path, header)
    if network is None:
        return from_resnet(path, state, pixels, origin)
    architecture, options = network
    tensors, half = _single(state)
    with torch.device("meta"):
        expected = build_backbone(TIMM + architecture, options).state_dict()
    shapes = {name: value.shape for name, value in expected.items()}
    _check(path, tensors, shapes, architecture, "timm")
    return Backbone(
        path=path,
        sha256=sha256(path),
        layout="hcl export",
        architecture=architecture,
        tensors=tensors,
        config=_timm_config(network, pixels.mean, pixels.std),
        name=str(origin.get("run", path.stem)),
        origin={"layout": "hcl export", **origin},
        notes=pixels.notes + half,
    )


def from_resnet(
    path: Path, state: Mapping[str, Tensor], pixels: PixelStatistics, origin: Mapping[str, Any]
) -> Backbone:
    """Of a ResNet with torchvision's names, in one of the ``layouts``."""
    resnet = find_resnet(path, state)
    architecture = resnet.architecture
    tensors, half = _single(resnet.tensors)
    remedy = f"save the whole backbone alone, with torchvision's names (read as: {resnet.layout})"
    shapes = resnet_shapes(architecture)
    check_tensors(tensors, shapes, source=str(path), network=architecture, remedy=remedy)
    return Backbone(
        path=path,
        sha256=sha256(path),
        layout=resnet.layout,
        architecture=architecture,
        tensors={detectron2_name(name): value for name, value in tensors.items()},
        config=detectron2_config(architecture, pixels.mean, pixels.std),
        name=str(origin.get("run", path.name.removesuffix(".tar").rpartition(".")[0])),
        origin={"layout": resnet.layout, **origin},
        notes=pixels.notes + resnet.notes + half,
    )


def _check(
    path: Path,
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    architecture: str,
    target: str,
) -> None:
    remedy = f"export the run again with `hcl export RUN --to {target}`"
    check_tensors(tensors, shapes, source=str(path), network=architecture, remedy=remedy)


def _pixels_of(header: Mapping[str, str]) -> PixelStatistics:
    try:
        said = json.loads(header["pretrained_cfg"]) if "pretrained_cfg" in header else header
        mean, std = (
            tuple(json.loads(said[key]) if isinstance(said[key], str) else said[key])
            for key in ("mean", "std")
        )
    except (KeyError, ValueError, TypeError):
        return PixelStatistics()
    return PixelStatistics(mean, std, ())


def _state(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path}: no tensors, neither by itself nor under state_dict or model")
    return state


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
