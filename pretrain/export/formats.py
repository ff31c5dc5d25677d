"""The formats: how each is written, and how its own library reads it back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.core.errors import InputError
from pretrain.export.detectron2_format import (
    Header,
    Provenance,
    detectron2_config,
    detectron2_name,
    read_detectron2,
)
from pretrain.export.verify import (
    FC_KEYS,
    LAYERS,
    check_tensors,
    timm_features,
    torchvision_features,
)
from pretrain.models.backbones import TIMM, build_backbone, import_timm, is_timm, timm_arguments
from pretrain.pretrained import PretrainedEncoder

INSTALL = "run `python tools/install_detectron2.py` in this environment first"

WRITTEN = {"source": "the exported file", "remedy": "nothing was written"}
"""Parts of the message about a tensor that is wrong in a file that was just written."""


class FileFormat(ABC):
    """One format of a run's backbone.

    Attributes:
        suffix: the file name's end.
        absent: tensors the reading library has and the file leaves out.
        torchvision_only: the library has only the ResNets of torchvision.

    Raises:
        InputError: the run's backbone cannot be written so.
    """

    suffix: str = ".pth"
    absent: tuple[str, ...] = ()
    torchvision_only = False

    def __init__(self, target: str, pretrained: PretrainedEncoder) -> None:
        self.backbone, self.description = pretrained.backbone, pretrained.description
        self.encoder = pretrained.description.encoder
        self.of_timm = is_timm(self.encoder.backbone)
        self.architecture = self.encoder.backbone.removeprefix(TIMM)
        if self.of_timm and self.torchvision_only:
            reader = ", which `hcl detect` reads" if target == "detectron2" else ""
            raise InputError(
                f"--to {target}: the run's backbone is {self.encoder.backbone}, and {target} has "
                f"only the ResNets of torchvision; use --to timm{reader}, or pretrain with one of "
                "them (model.backbone=resnet50)"
            )

    @abstractmethod
    def write(self, origin: Provenance, path: Path) -> None:
        """Write the backbone to ``path``."""

    @abstractmethod
    def read(self, path: Path) -> tuple[int, nn.Module]:
        """Load ``path`` by the format's own library.

        Returns:
            The number of tensors matched, and a network holding them.

        Raises:
            InputError: a tensor is missing, left over, or has another shape.
        """

    def features(self, network: nn.Module, images: Tensor, path: Path) -> dict[str, Tensor]:
        """What the loaded network computes on images in 0..255, by the backbone's layer names."""
        read = timm_features if self.of_timm else torchvision_features
        return read(network, images, self.description.mean, self.description.std)


class Torchvision(FileFormat):
    """A plain ``state_dict``, for ``torchvision.models.resnetXX``; it has no room for an origin."""

    absent = FC_KEYS
    torchvision_only = True

    def write(self, origin: Provenance, path: Path) -> None:
        """Write the backbone's state."""
        _save(contiguous(self.backbone), path)

    def read(self, path: Path) -> tuple[int, nn.Module]:
        """Load into torchvision's network, strictly but for the classifier."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        return _load_torchvision(self.architecture, state)


class Safetensors(FileFormat):
    """The names of the backbone's own library in a safetensors file, with a header of strings."""

    suffix = ".safetensors"

    def __init__(self, target: str, pretrained: PretrainedEncoder) -> None:
        super().__init__(target, pretrained)
        self.absent = () if self.of_timm else FC_KEYS

    def header(self) -> dict[str, str]:
        """How the network is built and fed."""
        found = {
            "backbone": self.encoder.backbone,
            "input_format": "RGB in [0, 1]",
            "mean": json.dumps(self.description.mean),
            "std": json.dumps(self.description.std),
        }
        options = {"options": json.dumps(self.encoder.options)} if self.encoder.options else {}
        return found | options

    def write(self, origin: Provenance, path: Path) -> None:
        """Write tensors and header."""
        from safetensors.torch import save as serialize

        provenance = {name: str(value) for name, value in origin.model_dump().items()}
        metadata = {"format": "pt", **self.header(), **provenance}
        path.write_bytes(serialize(contiguous(self.backbone), metadata=metadata))

    def read(self, path: Path) -> tuple[int, nn.Module]:
        """Load by safetensors, into the network of the backbone's own library."""
        from safetensors.torch import load_file

        if not self.of_timm:
            return _load_torchvision(self.architecture, load_file(path))
        arguments = timm_arguments(self.architecture, self.encoder.options)
        return _load_timm(self.architecture, arguments, load_file(path))


