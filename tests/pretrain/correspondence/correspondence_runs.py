"""A small run, and the command line that matches its regions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hcl


def pretrain_on(folder: Path, annotations: Path, images: Path, steps: int = 0) -> Path:
    """A run of ResNet-18 on views of 32 px in ``folder/run``, its index in ``folder/index``."""
    values: dict[str, Any] = {
        "output": folder / "run",
        "data.annotations": annotations,
        "data.images": images,
        "data.index": folder / "index",
        "data.workers": 0,
        "views.size": 32,
        "model.dim": 16,
        "method.queue": 32,
        "method.norm_group": 4,
        "hcl.queue": 32,
        "optim.batch_size": 8,
        "train.epochs": None,
        "train.steps": steps,
        "train.threads": 1,
        "train.tensorboard": False,
    }
    overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]
    assert hcl.main(["pretrain", "quickstart", *overrides]) == 0
    return folder


def command_line(base: Path, output: Path, arguments: Sequence[str]) -> list[str]:
    """Of ``hcl correspond``."""
    options = ["--neighbours", "4", "--shard", "7", "--batch-size", "16", "--workers", "2"]
    return [str(base / "run"), "-o", str(output), *options, "--device", "cpu", *arguments]
