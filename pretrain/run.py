"""The run folder: what a run is, where it stands, and whether it may be continued."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch

from pretrain import checkpoint
from pretrain.config import CONFIGS, BaseRunSettings, RunSettings
from pretrain.core.config import Configs, dump_yaml, read_yaml
from pretrain.core.errors import InputError
from pretrain.core.files import TEMPORARY, remove_unfinished, write_json, write_text
from pretrain.core.locks import LOCK
from pretrain.core.run_files import CHECKPOINTS, CONFIG, METRICS, RECORD
from pretrain.core.text import flat
from pretrain.environment import machine, versions

log = logging.getLogger(__name__)

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

    Whoever uses it holds the folder (``processes.held``), from ``check`` to the end of the run.

    Args:
        settings: of the run, which become ``config.yaml``.
        configs: reads settings that were written down, so that what a run of an older version
            does not say has its default.
        free: dotted names of settings, or sections, that may change from start to start.
        facts: what ``run.json`` says of the run besides its name and where it stands.
        writes: patterns of what the command writes into the folder besides ``WRITES``.

    Attributes:
        path: of the folder.
        checkpoints: folder of checkpoints.
        metrics: one JSON object per logged step.
    """

    WRITES = (RECORD, METRICS, "tensorboard/events.out.tfevents.*", TEMPORARY)
    """What every run writes besides ``config.yaml`` and checkpoints."""

    def __init__(
        self,
        settings: BaseRunSettings,
        configs: Configs[Any],
        *,
        free: Set[str],
        facts: Mapping[str, Any],
        writes: Sequence[str],
    ) -> None:
        self.path = Path(settings.output)
        self.checkpoints, self.metrics = self.path / CHECKPOINTS, self.path / METRICS
        self._config_file = self.path / CONFIG
        self._settings, self._configs, self._free = settings, configs, free
        self._facts = {"name": settings.name or self.path.name, **facts}
        self._writes = (*self.WRITES, *writes)
        self._record: dict[str, Any] = {}

    def check(self, *, fresh: bool = False) -> None:
        """Refuse to continue a run of other settings, or to replace what is no run.

        Args:
            fresh: the run that the folder holds is to be replaced by another.

        Raises:
            InputError: naming the settings that differ, or what is in the way.
        """
        if fresh:
            if any(self._strangers()) and not self._holds_run():
                raise InputError(
                    f"{self.path}: not a run folder of this command, so --fresh removes nothing "
                    "there; choose another output"
                )
        elif self._config_file.is_file():
            self._compare(read_yaml(self._config_file), self._config_file)
        elif any(self._strangers()):
            raise InputError(f"{self.path}: not empty and not a run folder; choose another output")

    def check_checkpoint(self, path: Path, settings: dict[str, Any] | None) -> None:
        """Refuse to continue from the checkpoint of a run of other settings.

        Args:
            path: of the checkpoint.
            settings: as it has recorded them; None where an older version has not.

        Raises:
            InputError: naming the settings that differ.
        """
        if settings is not None:
            self._compare(settings, path)

    def clear(self) -> None:
        """Remove the files of an earlier run of this command, and nothing else.

        ``config.yaml`` stays until ``open`` replaces it: a folder whose clearing was interrupted
        can still be told from a stranger's.
        """
        own = [path for pattern in self._writes for path in self.path.glob(pattern)]
        own += checkpoint.files_in(self.checkpoints)
        for path in own:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in own} - {self.path}:
            with contextlib.suppress(OSError):  # holds something else, or is a link
                folder.rmdir()
        left = sorted({path.name for path in self._strangers()} - {self._config_file.name})
        if left:
            log.info("%s: --fresh left what is not the run's: %s", self.path, ", ".join(left))

    def _strangers(self) -> Iterator[Path]:
        """What is in the folder, except for the lock and unfinished files."""
        if self.path.is_dir():
            for path in self.path.iterdir():
                if path.name != LOCK and not path.match(TEMPORARY):
                    yield path

    def _holds_run(self) -> bool:
        """Whether this command has written ``run.json`` or ``config.yaml``."""
        try:
            record = json.loads((self.path / RECORD).read_text(encoding="utf-8"))
            if isinstance(record["starts"], list) and record.keys() >= self._facts.keys():
                return True
        except (OSError, ValueError, TypeError, KeyError):
            pass
        try:
            self._configs.build(read_yaml(self._config_file), self._config_file.name)
        except (OSError, InputError):
            return False
        return True

    def _compare(self, settings: dict[str, Any], source: Path) -> None:
        before = flat(self._configs.build(settings, str(source)).model_dump(mode="json"))
        now = flat(self._settings.model_dump(mode="json"))
        changed = [
            f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if not self._free & {key, key.split(".")[0]} and before.get(key) != now.get(key)
        ]
        if changed:
            what = self.path if source == self._config_file else source
            raise InputError(
                f"{what}: holds a run of other settings ({'; '.join(changed)}); "
                "choose another output, or --fresh to start over"
            )

    def open(self, command: list[str], fingerprint: str, device: torch.device, world: int) -> None:
        """Write ``config.yaml`` and begin ``run.json``; earlier starts stay in its list.

        What a kill has left unfinished is removed.

        Raises:
            InputError: the data set is not the one this run began with.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / RECORD
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if before.get("data_fingerprint", fingerprint) != fingerprint:
            raise InputError(
                f"{self.path}: the data set has changed since this run began (its fingerprint in "
                f"{file.name} differs); restore it, or --fresh to start over"
            )
        for folder in (self.path, self.checkpoints):
            remove_unfinished(folder)
        write_text(self._config_file, dump_yaml(self._settings))
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
        write_json(self.path / RECORD, self._record, indent=2)


class RunFolder(Folder):
    """Files of a pretraining run."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(
            settings,
            CONFIGS,
            free=FREE,
            facts={"method": settings.method_name},
            writes=("views.png", "bad_images.jsonl", "nonfinite/step_*_rank*.pt"),
        )

    @property
    def bad_images(self) -> Path:
        """One JSON object per image that could not be read."""
        return self.path / "bad_images.jsonl"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
