"""Fixtures of the tests of analyses: fine-tuned runs of a second."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# The parts that the tests of fine-tuning share.
sys.path.insert(0, str(Path(__file__).parents[1] / "retrieval"))

CLASSES, EACH = 10, 6


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Ten classes of six noisy pictures; five of them are tested."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(1)
    for label in range(CLASSES):
        (root / f"class{label}").mkdir()
        color = rng.integers(30, 225, 3)
        for number in range(EACH):
            noise = rng.normal(0, 45, (36, 40, 3)) + color + rng.normal(0, 30, 3)
            picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
            picture.save(root / f"class{label}/{number}.png")
    return root


@pytest.fixture(scope="session")
def make_tuned(shapes, tmp_path_factory):
    """Trains a run of two steps under a name and settings of the loss; each once."""
    from finetune_parts import TINY, train

    from downstream.retrieval.finetune.finetuned_model import load_finetuned
    from downstream.retrieval.finetune.score import score

    runs = tmp_path_factory.mktemp("tuned")

    def make(name: str, root: Path = shapes, seed: int = 0, **loss) -> Path:
        folder = runs / name
        if not folder.exists():
            train(
                {
                    "output": str(folder),
                    "seed": seed,
                    "data": {"name": "folder", "root": str(root), "workers": 0},
                    "model": {
                        "backbone": "vit_tiny_patch16_224",
                        "options": TINY,
                        "dim": 8,
                        "size": 32,
                    },
                    "loss": loss,
                    "sampler": {"classes": 3, "samples": 2},
                    "optim": {"lr": 1e-3},
                    "train": {
                        "steps": 2,
                        "device": "cpu",
                        "precision": "fp32",
                        "tensorboard": False,
                    },
                }
            )
            score(load_finetuned(folder), folder, ["test"])
        return folder

    return make


@pytest.fixture(scope="session")
def sphere_run(make_tuned) -> Path:
    return make_tuned("sphere", geometry="sphere")


@pytest.fixture(scope="session")
def ball_run(make_tuned) -> Path:
    """Not clipped, so that norms differ and the ball ranks in its own way."""
    return make_tuned("ball", seed=1, geometry="ball", clip_radius=None)


@pytest.fixture(scope="session")
def mixed_run(make_tuned) -> Path:
    return make_tuned("mixed", seed=2, geometry="mixed", clip_radius=None)


@pytest.fixture(scope="session")
def released_run(make_tuned) -> Path:
    """What HypMix released: points of the ball are those of unit vectors."""
    return make_tuned("released", geometry="mixed", ball_input="unit", numerics="official")


@pytest.fixture(scope="session")
def other_shapes(tmp_path_factory) -> Path:
    """Another set of images: six classes of four."""
    root = tmp_path_factory.mktemp("others")
    rng = np.random.default_rng(2)
    for label in range(6):
        (root / f"other{label}").mkdir()
        for number in range(4):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"other{label}/{number}.png")
    return root
