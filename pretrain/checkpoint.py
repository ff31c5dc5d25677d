"""Checkpoints: written atomically, verified when read, the newest few kept."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from pretrain.core.errors import InputError
from pretrain.core.files import replacing, sha256, sync
from pretrain.core.run_files import CHECKPOINTS

log = logging.getLogger(__name__)

State = dict[str, Any]
_OWN = re.compile(r"step_\d{8,}\.(pt|sha256|tmp)|\.step_\d{8,}\.pt\.\w+\.tmp")


def save(folder: Path, state: State, step: int, *, keep: int, keep_every: int | None) -> Path:
    """Write ``folder/step_XXXXXXXX.pt`` and its checksum, durable before visible.

    Args:
        folder: the run's ``checkpoints``.
        state: tensors and plain values only; readable with ``weights_only=True``.
        step: number of steps done.
        keep: how many of the newest stay.
        keep_every: steps whose multiples stay for good.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.pt"
    with replacing(path, durable=True) as file:
        torch.save(state, file)
        file.flush()
        # The checksum first: a checkpoint without its checksum never becomes visible.
        checksum = _checksum_file(path)
        checksum.write_text(sha256(Path(file.name)) + "\n", encoding="ascii")
        sync(checksum)
    _retain(folder, keep, keep_every)
    return path


def load(path: Path) -> State:
    """Read one checkpoint.

    Raises:
        InputError: it is missing, its checksum is missing or differs, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    checksum = _checksum_file(path)
    if not checksum.is_file():
        raise InputError(f"{path}: its checksum file {checksum.name} is missing")
    if checksum.read_text(encoding="ascii").strip() != sha256(path):
        raise InputError(f"{path}: damaged: its sha256 is not the one in {checksum.name}")
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable checkpoint: {reason}") from None
    return state


def load_latest(folder: Path) -> tuple[Path, State] | None:
    """The newest sound checkpoint of ``folder``; a damaged one is reported and passed over.

    Returns None where there is no checkpoint at all.

    Raises:
        InputError: there are checkpoints and every one is damaged.
    """
    paths = _checkpoints(folder)
    for path in reversed(paths):
        try:
            return path, load(path)
        except InputError as error:
            log.warning("%s; falling back to the one before", error)
    if paths:
        raise InputError(f"{folder}: all {len(paths)} checkpoints are damaged; remove the folder")
    return None


def read_run(source: Path) -> tuple[Path, State] | None:
    """Of a run's folder the newest sound checkpoint, None where there is none; or this checkpoint.

    Raises:
        InputError: it is damaged, or all are.
    """
    return load_latest(source / CHECKPOINTS) if source.is_dir() else (source, load(source))


def files_in(folder: Path) -> list[Path]:
    """All files that ``save`` has written into a folder, unfinished ones included."""
    return sorted(path for path in folder.glob("*") if _OWN.fullmatch(path.name))


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in files_in(folder) if path.suffix == ".pt"]


def _checksum_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _retain(folder: Path, keep: int, keep_every: int | None) -> None:
    for path in _checkpoints(folder)[:-keep]:
        if keep_every and int(path.stem.removeprefix("step_")) % keep_every == 0:
            continue
        path.unlink(missing_ok=True)
        _checksum_file(path).unlink(missing_ok=True)
