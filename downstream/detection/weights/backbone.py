"""Pretrained backbones: one constructor for each origin, every tensor checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from downstream.detection.model.config import TIMM_FPN
from downstream.weight_files import load_safetensors, load_torch, tensors_of
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
from pretrain.export.verify import check_tensors, resnet_shapes
from pretrain.models.backbones import TIMM, build_backbone, is_timm
from pretrain.pretrained import load_pretrained

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation per channel, RGB in [0, 1]."""

COUNTER = ".num_batches_tracked"

Pixels = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel by which pixels in [0, 1] are scaled."""


@dataclass(frozen=True)
class Backbone:
    """One pretrained network.

    Attributes:
        path: where it was read.
        layout: whose names the file has.
        architecture: torchvision's name of a ResNet, or timm's name of another network.
        tensors: a ResNet's by detectron2's names, without any prefix; others' by timm's. float32.
        config: detectron2 keys and the values under which the backbone computes what it
            computed in pretraining; pixel statistics are for images in 0..255.
        origin: for the record.
        notes: what had to be assumed or left out.
        sha256: of the file.
    """

    path: Path
    layout: str
    architecture: str
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    origin: dict[str, Any]
    notes: tuple[str, ...]
    sha256: str

    @property
    def name(self) -> str:
        """For the table: the run's, or the file's."""
        return str(self.origin.get("run", self.path.name.removesuffix(".tar").rpartition(".")[0]))

    @property
    def of_timm(self) -> bool:
        """Whether the network is timm's; a plain ResNet of timm's counts as torchvision's."""
        return "HCL.TIMM.NAME" in self.config


@dataclass(frozen=True)
class Layout:
    """How others name the tensors of a ResNet, and what else they save beside.

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


def read_backbone(path: Path) -> Backbone:
    """Read an export, run folder or checkpoint of this project, or a checkpoint of another's.

    Others are torchvision's and timm's ResNets, MoCo's, DenseCL's and ORL's (``LAYOUTS``), as a
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
        return from_run(path)
    if path.suffix == ".safetensors":
        return from_safetensors(path)
    content = load_torch(path)
    if isinstance(content.get("hcl"), dict):
        return from_export(path)
    if "description" in content and "model" in content:
        return from_run(path)
    epoch = content.get("epoch")
    origin = {"epoch": epoch} if isinstance(epoch, int) else {}
    return from_resnet(path, tensors_of(path, content), None, origin)


def from_export(path: Path) -> Backbone:
    """Of ``hcl export --to detectron2``."""
    header, tensors = read_detectron2(path)
    if header.backbone not in DEPTH:
        raise InputError(f"{path}: unknown backbone '{header.backbone}'")
    shapes = {detectron2_name(n): shape for n, shape in resnet_shapes(header.backbone).items()}
    remedy = "export the run again with `hcl export RUN --to detectron2`"
    check_tensors(tensors, shapes, source=str(path), network=header.backbone, remedy=remedy)
    return Backbone(
        path=path,
        layout="hcl export",
        architecture=header.backbone,
        tensors=tensors,
        config=header.config,
        origin=header.provenance.model_dump(),
        notes=(),
        sha256=sha256(path),
    )


def from_run(path: Path) -> Backbone:
    """Of a run of ``hcl pretrain`` or one of its checkpoints."""
    pretrained = load_pretrained(path)
    description = pretrained.description
    return _from_library(
        pretrained.checkpoint,
        pretrained.backbone.state_dict(),
        _network_of(description.encoder.backbone, description.encoder.options),
        (description.mean, description.std),
        layout="hcl run",
        origin=provenance_of(pretrained).model_dump(),
    )


def from_safetensors(path: Path) -> Backbone:
    """Of ``hcl export`` for timm or safetensors, or of another's ResNet."""
    state, header = load_safetensors(path)
    pixels = _pixels_of(header)
    origin: dict[str, Any] = {k: header[k] for k in ("run", "method", "step") if k in header}
    network = _network_of_header(path, header)
    if network.options is None:
        return from_resnet(path, state, pixels, origin)
    return _from_library(path, state, network, pixels, layout="hcl export", origin=origin)


def from_resnet(
    path: Path, state: Mapping[str, Tensor], pixels: Pixels | None, origin: Mapping[str, Any]
) -> Backbone:
    """Of a ResNet with torchvision's names, in one of the ``LAYOUTS``.

    Heads, key encoders and queues that the layout knows are left out; what it does not explain
    stays among the tensors, by its whole name, and fails their check. Counters of batches that the
    file does not have start at 0.

    Raises:
        InputError: no layout fits, or the tensors are not those of the ResNet that is nearest.
    """
    layout = next((one for one in LAYOUTS if f"{one.prefix}conv1.weight" in state), None)
    if layout is None:
        raise InputError(f"{path}: {_unknown(list(state))}")
    tensors, left = {}, []
    for name, value in state.items():
        inner = name.removeprefix(layout.prefix)
        behind = name.startswith(layout.prefix)
        if re.fullmatch(layout.head if behind else layout.beside, inner):
            left.append(inner)
        else:
            tensors[inner] = value
    # The architecture with the fewest names missing or left over.
    architecture = min(DEPTH, key=lambda one: len(tensors.keys() ^ resnet_shapes(one).keys()))
    missing = resnet_shapes(architecture).keys() - tensors.keys()
    counters = {name: torch.zeros((), dtype=torch.long) for name in missing if COUNTER in name}
    notes = [f"read as a checkpoint of {layout.name}"]
    if left:
        notes.append(f"left out: {len(left)} tensors, such as '{left[0]}'")
    if counters:
        notes.append(f"{len(counters)} counters of batches are not in the file and start at 0")
    return _from_library(
        path,
        tensors | counters,
        Network(architecture),
        pixels,
        layout=layout.name,
        origin=origin,
        notes=notes,
        remedy=f"save the whole backbone alone, with torchvision's names (read as: {layout.name})",
    )


