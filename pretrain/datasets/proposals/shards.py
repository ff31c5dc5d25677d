"""What is done so far: one file per shard of rows, each complete or not there."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.core.files import replacing
from pretrain.datasets.proposals.filters import REASONS


@dataclass
class Tally:
    """What happened to the proposals of some images.

    Attributes:
        proposed: proposals before the filter.
        left_out: by reason of ``filters.REASONS``.
        kept_first: images where nothing survived and the first proposal stands.
        bad: (row, reason) of images that could not be read; they have no boxes.
        seconds: of one core, decoding included.
    """

    proposed: int = 0
    left_out: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    kept_first: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Count the images of another tally as well."""
        self.proposed += other.proposed
        self.left_out.update(other.left_out)
        self.kept_first += other.kept_first
        self.bad += other.bad
        self.seconds += other.seconds


@dataclass(frozen=True)
class Shard:
    """The boxes kept of consecutive rows.

    Attributes:
        counts: int64 (rows,), boxes of each row.
        boxes: float32 (sum of counts, 4), x1 y1 x2 y2 in px.
        scores: float32 (sum of counts,), where the method has any.
        tally: of these rows.
    """

    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32] | None
    tally: Tally


def file_of(folder: Path, number: int) -> Path:
    """Where a shard is kept."""
    return folder / f"shard-{number:06d}.npz"


def write(file: Path, shard: Shard) -> None:
    """Write a shard; a process that is killed leaves no part of one under its name."""
    columns: dict[str, NDArray[Any]] = {"counts": shard.counts, "boxes": shard.boxes}
    if shard.scores is not None:
        columns["scores"] = shard.scores
    tally = json.dumps(vars(shard.tally)).encode()
    with replacing(file, durable=True) as stream:
        np.savez(stream, allow_pickle=False, tally=np.frombuffer(tally, np.uint8), **columns)


def read(file: Path, rows: int) -> Shard | None:
    """A shard of so many rows; None where there is none that is whole."""
    try:
        with np.load(file, allow_pickle=False) as columns:
            facts = json.loads(columns["tally"].tobytes())
            facts["left_out"] = Counter(facts["left_out"])
            facts["bad"] = [(row, reason) for row, reason in facts["bad"]]
            scores = columns.get("scores")
            shard = Shard(columns["counts"], columns["boxes"], scores, Tally(**facts))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    boxes = int(shard.counts.sum())
    whole = len(shard.counts) == rows and shard.boxes.shape == (boxes, 4)
    return shard if whole and (shard.scores is None or len(shard.scores) == boxes) else None
