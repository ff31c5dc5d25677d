"""The regions of every image: what stage 2 compares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.correspondence.shard_files import replacing
from pretrain.data.index import Index, offsets


@dataclass(frozen=True, eq=False)
class Regions:
    """At least one region for each image.

    Attributes:
        boxes: float32 (R, 4), x1 y1 x2 y2 in px.
        offsets: int64 (N + 1,), where each row's regions start.
    """

    boxes: NDArray[np.float32]
    offsets: NDArray[np.int64]

    @classmethod
    def of_index(cls, index: Index, limit: int) -> Regions:
        """The first ``limit`` boxes of every image; the whole image where there is none."""
        return cls.gather(index, (index.boxes(row) for row in range(len(index))), limit)

    @classmethod
    def gather(cls, index: Index, boxes: Iterable[NDArray[np.float32]], limit: int) -> Regions:
        """As ``of_index``, of these boxes (n, 4) of each row."""
        parts, counts = [np.empty((0, 4), np.float32)], []
        for row, found in enumerate(boxes):
            part = found[:limit]
            if not len(part):
                part = np.array([[0, 0, *index.size(row)]], np.float32)
            parts.append(part)
            counts.append(len(part))
        return cls(np.concatenate(parts), offsets(counts))

    @classmethod
    def open(cls, folder: Path) -> Regions:
        """Map what ``write`` has written.

        Raises:
            InputError: it is not there, or damaged.
        """
        try:
            boxes = np.load(folder / "boxes.npy", mmap_mode="r", allow_pickle=False)
            offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{folder}: no sound regions here ({error}); make them again"
            ) from None
        if boxes.shape != (offsets[-1], 4):
            raise InputError(f"{folder}: boxes and offsets do not fit; make them again")
        return cls(boxes, offsets)

    def write(self, folder: Path) -> None:
        """Keep them in a folder; the same ones may be written again."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("boxes", "offsets"):
            with replacing(folder / f"{name}.npy") as stream:
                np.save(stream, getattr(self, name), allow_pickle=False)

    def of(self, row: int) -> NDArray[np.float32]:
        """float32 (n, 4) of a row."""
        return self.boxes[self.offsets[row] : self.offsets[row + 1]]

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 (N,), regions of each row."""
        return np.diff(self.offsets)

    @property
    def digest(self) -> str:
        """sha256 of boxes and offsets."""
        digest = hashlib.sha256(np.ascontiguousarray(self.offsets).data)
        digest.update(np.ascontiguousarray(self.boxes).data)
        return digest.hexdigest()
