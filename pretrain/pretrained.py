"""Reading the encoder back out of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pretrain import checkpoint
from pretrain.core.errors import InputError
from pretrain.core.run_files import CHECKPOINTS
from pretrain.core.settings import Settings, parse
from pretrain.mixed_precision import Precision
from pretrain.models import Encoder, EncoderSettings


class Description(Settings):
    """What a checkpoint says about its encoder, enough to rebuild and to use it rightly.

    Attributes:
        encoder: the network.
        method: as the table should call it, such as ``moco`` or ``moco+hcl``.
        prefix: where the query encoder's tensors stand in the checkpoint's model state.
        size: side of the training views, pixels.
        mean: per channel in RGB order, for images in [0, 1].
        std: likewise.
        curvature: c of the ball the head was trained for; None without the HCL branch.
        clip_radius: limit on the norm before the exponential map, or None.
        config: the resolved configuration of the run.
        precision: of the run's forwards; None in checkpoints from before it could be chosen by
            the machine, whose ``config`` names it.
    """

    encoder: EncoderSettings
    method: str
    prefix: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    curvature: float | None
    clip_radius: float | None
    config: dict[str, Any]
    precision: Precision | None = None


@dataclass
class PretrainedEncoder:
    """An encoder in evaluation mode, and where it came from."""

    encoder: Encoder
    description: Description
    checkpoint: Path
    step: int

    @property
    def backbone(self) -> nn.Module:
        """The part that is exported, with its library's names: images to (N, num_features)."""
        return self.encoder.backbone


def load_pretrained(source: Path) -> PretrainedEncoder:
    """Read a run folder (its newest sound checkpoint) or one checkpoint file.

    Raises:
        InputError: nothing there, damaged, or not a checkpoint of this project.
    """
    found = checkpoint.read_run(source)
    if found is None:
        raise InputError(f"{source}: no checkpoint in {source / CHECKPOINTS}; run pretraining")
    path, state = found
    if "description" not in state or "model" not in state:
        raise InputError(f"{path}: not a checkpoint of `hcl pretrain`")
    description = parse(Description, state["description"], source=str(path), at="description")
    encoder = Encoder(description.encoder)
    # A method's encoder may have further heads, which nothing but its own training uses.
    parts = tuple(f"{description.prefix}{part}." for part in ("backbone", "head"))
    weights: dict[str, torch.Tensor] = {
        name.removeprefix(description.prefix): value
        for name, value in state["model"].items()
        if name.startswith(parts)
    }
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: its tensors are not those of {description.encoder.backbone} as installed "
            f"here (another version of its library?): {_first(error)}"
        ) from None
    return PretrainedEncoder(encoder.eval(), description, path, int(state["step"]))


def _first(error: Exception) -> str:
    """What the error says first, without the heading."""
    lines = [line.strip() for line in str(error).splitlines()]
    return (lines[1] if len(lines) > 1 else lines[0])[:200]
