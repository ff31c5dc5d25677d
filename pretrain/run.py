"""The run folder: what a run is, where it stands, and whether it may be continued."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Set
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
    "views.random_regions",
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


class Folder:
    """Files of one run of any command that trains; written by the main process only.

    Args:
        path: of the folder.
        config: the run's settings as YAML, which becomes ``config.yaml``.
        resolve: the same of a ``config.yaml`` that is there, through its settings, so that what a
            run of an older version does not say has its default.
        free: dotted names of settings, or sections, that may change from start to start.
        facts: what ``run.json`` says of the run besides where it stands.
    """

    def __init__(
        self,
        path: Path,
        *,
        config: str,
        resolve: Callable[[Path], str],
        free: Set[str],
        facts: Mapping[str, Any],
    ) -> None:
        self.path = path
        self._config, self._resolve, self._free = config, resolve, free
        self._facts = facts
        self._record: dict[str, Any] = {}

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

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
        before = flat(yaml.safe_load(self._resolve(file)))
        now = flat(yaml.safe_load(self._config))
        changed = [
            f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if not self._free & {key, key.split(".")[0]} and before.get(key) != now.get(key)
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
        _write(self.path / "config.yaml", self._config)
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
            **self._facts,
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


class RunFolder(Folder):
    """Files of a pretraining run."""

    def __init__(self, settings: RunSettings) -> None:
        path = Path(settings.output)
        super().__init__(
            path,
            config=dump_yaml(settings),
            resolve=lambda file: dump_yaml(from_values(read_yaml(file), source=str(file))),
            free=FREE,
            facts={"name": settings.name or path.name, "method": settings.method_name},
        )

    @property
    def bad_images(self) -> Path:
        """One JSON object per image that could not be read."""
        return self.path / "bad_images.jsonl"


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
