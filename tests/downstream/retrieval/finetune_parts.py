"""What the tests of fine-tuning share."""

from __future__ import annotations

from pathlib import Path

import torch

from downstream.retrieval.finetune.settings import (
    FinetuneSettings,
)
from downstream.retrieval.finetune.trainer import Trainer
from pretrain.core.config import dump_yaml
from pretrain.core.settings import parse
from pretrain.distributed import World

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
TINY = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
COLORS = [
    (200, 40, 40),
    (40, 200, 40),
    (40, 40, 200),
    (200, 200, 40),
    (40, 200, 200),
    (90, 90, 90),
]


def settings_of(values: dict) -> FinetuneSettings:
    return parse(FinetuneSettings, values, source="test")


def changed(values: dict, **sections) -> dict:
    return {
        **values,
        **{
            name: {**values.get(name, {}), **more} if isinstance(more, dict) else more
            for name, more in sections.items()
        },
    }


def train(values: dict, world: World = ALONE) -> Trainer:
    trainer = Trainer(settings_of(values), world, ["test"])
    trainer.fit()
    return trainer


def command(values: dict, tmp_path: Path) -> list[str]:
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(settings_of(values)))
    return ["retrieve", "train", str(file)]
