"""OpenImages V4 to V7: CSV files of boxes, read as a stream."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

from pretrain.core.errors import InputError
from pretrain.datasets.readers import relative
from pretrain.datasets.readers.common import shown
from pretrain.datasets.readers.hashed_file import HashedFile
from pretrain.datasets.readers.relative import Classes, Rows
from pretrain.datasets.records import Flag, Stream

NEEDED = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
Box = tuple[float, float, float, float]
"""x1 y1 x2 y2 as shares of width and height."""

FLAG_COLUMNS = {
    "IsGroupOf": Flag.GROUP,
    "IsDepiction": Flag.DEPICTION,
    "IsOccluded": Flag.OCCLUDED,
    "IsTruncated": Flag.TRUNCATED,
    "IsInside": Flag.INSIDE,
}
"""Optional columns; 1 sets the flag, 0 and -1 (unknown) do not."""


def read_ids(file: Path) -> set[str]:
    """The ImageIDs of a text file, one a line; empty lines and lines after # do not count.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    lines = (line.strip() for line in HashedFile(file, "data.split").lines())
    ids = {line for line in lines if line and not line.startswith("#")}
    if not ids:
        raise InputError(f"{file}: no image ids in it; check data.split")
    return ids


def _read(source: Stream, classes: Classes, split: Path | None) -> Iterator[Rows]:
    ids = None if split is None else read_ids(split)
    file = HashedFile(source.annotations, "data.annotations")
    yield from _grouped(file, classes, ids)
    source.stamp(file.stat, file.sha256)


stream = functools.partial(relative.stream, _read)
"""Read a file such as ``oidv6-train-annotations-bbox.csv``: see ``relative.stream``.

The lines of an image stand together, as in the releases. Images without a box are not in the file
and so not in the records. ``split`` is a text file of ImageIDs, one a line.
"""


def _grouped(file: HashedFile, classes: Classes, ids: set[str] | None) -> Iterator[Rows]:
    """The boxes, image by image."""
    finished: set[str] = set()
    rows: Rows | None = None
    for line, image, label, box, flags in _boxes(file, classes):
        if rows is None or image != rows.image:
            if rows is not None:
                finished.add(rows.image)
                if ids is None or rows.image in ids:
                    yield rows
            if image in finished:
                raise InputError(
                    f"{file.path}: line {line}: image {shown(image)} again, after others; sort the "
                    "lines by ImageID, the header excepted"
                )
            rows = Rows(image, [], [], [])
        rows.labels.append(label)
        rows.corners.append(box)
        rows.flags.append(flags)
    if rows is None:
        raise InputError(f"{file.path}: no boxes in it; nothing to train on")
    if ids is None or rows.image in ids:
        yield rows


def _boxes(file: HashedFile, classes: Classes) -> Iterator[tuple[int, str, int, Box, int]]:
    """Line, image, label, box and flags, in the order of the file."""
    reader = csv.reader(file.lines())
    try:
        header = next(reader, [])
        at = _columns(file.path, header)
        image, name, x1, x2, y1, y2 = (at[column] for column in NEEDED)
        flagged = [(at[column], int(flag)) for column, flag in FLAG_COLUMNS.items() if column in at]
        width = len(header)
        for row in reader:
            if len(row) != width:
                if row:
                    raise _fault(file.path, reader.line_num, f"{len(row)} fields, not {width}")
                continue
            try:
                box = (float(row[x1]), float(row[y1]), float(row[x2]), float(row[y2]))
            except ValueError as error:
                raise _fault(file.path, reader.line_num, str(error)) from None
            flags = 0
            for column, flag in flagged:
                if row[column] == "1":
                    flags |= flag
            label = classes.labels.get(row[name])
            if label is None:
                label = classes.label(row[name], f"{file.path}: line {reader.line_num}")
            yield reader.line_num, row[image], label, box, flags
    except csv.Error as error:
        raise _fault(file.path, reader.line_num, str(error)) from None


def _columns(file: Path, header: list[str]) -> dict[str, int]:
    at = {column.strip(): place for place, column in enumerate(header)}
    lacking = [column for column in NEEDED if column not in at]
    if lacking:
        found = ", ".join(map(shown, list(at)[:20])) or "nothing"
        raise InputError(
            f"{file}: not a box file of OpenImages: no column {', '.join(lacking)} (found "
            f"{found}); check data.annotations"
        )
    return at


def _fault(file: Path, line: int, what: str) -> InputError:
    return InputError(f"{file}: line {line}: {what}; mend it, or download the file again")
