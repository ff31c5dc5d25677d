"""The folder of a fine-tuning run: what it is, where it stands, whether it may be continued."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import torch

from downstream.retrieval.finetune.config import dump_yaml
from downstream.retrieval.finetune.settings import FinetuneSettings
from pretrain.config import read_yaml
from pretrain.environment import machine, versions
from pretrain.errors import InputError
from pretrain.settings import parse

FREE = {
    *("output", "name", "data.root", "data.annotations", "data.workers", "model.weights"),
    *("model.run", "train.device", "train.threads", "train.log_every", "train.checkpoint_every"),
    *("train.keep", "train.tensorboard", "test.batch", "test.ks", "test.ties", "test.resize"),
}
"""Settings that do not change what training computes, or where things lie."""


class FinetuneFolder:
    """Files of one run; written by the main process only."""

    def __init__(self, settings: FinetuneSettings) -> None:
        self.settings = settings
        self.path = Path(settings.output)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self._record: dict[str, Any] = {}

    def remove(self) -> None:
        """Forget an earlier run of this folder.

        Raises:
            InputError: the folder is not a run's.
        """
        if not self.path.exists():
            return
        if not (self.path / "config.yaml").is_file():
            raise InputError(f"{self.path}: not a run folder; remove it yourself or choose another")
        shutil.rmtree(self.path)

    def check(self) -> None:
        """Refuse to continue a run of other settings.

        Raises:
            InputError: naming the settings that differ.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise InputError(
                    f"{self.path}: not empty and not a run folder; choose another output"
                )
            return
        before = flat(parse(FinetuneSettings, read_yaml(file), source=str(file)).model_dump())
        now = flat(self.settings.model_dump())
        changed = [
            f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if key not in FREE and before.get(key) != now.get(key)
        ]
        if changed:
            raise InputError(
                f"{self.path}: holds a run of other settings ({'; '.join(changed)}); "
                "choose another output, or --fresh to start over"
            )

    def open(self, command: list[str], fingerprint: str, device: torch.device, world: int) -> None:
        """Write ``config.yaml`` and begin ``run.json``; earlier starts stay in its list.

        Raises:
            InputError: the data set is not the one this run began with.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / "run.json"
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if before.get("data_fingerprint", fingerprint) != fingerprint:
            raise InputError(
                f"{self.path}: the data set has changed since this run began (its fingerprint in "
                f"{file.name} differs); restore it, or --fresh to start over"
            )
        _write(self.path / "config.yaml", dump_yaml(self.settings))
        start = {
            "time": _now(),
            "command": command,
            "host": socket.gethostname(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "world": world,
        }
        self._record = {
            "name": self.settings.name or self.path.name,
            "task": "metric learning",
            "state": "running",
            "starts": [*before.get("starts", []), start],
            "data_fingerprint": fingerprint,
            "versions": versions(),
            "machine": machine(device),
        }
        self.heartbeat(0, 0)

    def heartbeat(self, step: int, total_steps: int, **more: Any) -> None:
        """Record that the run is alive and how far it is."""
        self._record.update(step=step, total_steps=total_steps, heartbeat=_now(), **more)
        _write(self.path / "run.json", json.dumps(self._record, indent=2) + "\n")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
