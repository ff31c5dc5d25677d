"""Toy data and exported weights. Nothing here imports detectron2 before a test does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from pretrain import checkpoint
from pretrain.export import export
from pretrain.models import Encoder, EncoderSettings
from pretrain.pretrained import Description

if TYPE_CHECKING:
    from toy_detection import Toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """Polygon masks."""
    from toy_detection import write_toy

    return write_toy(tmp_path / "toy")


@pytest.fixture
def toy_rle(tmp_path: Path) -> Toy:
    """Run-length coded masks."""
    from toy_detection import write_toy

    return write_toy(tmp_path / "toy_rle", rle=True)


@pytest.fixture
def small_config(tmp_path: Path) -> Path:
    """A native detectron2 config that trains in a second."""
    from toy_detection import SMALL

    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The run folder of an encoder, by its backbone and options.

    Its batch norms are as if trained: fresh ones hide whole branches, whose last scale is 0.
    """

    def make(backbone: str, options: dict[str, Any] | None = None) -> Path:
        torch.manual_seed(1)
        settings = EncoderSettings(backbone=backbone, options=options or {}, hidden=16, dim=8)
        encoder = Encoder(settings)
        for layer in encoder.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean, 0, 0.1)
                for value in (layer.running_var, layer.weight):
                    nn.init.uniform_(value, 0.5, 1.5)
        description = Description(
            encoder=settings,
            method="moco",
            prefix="query.",
            size=64,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            curvature=None,
            clip_radius=None,
            config={},
        )
        state = {
            "model": {f"query.{k}": v for k, v in encoder.state_dict().items()},
            "description": description.model_dump(),
            "step": 11,
        }
        run = tmp_path_factory.mktemp("runs") / f"toy_{backbone.removeprefix('timm/')}"
        checkpoint.save(run / "checkpoints", state, 11, keep=1, keep_every=None)
        return run

    return make


@pytest.fixture(scope="session")
def exported(runs: Callable[..., Path]) -> Callable[[str], Path]:
    """A detectron2 export of a fresh encoder, by backbone name."""
    made: dict[str, Path] = {}

    def get(backbone: str) -> Path:
        if backbone not in made:
            run = runs(backbone)
            made[backbone] = export(run, "detectron2", run / "weights.pth").path
        return made[backbone]

    return get
