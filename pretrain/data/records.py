"""What a reader hands to the index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Record:
    """One image.

    Attributes:
        file_name: relative to the folder of the images.
        width: px.
        height: px.
        boxes: float32 (n, 4), x1 y1 x2 y2 in px, inside the image.
        labels: int32 (n,), positions in the report's categories.
        image_id: of the source.
    """

    file_name: str
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    image_id: int


@dataclass(frozen=True)
class ReadReport:
    """All images of a source, and what was left out of it.

    Attributes:
        annotations: the source file.
        images: the folder of the images.
        categories: names, by label.
        category_ids: the source's numbers of the categories, by label.
        records: one per image, in the order of the source.
        dropped: how many boxes were left out, by reason; every reason the reader knows is there.
        clipped: how many boxes reached over the border by no more than the tolerance.
        source_size: bytes of the source file.
        source_mtime_ns: its time of change.
        source_sha256: of its content.
    """

    annotations: Path
    images: Path
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: list[Record]
    dropped: dict[str, int]
    clipped: int
    source_size: int
    source_mtime_ns: int
    source_sha256: str

    @property
    def box_count(self) -> int:
        """Boxes kept."""
        return sum(len(record.boxes) for record in self.records)

    def summary(self) -> str:
        """One line for people."""
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        return (
            f"{self.annotations}: {len(self.records)} images, {self.box_count} boxes, "
            f"{len(self.categories)} categories; left out: {left_out}; clipped: {self.clipped}"
        )
