"""Fixtures of the tests of retrieval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finetune_parts import COLORS, TINY
from PIL import Image


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory) -> Path:
    """Six classes of five noisy pictures; one is gray, one has a palette, one is RGBA, one CMYK."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for label, color in enumerate(COLORS):
        (root / f"class{label}").mkdir()
        for number in range(5):
            noise = rng.normal(0, 40, (40, 48, 3)) + color
            picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
            mode = {0: "L", 1: "P", 2: "RGBA"}.get(number) if label == 5 else None
            if label == 0 and number == 0:
                picture.convert("CMYK").save(root / "class0/0.jpg")
            else:
                picture.convert(mode or "RGB").save(root / f"class{label}/{number}.png")
    return root


@pytest.fixture
def values(class_folder, tmp_path) -> dict:
    return {
        "output": str(tmp_path / "run"),
        "data": {"name": "folder", "root": str(class_folder), "workers": 0},
        "model": {
            "backbone": "vit_tiny_patch16_224",
            "options": TINY,
            "dim": 8,
            "size": 32,
            "freeze": 0,
        },
        "loss": {"geometry": "mixed", "temperature_spherical": 0.1, "weight": 0.5},
        "sampler": {"classes": 3, "samples": 2},
        "optim": {"lr": 1e-3},
        "train": {
            "steps": 4,
            "device": "cpu",
            "precision": "fp32",
            "log_every": 1,
            "tensorboard": False,
        },
    }
