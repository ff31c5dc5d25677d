"""What a reader hands to the index."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Flag(enum.IntFlag):
    """What the source says of a box; bits of the index's column ``flags`` (uint8)."""

    GROUP = 1  # many objects in one box: COCO's iscrowd, OpenImages' IsGroupOf
    DEPICTION = 2  # a drawing, not the thing
    OCCLUDED = 4
    TRUNCATED = 8  # reaches over the border of the image
    DIFFICULT = 16
    INSIDE = 32  # a picture of the inside of the object
    PROPOSAL = 64  # computed, not drawn by a person


OnDrop = Callable[[str, str, str], None]
"""Told of every single thing left out: reason, file name of the image, what it is."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image.

    Attributes:
        file_name: relative to the folder of the images.
        width: px.
        height: px.
        boxes: float32 (n, 4), x1 y1 x2 y2 in px, inside the image.
        labels: int32 (n,), positions in the report's categories.
        image_id: of the source; the number of the row where the source has none.
        flags: uint8 (n,), bits of ``Flag``; None: no flag of any box is set.
    """

    file_name: str
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    image_id: int
    flags: NDArray[np.uint8] | None = None


@dataclass
class Stream:
    """A source being read: its records can be taken once; the rest is complete after the last.

    Attributes:
        annotations: the source file.
        images: the folder of the images.
        records: one per image, in the order of the source.
        categories: names, by label.
        category_ids: the source's numbers of the categories, by label.
        dropped: how many boxes were left out, by reason; every reason the reader knows is there.
        clipped: how many boxes reached over the border by no more than the tolerance.
        source_size: bytes of the source file.
        source_mtime_ns: its time of change.
        source_sha256: of its content.
        on_drop: if set before the records are taken, told of all that is left out as faulty
            (what a filter leaves out is only counted).
    """

    annotations: Path
    images: Path
    records: Iterable[Record] = ()
    categories: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    clipped: int = 0
    source_size: int = 0
    source_mtime_ns: int = 0
    source_sha256: str = ""
    on_drop: OnDrop | None = None

    def drop(self, reason: str, file_name: str, what: str) -> None:
        """Count one faulty thing left out, and tell."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        if self.on_drop is not None:
            self.on_drop(reason, file_name, what)

    def number_categories(self, names: Iterable[str]) -> None:
        """Set the categories of a source that has no numbers of its own: they count from 1."""
        self.categories = tuple(names)
        self.category_ids = tuple(range(1, len(self.categories) + 1))

    def stamp(self, stat: os.stat_result, sha256: str) -> None:
        """Note which state of the source was read."""
        self.source_size, self.source_mtime_ns = stat.st_size, stat.st_mtime_ns
        self.source_sha256 = sha256

    def read(self) -> ReadReport:
        """Take all records at once."""
        records = list(self.records)  # the rest is complete after this
        return ReadReport(**{**vars(self), "records": records})


@dataclass
class ReadReport(Stream):
    """A source that has been read."""

    records: list[Record] = field(default_factory=list)

    @property
    def box_count(self) -> int:
        """Boxes kept."""
        return sum(len(record.boxes) for record in self.records)
