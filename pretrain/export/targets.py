"""The three formats: how each is written, and how its own library reads it back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pretrain.errors import InputError
from pretrain.export.features import LAYERS, torchvision_features
from pretrain.export.header import Header, Provenance, detectron2_config, read_detectron2
from pretrain.export.names import detectron2_name
from pretrain.pretrained import Pretrained

FC_KEYS = ("fc.weight", "fc.bias")
INSTALL = "run `python tools/install_detectron2.py` in this environment first"


class Target(ABC):
    """One format.

    Attributes:
        suffix: the file name's end.
        absent: tensors the reading library has and the file leaves out.
    """

    suffix: str = ".pth"
    absent: tuple[str, ...] = ()

    @abstractmethod
    def write(self, pretrained: Pretrained, origin: Provenance, path: Path) -> None:
        """Write the backbone to ``path``."""

    @abstractmethod
    def read(self, pretrained: Pretrained, path: Path) -> tuple[int, nn.Module]:
        """Load ``path`` by the format's own library.

        Returns:
            The number of tensors matched, and a network holding them.

        Raises:
            InputError: a tensor is missing, left over, or has another shape.
        """

    @abstractmethod
    def features(self, network: nn.Module, images: Tensor, path: Path) -> dict[str, Tensor]:
        """What the loaded network computes on images in 0..255, by torchvision's layer names."""


class Torchvision(Target):
    """A plain ``state_dict``, for ``torchvision.models.resnetXX``."""

    absent = FC_KEYS

    def __init__(self, pretrained: Pretrained) -> None:
        self.mean, self.std = pretrained.description.mean, pretrained.description.std

    def write(self, pretrained: Pretrained, origin: Provenance, path: Path) -> None:
        """Write the backbone's state; the format has no room for its origin."""
        _save(_contiguous(pretrained.backbone), path)

    def read(self, pretrained: Pretrained, path: Path) -> tuple[int, nn.Module]:
        """Load into torchvision's network, strictly but for the classifier."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        return load_torchvision(pretrained.description.encoder.backbone, state)

    def features(self, network: nn.Module, images: Tensor, path: Path) -> dict[str, Tensor]:
        """Layer outputs and the pooled output."""
        return torchvision_features(network, images, self.mean, self.std)


class Safetensors(Torchvision):
    """Torchvision's names in a safetensors file, with a header of strings."""

    suffix = ".safetensors"

    def write(self, pretrained: Pretrained, origin: Provenance, path: Path) -> None:
        """Write tensors and header."""
        from safetensors.torch import save

        description = pretrained.description
        header = {
            "format": "pt",
            "backbone": description.encoder.backbone,
            "input_format": "RGB in [0, 1]",
            "mean": json.dumps(description.mean),
            "std": json.dumps(description.std),
            **{name: str(value) for name, value in origin.model_dump().items()},
        }
        path.write_bytes(save(_contiguous(pretrained.backbone), metadata=header))

    def read(self, pretrained: Pretrained, path: Path) -> tuple[int, nn.Module]:
        """Load by safetensors, into torchvision's network."""
        from safetensors.torch import load_file

        return load_torchvision(pretrained.description.encoder.backbone, load_file(path))


class Detectron2(Target):
    """detectron2's names, in a ``.pth`` whose entries its checkpointer and ``hcl detect`` read.

    detectron2 honours ``matching_heuristics`` inside a ``.pth`` as well as inside a ``.pkl``;
    the ``.pth`` needs no unpickling of foreign objects.
    """

    def write(self, pretrained: Pretrained, origin: Provenance, path: Path) -> None:
        """Write renamed tensors, the loader's flags and the header."""
        description = pretrained.description
        backbone = description.encoder.backbone
        header = Header(
            backbone=backbone,
            config=detectron2_config(backbone, description.mean, description.std),
            provenance=origin,
        )
        state = _contiguous(pretrained.backbone)
        renamed = {detectron2_name(name): value for name, value in state.items()}
        assert len(renamed) == len(state), "two tensors share one name"
        content = {"model": renamed, "__author__": "hcl", "matching_heuristics": True}
        _save({**content, "hcl": header.model_dump()}, path)

    def read(self, pretrained: Pretrained, path: Path) -> tuple[int, nn.Module]:
        """Load by detectron2's checkpointer, under the prefix an FPN gives the backbone."""
        try:
            from detectron2.checkpoint import DetectionCheckpointer
            from detectron2.config import get_cfg
            from detectron2.layers import ShapeSpec
            from detectron2.modeling.backbone import build_resnet_backbone
        except ImportError as error:
            raise InputError(f"--to detectron2 needs detectron2 ({error}); {INSTALL}") from None
        weights = read_detectron2(path)
        config: Any = get_cfg()
        config.merge_from_list([part for pair in weights.header.config.items() for part in pair])
        config.MODEL.BACKBONE.FREEZE_AT = 0
        config.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        network = build_resnet_backbone(config, ShapeSpec(channels=3))
        detector = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": network})})
        expected = set(network.state_dict())
        _agree(expected, set(weights.tensors), "detectron2's ResNet")
        DetectionCheckpointer(detector).load(str(path))
        loaded = network.state_dict()
        wrong = [n for n, value in weights.tensors.items() if not torch.equal(loaded[n], value)]
        if wrong:
            raise InputError(f"detectron2 did not load {len(wrong)} tensors, such as '{wrong[0]}'")
        return len(expected), network

    def features(self, network: nn.Module, images: Tensor, path: Path) -> dict[str, Tensor]:
        """Outputs of res2 to res5 after detectron2's own scaling of pixels."""
        config = read_detectron2(path).header.config
        mean, std = config["MODEL.PIXEL_MEAN"], config["MODEL.PIXEL_STD"]
        scaled = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        with torch.no_grad():
            outputs = network.eval()(scaled)
        return {layer: outputs[f"res{stage}"] for stage, layer in enumerate(LAYERS, start=2)}


TARGETS = ("torchvision", "detectron2", "safetensors")


def build_target(name: str, pretrained: Pretrained) -> Target:
    """The format called ``name``, one of ``TARGETS``."""
    if name == "detectron2":
        return Detectron2()
    return Safetensors(pretrained) if name == "safetensors" else Torchvision(pretrained)


def load_torchvision(backbone: str, state: dict[str, Tensor]) -> tuple[int, nn.Module]:
    """Load into a fresh torchvision network: everything but ``FC_KEYS`` must match.

    Raises:
        InputError: a tensor is missing, left over, or has another shape.
    """
    network: nn.Module = getattr(torchvision.models, backbone)(weights=None)
    expected = set(network.state_dict()) - set(FC_KEYS)
    _agree(expected, set(state), f"torchvision's {backbone}")
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"torchvision refused the weights: {error}") from None
    return len(expected), network


def _agree(expected: set[str], found: set[str], whose: str) -> None:
    missing, left_over = sorted(expected - found), sorted(found - expected)
    if missing or left_over:
        raise InputError(
            f"the names are not those of {whose}: {len(missing)} missing {missing[:2]}, "
            f"{len(left_over)} left over {left_over[:2]}; nothing was written"
        )


def _save(content: dict[str, Any], path: Path) -> None:
    # Given a path, torch.save writes the path's name into the file: equal content, unequal sha256.
    with path.open("wb") as file:
        torch.save(content, file)


def _contiguous(backbone: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in backbone.state_dict().items()}
