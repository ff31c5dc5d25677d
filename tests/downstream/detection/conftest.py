"""Toy data and exported weights. Nothing here imports detectron2 before a test does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

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
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A detectron2 export of a fresh encoder, by backbone name."""
    made: dict[str, Path] = {}

    def get(backbone: str) -> Path:
        if backbone not in made:
            torch.manual_seed(1)
            settings = EncoderSettings(backbone=backbone, hidden=16, dim=8)
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
                "model": {f"query.{k}": v for k, v in Encoder(settings).state_dict().items()},
                "description": description.model_dump(),
                "step": 11,
            }
            run = tmp_path_factory.mktemp("runs") / f"toy_{backbone}"
            checkpoint.save(run / "checkpoints", state, 11, keep=1, keep_every=None)
            made[backbone] = export(run, "detectron2", run / "weights.pth").path
        return made[backbone]

    return get
