"""A small set of objects and a random run, made by the same code that real ones come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pretrain import checkpoint
from pretrain.models import Encoder, EncoderSettings
from pretrain.pretrained import Description

COLORS = {"tomato": (200, 40, 30), "leaf": (40, 160, 50), "sky": (60, 90, 210)}


def write_object_set(folder: Path, images: int = 6, seed: int = 0) -> tuple[Path, Path]:
    """Scenes of colored rectangles; the color is the category. Returns JSON and image folder."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    document: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 * n + 1, "name": name} for n, name in enumerate(COLORS)],
    }
    for number in range(images):
        noise = rng.integers(90, 130, (72, 96, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        draw = ImageDraw.Draw(picture)
        for column, color in enumerate(rng.permutation(3)):
            width, height = (int(side) for side in rng.integers(18, 28, 2))
            left, top = 32 * column + 2, int(rng.integers(2, 40))
            draw.rectangle(
                (left, top, left + width - 1, top + height - 1), list(COLORS.values())[color]
            )
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 10 * int(color) + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        name = f"scene_{number}.png"
        picture.save(folder / "images" / name)
        document["images"].append({"id": number, "file_name": name, "width": 96, "height": 72})
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return path, folder / "images"


def write_run(folder: Path, *, curvature: float | None = 0.1, seed: int = 0) -> Path:
    """A run folder holding one checkpoint of a random ResNet-18."""
    torch.manual_seed(seed)
    settings = EncoderSettings(backbone="resnet18", hidden=32, dim=16)
    encoder = Encoder(settings)
    description = Description(
        encoder=settings,
        method="moco+hcl" if curvature else "moco",
        prefix="encoder.",
        size=32,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        curvature=curvature,
        clip_radius=None,
        config={},
    )
    state = {
        "model": {f"encoder.{name}": value for name, value in encoder.state_dict().items()},
        "description": description.model_dump(mode="json"),
        "step": 7,
    }
    checkpoint.save(folder / "checkpoints", state, 7, keep=1, keep_every=None)
    return folder


@pytest.fixture(scope="session")
def object_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Annotations and images of 18 objects in 6 scenes. Read only."""
    return write_object_set(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="session")
def make_object_set() -> Callable[..., tuple[Path, Path]]:
    """``write_object_set``."""
    return write_object_set


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """``write_run``."""
    return write_run


@pytest.fixture(scope="session")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder called ``run-a`` with curvature 0.1. Read only."""
    return write_run(tmp_path_factory.mktemp("runs") / "run-a")