class Timm(Safetensors):
    """A safetensors file for ``timm.create_model``, torchvision's ResNets among them.

    The header holds ``architecture`` and, as JSON, ``model_args`` and ``pretrained_cfg``:
    ``create_model(architecture, checkpoint_path=FILE, pretrained_cfg=..., **model_args)``.
    """

    def __init__(self, target: str, pretrained: PretrainedEncoder) -> None:
        super().__init__(target, pretrained)
        self.absent = ()

    def header(self) -> dict[str, str]:
        """How timm builds and feeds the network."""
        data = {
            "input_size": (3, self.description.size, self.description.size),
            "mean": self.description.mean,
            "std": self.description.std,
            "num_classes": 0,
        }
        return {
            "architecture": self.architecture,
            "model_args": json.dumps(timm_arguments(self.architecture, self.encoder.options)),
            "pretrained_cfg": json.dumps(data),
        }

    def read(self, path: Path) -> tuple[int, nn.Module]:
        """Load into the network that the header describes."""
        from safetensors.torch import load_file

        header = _read_header(path)
        return _load_timm(header["architecture"], json.loads(header["model_args"]), load_file(path))

    def features(self, network: nn.Module, images: Tensor, path: Path) -> dict[str, Tensor]:
        """Outputs of the stages and the pooled output, under the header's scaling of pixels."""
        data = json.loads(_read_header(path)["pretrained_cfg"])
        found = timm_features(network, images, data["mean"], data["std"])
        if self.of_timm:
            return found
        return {name: found[name] for name in LAYERS} | {
            "avgpool": found["pooled"][..., None, None]
        }


class Detectron2(FileFormat):
    """detectron2's names, in a ``.pth`` whose entries its checkpointer and ``hcl detect`` read.

    detectron2 honors ``matching_heuristics`` inside a ``.pth`` as well as inside a ``.pkl``;
    the ``.pth`` needs no unpickling of foreign objects.
    """

    torchvision_only = True

    def write(self, origin: Provenance, path: Path) -> None:
        """Write renamed tensors, the loader's flags and the header."""
        header = Header(
            backbone=self.architecture,
            config=detectron2_config(
                self.architecture, self.description.mean, self.description.std
            ),
            provenance=origin,
        )
        state = contiguous(self.backbone)
        renamed = {detectron2_name(name): value for name, value in state.items()}
        assert len(renamed) == len(state), "two tensors share one name"
        content = {"model": renamed, "__author__": "hcl", "matching_heuristics": True}
        _save({**content, "hcl": header.model_dump()}, path)

    def read(self, path: Path) -> tuple[int, nn.Module]:
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
        expected = {name: value.shape for name, value in network.state_dict().items()}
        check_tensors(weights.tensors, expected, network="detectron2's ResNet", **WRITTEN)
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


def _load_torchvision(backbone: str, state: dict[str, Tensor]) -> tuple[int, nn.Module]:
    return _load(build_backbone(backbone), f"torchvision's {backbone}", state)


def _load_timm(
    architecture: str, arguments: dict[str, Any], state: dict[str, Tensor]
) -> tuple[int, nn.Module]:
    network = import_timm().create_model(architecture, pretrained=False, **arguments)
    return _load(network, f"timm's {architecture}", state)


def _load(network: nn.Module, name: str, state: dict[str, Tensor]) -> tuple[int, nn.Module]:
    """Load into a fresh network without classifier: everything must match.

    Raises:
        InputError: a tensor is missing, foreign, or has another shape.
    """
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    check_tensors(state, shapes, network=name, **WRITTEN)
    network.load_state_dict(state)
    return len(shapes), network


def _save(content: dict[str, Any], path: Path) -> None:
    """Write a torch file whose bytes depend on ``content`` alone."""
    # Given a path, torch.save writes the path's name into the file: equal content, unequal sha256.
    with path.open("wb") as file:
        torch.save(content, file)


def contiguous(backbone: nn.Module) -> dict[str, Tensor]:
    """The state of a backbone, in plain memory format."""
    return {name: value.detach().contiguous() for name, value in backbone.state_dict().items()}


def _read_header(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header: dict[str, str] = file.metadata()
    return header


FORMATS: dict[str, type[FileFormat]] = {
    "torchvision": Torchvision,
    "detectron2": Detectron2,
    "safetensors": Safetensors,
    "timm": Timm,
}
