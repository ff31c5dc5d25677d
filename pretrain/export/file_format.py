"""What every format does, and what the formats share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.export.detectron2_format import Provenance
from pretrain.pretrained import PretrainedEncoder


class FileFormat(ABC):
    """One format.

    Attributes:
        suffix: the file name's end.
        absent: tensors the reading library has and the file leaves out.
    """

    suffix: str = ".pth"
    absent: tuple[str, ...] = ()

    @abstractmethod
    def write(self, pretrained: PretrainedEncoder, origin: Provenance, path: Path) -> None:
        """Write the backbone to ``path``."""

    @abstractmethod
    def read(self, pretrained: PretrainedEncoder, path: Path) -> tuple[int, nn.Module]:
        """Load ``path`` by the format's own library.

        Returns:
            The number of tensors matched, and a network holding them.

        Raises:
            InputError: a tensor is missing, left over, or has another shape.
        """

    @abstractmethod
    def features(self, network: nn.Module, images: Tensor, path: Path) -> dict[str, Tensor]:
        """What the loaded network computes on images in 0..255, by the backbone's layer names."""


def save(content: dict[str, Any], path: Path) -> None:
    """Write a torch file whose bytes depend on ``content`` alone."""
    # Given a path, torch.save writes the path's name into the file: equal content, unequal sha256.
    with path.open("wb") as file:
        torch.save(content, file)


def contiguous(backbone: nn.Module) -> dict[str, Tensor]:
    """The state of a backbone, in plain memory format."""
    return {name: value.detach().contiguous() for name, value in backbone.state_dict().items()}