class Network(NamedTuple):
    """timm's network and its constructor's options; without any, torchvision's ResNet."""

    architecture: str
    options: dict[str, Any] | None = None

    def shapes(self) -> dict[str, torch.Size]:
        """Of all tensors, by the library's names."""
        if self.options is None:
            return resnet_shapes(self.architecture)
        with torch.device("meta"):
            state = build_backbone(TIMM + self.architecture, self.options).state_dict()
        return {name: value.shape for name, value in state.items()}

    def config(self, pixels: Pixels) -> dict[str, Any]:
        """The detectron2 keys under which a detector has this network."""
        if self.options is None:
            return detectron2_config(self.architecture, *pixels)
        return {
            **pixel_config(*pixels),
            "MODEL.BACKBONE.NAME": TIMM_FPN,
            "HCL.TIMM.NAME": self.architecture,
            "HCL.TIMM.OPTIONS": self.options,
            "HCL.TIMM.NORM": "BN",
        }


def _from_library(
    path: Path,
    state: Mapping[str, Tensor],
    network: Network,
    pixels: Pixels | None,
    *,
    layout: str,
    origin: Mapping[str, Any],
    notes: Sequence[str] = (),
    remedy: str = "",
) -> Backbone:
    """Of tensors by the names of torchvision or timm; arguments as in ``Backbone``."""
    said = [] if pixels else ["RGB and ImageNet's mean and deviation assumed"]
    said += notes
    half = {str(value.dtype) for value in state.values() if value.dtype.itemsize == 2}
    if half:
        said.append(f"stored as {min(half).removeprefix('torch.')}, trained on as float32")
    tensors = {n: v.float() if v.is_floating_point() else v for n, v in state.items()}
    target = "detectron2" if network.options is None else "timm"
    check_tensors(
        tensors,
        network.shapes(),
        source=str(path),
        network=network.architecture,
        remedy=remedy or f"export the run again with `hcl export RUN --to {target}`",
    )
    if network.options is None:
        tensors = {detectron2_name(name): value for name, value in tensors.items()}
    return Backbone(
        path=path,
        layout=layout,
        architecture=network.architecture,
        tensors=tensors,
        config=network.config(pixels or IMAGENET),
        origin=dict(origin),
        notes=tuple(said),
        sha256=sha256(path),
    )


def _pixels_of(header: Mapping[str, str]) -> Pixels | None:
    """What a safetensors file says; None where it says nothing."""
    try:
        said = json.loads(header["pretrained_cfg"]) if "pretrained_cfg" in header else header
        mean, std = (
            tuple(json.loads(said[key]) if isinstance(said[key], str) else said[key])
            for key in ("mean", "std")
        )
    except (KeyError, ValueError, TypeError):
        return None
    return mean, std


def _network_of(backbone: str, options: Mapping[str, Any]) -> Network:
    """Of a run's backbone; a plain ResNet of timm's is torchvision's, with the same names."""
    name = backbone.removeprefix(TIMM)
    if not is_timm(backbone) or (name in DEPTH and not options):
        return Network(name)
    # Lists as configs have them: a run's settings have tuples in their place.
    return Network(name, json.loads(json.dumps(options)))


def _network_of_header(path: Path, header: Mapping[str, str]) -> Network:
    """What a safetensors file of ``hcl export`` says; a ResNet where it says nothing."""
    try:
        if "architecture" in header and "model_args" in header:  # --to timm
            arguments = json.loads(header["model_args"])
            options = {key: value for key, value in arguments.items() if key != "num_classes"}
            return _network_of(TIMM + header["architecture"], options)
        # --to safetensors
        return _network_of(header.get("backbone", ""), json.loads(header.get("options", "{}")))
    except (KeyError, ValueError, AttributeError):
        raise InputError(
            f"{path}: its header does not say how to build the network; write it again with "
            "`hcl export RUN --to timm`"
        ) from None


def _unknown(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    if any("bottom_up." in name or name.startswith("roi_heads.") for name in names):
        return f"tensors of a trained detector ({shown}); to measure it, use --eval-only"
    if "stem.conv1.weight" in names:
        return "detectron2's names without saying how the weights are to be used; give the source"
    known = ", ".join(f"'{layout.prefix}conv1.weight'" for layout in LAYOUTS)
    return f"no ResNet in a known layout: it has {shown}, and none of {known}"
