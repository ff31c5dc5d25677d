"""Everything that can be wrong with a data set, found by looking at all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pretrain.core.errors import InputError
from pretrain.data.decode import ImageError, read_image
from pretrain.data.index import Index
from pretrain.datasets.readers.common import is_inside, numbers
from pretrain.datasets.records import Flag

BLOCK = 256
"""Images given to the threads at a time."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: "index", "name", "image", "box" or "label".
        row: of the index; -1 where it concerns the index as a whole.
        file: relative to the folder of the images.
        reason: for people.
    """

    kind: str
    row: int
    file: str
    reason: str


@dataclass
class CheckReport:
    """What was looked at and what was found.

    Attributes:
        images: number.
        boxes: number.
        without_boxes: images without a box.
        faults: in the order of kind and row.
    """

    images: int
    boxes: int
    without_boxes: int
    faults: list[Fault] = field(default_factory=list)

    def by_kind(self) -> dict[str, int]:
        """Faults of every kind found."""
        return dict(Counter(fault.kind for fault in self.faults))

    def as_json(self) -> dict[str, Any]:
        """All of it, of plain values."""
        return {**asdict(self), "by_kind": self.by_kind()}


def check(
    index: Index, *, workers: int = 1, progress: Callable[[int], None] | None = None
) -> CheckReport:
    """Compare an index with its fingerprint, and decode every image.

    An image must be readable and have the size the index gives; boxes must be finite, have an
    area and lie inside their image; labels must be those of categories; a file must occur once.

    Args:
        index: to look at.
        workers: threads that decode.
        progress: called with the number of images looked at.
    """
    boxes = np.diff(index.column("box_offsets"))
    report = CheckReport(len(index), index.box_count, int((boxes == 0).sum()))
    offsets = _offset_faults(index)
    report.faults += offsets
    if offsets:  # nothing else can be told apart
        return report
    try:
        index.verify()
    except InputError as error:
        report.faults.append(Fault("index", -1, "", str(error)))
    report.faults += _name_faults(index)
    report.faults += _box_faults(index)
    report.faults += _image_faults(index, workers, progress)
    return report


def _offset_faults(index: Index) -> list[Fault]:
    faults = []
    for name, column in (("path_offsets", "path_bytes"), ("box_offsets", "boxes")):
        offsets = index.column(name)
        end = len(index.column(column))
        sound = len(offsets) == len(index) + 1 and offsets[0] == 0 and offsets[-1] == end
        if not sound or (np.diff(offsets) < 0).any():
            faults.append(Fault("index", -1, "", f"{name} do not divide {column}"))
    return faults


def _name_faults(index: Index) -> Iterator[Fault]:
    first: dict[bytes, int] = {}
    data, offsets = index.column("path_bytes"), index.column("path_offsets")
    for row in range(len(index)):
        name = bytes(data[offsets[row] : offsets[row + 1]])
        try:
            text = name.decode("utf-8")
        except UnicodeDecodeError:
            yield Fault("name", row, repr(name), "the name is not UTF-8")
            continue
        if not is_inside(text):
            yield Fault("name", row, text, "not a path inside the image folder")
        before = first.setdefault(name, row)
        if before != row:
            yield Fault("name", row, text, f"the same file as row {before}")


def _box_faults(index: Index) -> Iterator[Fault]:
    """In blocks of rows, so that an index of any size fits."""
    rows_at_once = 1 << 16
    offsets = index.column("box_offsets")
    for start in range(0, len(index), rows_at_once):
        stop = min(start + rows_at_once, len(index))
        part = slice(int(offsets[start]), int(offsets[stop]))
        counts = np.diff(offsets[start : stop + 1])
        rows = np.repeat(np.arange(start, stop), counts)
        sizes = index.column("sizes")[start:stop].repeat(counts, axis=0)
        boxes = np.asarray(index.column("boxes")[part])
        labels = np.asarray(index.column("labels")[part])
        flags = np.asarray(index.column("flags")[part])
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(boxes).all(axis=1)
            area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
            inside = (boxes[:, :2] >= 0).all(axis=1) & (boxes[:, 2:] <= sizes).all(axis=1)
        wrong = [
            ("box", "not finite", ~finite),
            ("box", "without area", finite & ~area),
            ("box", "outside the image", finite & area & ~inside),
            ("label", "a label without category", (labels < 0) | (labels >= len(index.categories))),
            ("label", "an unknown flag", (flags & ~np.uint8(sum(Flag))) != 0),
        ]
        for kind, reason, mask in wrong:
            for place in np.flatnonzero(mask):
                row = int(rows[place])
                number = int(part.start + place - offsets[row])
                width, height = index.size(row)
                what = f"box {number} {numbers(boxes[place])} of {width}x{height} px: {reason}"
                yield Fault(kind, row, index.file_name(row), what)


def _image_faults(
    index: Index, workers: int, progress: Callable[[int], None] | None
) -> Iterator[Fault]:
    def look(row: int) -> str | None:
        try:
            read_image(index.path(row), index.size(row))
        except (ImageError, ValueError) as error:  # ValueError: a name that is none
            return str(error)
        return None

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(index), BLOCK):
            rows = range(start, min(start + BLOCK, len(index)))
            for row, reason in zip(rows, pool.map(look, rows), strict=True):
                if reason is not None:
                    yield Fault("image", row, index.file_name(row), reason)
            if progress is not None:
                progress(rows.stop)
