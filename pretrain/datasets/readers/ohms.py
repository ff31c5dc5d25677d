"""The dictionaries the official HCL code reads: OpenImages boxes of its multi-object subset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.core.errors import InputError
from pretrain.datasets.readers import relative
from pretrain.datasets.readers.common import DEFAULT, Options
from pretrain.datasets.readers.openimages import FLAG_COLUMNS
from pretrain.datasets.readers.plain_pickle import load_dictionary, plain
from pretrain.datasets.readers.relative import Classes, Rows
from pretrain.datasets.records import Record, Stream

COLUMNS = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)
"""Of a row: a line of OpenImages' box file."""

NAME, X1, X2, Y1, Y2 = (COLUMNS.index(c) for c in ("LabelName", "XMin", "XMax", "YMin", "YMax"))
FLAGS = [(COLUMNS.index(name), int(flag)) for name, flag in FLAG_COLUMNS.items()]


def stream(
    annotations: Path,
    images: Path,
    options: Options = DEFAULT,
    *,
    classes: Path | None = None,
    split: Path | None = None,
    cache: Path | None = None,
) -> Stream:
    """Read ``images_selected_with_all_features.npy``, without executing what it holds.

    Args:
        annotations: the dictionary {ImageID: {"data": [row, ...]}}.
        images: folder of the images (see ``openimages.stream``).
        options: of all readers; the official loader filters no box, so ``leave_out=()`` is it.
        classes: class descriptions, for names.
        split: the dictionary of the images to use, ``images_selected_new.npy`` or the test one;
            None: all of ``annotations``.
        cache: database of sizes.
    """
    source = Stream(annotations, images)
    source.records = _records(source, options, classes, split, cache)
    return source


def _records(
    source: Stream, options: Options, classes: Path | None, split: Path | None, cache: Path | None
) -> Iterator[Record]:
    file = source.annotations
    labels = Classes(classes)
    content = load_dictionary(file, "data.annotations")
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    chosen = content if split is None else load_dictionary(split, "data.split")
    images = (_rows(file, image, content.get(image), labels) for image in chosen)
    folders = relative.subfolders(source.images)
    yield from relative.records(source, images, folders, labels, options=options, cache=cache)
    source.stamp(file.stat(), sha256)


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
