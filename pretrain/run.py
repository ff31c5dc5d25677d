"""The run folder: what a run is, where it stands, and whether it may be continued."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from pretrain.config import RunSettings, dump_yaml, from_values, read_yaml
from pretrain.environment import machine, versions
from pretrain.errors import InputError

# Settings that change how a run is carried out, but not what it computes.
FREE = {
    "output",
    "name",
    "data.workers",
    "data.prefetch",
    "data.index",
    "hcl.statistics",
    "train.device",
    "train.threads",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_every",
    "train.tensorboard",
    "train.monitor",
    "probe",  # with all below it
}


class RunFolder:
    """Files of one run; written by the main process only."""

    def __init__(self, settings: RunSettings) -> None:
        self.path = Path(settings.output)
        self.settings = settings
        self._record: dict[str, Any] = {}

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def bad_images(self) -> Path:
        """One JSON object per image that could not be read."""
        return self.path / "bad_images.jsonl"

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
        # Through the settings: what a run of an older version does not say has its default.
        saved = from_values(read_yaml(file), source=str(file))
        before = _flat(yaml.safe_load(dump_yaml(saved)))
        now = _flat(yaml.safe_load(dump_yaml(self.settings)))
        changed = [
            f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if not FREE & {key, key.split(".")[0]} and before.get(key) != now.get(key)
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
        starts: list[dict[str, Any]] = before.get("starts", [])
        starts.append(
            {
                "time": _now(),
                "command": command,
                "host": socket.gethostname(),
                "job": os.environ.get("SLURM_JOB_ID"),
                "world": world,
            }
        )
        self._record = {
            "name": self.settings.name or self.path.name,
            "method": self.settings.method_name,
            "state": "running",
            "starts": starts,
            "data_fingerprint": fingerprint,
            "versions": versions(),
            "machine": machine(device),
        }
        self.heartbeat(0, 0)

    def heartbeat(self, step: int, total_steps: int, **more: Any) -> None:
        """Record that the run is alive and how far it is."""
        self._record.update(step=step, total_steps=total_steps, heartbeat=_now(), **more)
        _write(self.path / "run.json", json.dumps(self._record, indent=2) + "\n")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
