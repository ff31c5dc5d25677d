"""The dictionaries the official HCL code reads: OpenImages boxes of its multi-object subset."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.datasets.readers import relative
from pretrain.datasets.readers.openimages import FLAG_COLUMNS
from pretrain.datasets.readers.plain_pickle import load_dictionary, plain
from pretrain.datasets.readers.relative import Classes, Rows
from pretrain.datasets.records import Stream

COLUMNS = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)
"""Of a row: a line of OpenImages' box file."""

NAME, X1, X2, Y1, Y2 = (COLUMNS.index(c) for c in ("LabelName", "XMin", "XMax", "YMin", "YMax"))
FLAGS = [(COLUMNS.index(name), int(flag)) for name, flag in FLAG_COLUMNS.items()]


def _read(source: Stream, classes: Classes, split: Path | None) -> Iterator[Rows]:
    file = source.annotations
    content = load_dictionary(file, "data.annotations")
    chosen = content if split is None else load_dictionary(split, "data.split")
    yield from (_rows(file, image, content.get(image), classes) for image in chosen)
    source.stamp(file.stat(), sha256(file))


stream = functools.partial(relative.stream, _read)
"""Read ``images_selected_with_all_features.npy``: see ``relative.stream``.

The file holds a dictionary {ImageID: {"data": [row, ...]}}; nothing in it is executed. ``split`` is
the dictionary of the images to use, ``images_selected_new.npy`` or the test one. The official
loader filters no box, so ``leave_out=()`` is it.
"""


def _rows(file: Path, image: Any, entry: Any, classes: Classes) -> Rows:
    if not isinstance(image, str):
        raise InputError(f"{file}: the key {image!r:.40} is not an ImageID")
    rows = plain(entry.get("data")) if isinstance(entry, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{file}: image {image}: no list 'data' of boxes; check data.split")
    found = Rows(image, [], [], [])
    for number, given in enumerate(rows):
        row = plain(given)
        at = f"{file}: image {image}: row {number}"
        if not isinstance(row, list | tuple) or len(row) <= Y2:
            raise InputError(f"{at}: not a line of OpenImages' box file: {row!r:.80}")
        try:
            box = (float(row[X1]), float(row[Y1]), float(row[X2]), float(row[Y2]))
        except (TypeError, ValueError) as error:
            raise InputError(f"{at}: {error}") from None
        found.corners.append(box)
        found.labels.append(classes.label(str(row[NAME]), at))
        flags = (flag for place, flag in FLAGS if place < len(row) and str(row[place]) == "1")
        found.flags.append(sum(flags))
    return found
