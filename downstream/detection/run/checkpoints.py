"""Checkpoints of a detector that outlive a kill, and reading a trained detector back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from downstream.weight_files import load_torch
from pretrain.core.errors import InputError
from pretrain.core.files import replacing, sha256, write_text

TAG = "last_checkpoint"
NAME = re.compile(r"model_(\d{7}|final)\.pth")


class Checkpointer(DetectionCheckpointer):  # type: ignore[misc]
    """detectron2's, but a file or the mark of the last appears whole or not at all."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth and mark it as the last."""
        if not self.save_dir or not self.save_to_disk:
            return
        state = {key: part.state_dict() for key, part in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **state, **kwargs}
        path = Path(self.save_dir) / f"{name}.pth"
        with replacing(path, durable=True) as file:
            torch.save(content, file)
        write_text(path.parent / TAG, path.name)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that ``Checkpointer`` has marked as the folder's last; None without a mark.

    Raises:
        InputError: the mark names something else than a checkpoint in this folder.
    """
    mark = folder / TAG
    if not mark.is_file():
        return None
    name = mark.read_text(encoding="utf-8", errors="replace").strip()
    if not NAME.fullmatch(name) or not (folder / name).is_file():
        raise InputError(
            f"{mark}: names no checkpoint of `hcl detect` in this folder ({name[:80]!r}); "
            "start anew with --fresh"
        )
    return folder / name


@dataclass(frozen=True)
class TrainedDetector:
    """A trained detector.

    Attributes:
        path: of the checkpoint.
        sha256: of that file.
        tensors: the detector's state.
        iterations: of its training; None where the file does not say.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    iterations: int | None

    def load(self, model: nn.Module) -> int:
        """Load every tensor into the detector.

        Returns:
            The number of tensors.

        Raises:
            InputError: a tensor is missing, left over, or has another shape.
        """
        own = model.state_dict()
        missing = sorted(set(own) - set(self.tensors))
        foreign = sorted(set(self.tensors) - set(own))
        shaped = [n for n in own if n in self.tensors and own[n].shape != self.tensors[n].shape]
        for names, what in ((missing, "lacks"), (foreign, "has besides"), (shaped, "shapes")):
            if names:
                raise InputError(
                    f"{self.path}: not a detector of this config: it {what} '{names[0]}' and "
                    f"{len(names) - 1} more; give the config.yaml it was trained with"
                )
        model.load_state_dict(self.tensors)
        return len(own)


def read_trained(path: Path) -> TrainedDetector:
    """Read a trained detector: a checkpoint, or the last one in a result's folder.

    Raises:
        InputError: there is none, or it is no detector.
    """
    file = last_checkpoint(path) if path.is_dir() else path
    if file is None:
        raise InputError(f"{path}: no checkpoint of a detector in it; train one first")
    if not file.is_file():
        raise InputError(f"{file}: no such checkpoint of a detector")
    content = load_torch(file)
    tensors = content.get("model")
    if not isinstance(tensors, dict) or not any(
        name.startswith("proposal_generator.") for name in tensors
    ):
        raise InputError(
            f"{file}: no trained detector; --eval-only takes a model_*.pth of `hcl detect` or "
            "detectron2, or its folder (a backbone goes to --weights)"
        )
    iteration = content.get("iteration")
    done = iteration + 1 if isinstance(iteration, int) else None
    return TrainedDetector(file, sha256(file), tensors, done)
