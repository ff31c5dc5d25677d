"""OpenImages' kind of annotation: boxes as shares of images whose size is in the file alone."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.core.errors import InputError
from pretrain.datasets.headers import ImageSize, SizeReader
from pretrain.datasets.readers.common import (
    DEFAULT,
    DEGENERATE,
    DROP_IMAGES,
    MISSING,
    NO_BOXES,
    OUTSIDE,
    UNREADABLE,
    Options,
    checked_record,
    flag_bits,
    need_folder,
    numbers,
    shown,
)
from pretrain.datasets.readers.hashed_file import HashedFile
from pretrain.datasets.records import Record, Stream

BATCH = 2048
"""Images whose headers are read together."""


@dataclass
class Rows:
    """All boxes of one image: label, x1, y1, x2, y2 as shares of width and height, flags."""

    image: str
    labels: list[int]
    corners: list[tuple[float, float, float, float]]
    flags: list[int]


class Classes:
    """Labels by LabelName (``/m/01g317``): of a description file, or as they appear.

    Args:
        file: class descriptions, with two columns and with or without a header; None: every name
            that appears is a class.

    Raises:
        InputError: naming the line at fault.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.labels: dict[str, int] = {}
        self.names: list[str] = []
        if file is None:
            return
        source = HashedFile(file, "data.classes")
        for number, row in enumerate(csv.reader(source.lines()), start=1):
            if not row or (number == 1 and not row[0].startswith("/")):
                continue  # a header, as in V6 and V7
            if len(row) != 2 or row[0] in self.labels:
                what = "twice the same class" if len(row) == 2 else "not LabelName,DisplayName"
                raise InputError(f"{file}: line {number}: {what}: {shown(','.join(row))}; mend it")
            self.labels[row[0]] = len(self.names)
            self.names.append(row[1])
        if not self.names:
            raise InputError(f"{file}: no classes in it; check data.classes")

    def label(self, name: str, at: str) -> int:
        """The label of a class.

        Raises:
            InputError: the description file does not have it.
        """
        label = self.labels.get(name)
        if label is not None:
            return label
        if self.file is not None:
            raise InputError(f"{at}: class {name!r:.40} is not in {self.file}; check data.classes")
        self.labels[name] = len(self.names)
        self.names.append(name)
        return self.labels[name]


def stream(
    read: Callable[[Stream, Classes, Path | None], Iterator[Rows]],
    annotations: Path,
    images: Path,
    options: Options = DEFAULT,
    *,
    classes: Path | None = None,
    split: Path | None = None,
    cache: Path | None = None,
) -> Stream:
    """Boxes of images that are sized by the headers of their files.

    An image lies in ``images`` itself or in one of its subfolders (``train``, ``train_0``), as
    ImageID.jpg.

    Args:
        read: of the format: gives the boxes image by image, and stamps the stream in the end.
        annotations: the file of the boxes.
        images: folder of the images.
        options: of all readers.
        classes: ``class-descriptions-boxable.csv`` of any version, for names and for labels that
            are the same in all splits; None: LabelNames in the order they appear.
        split: a file that names the images to read; None: all.
        cache: database of sizes (``headers.SizeReader``).
    """
    source = Stream(annotations, images)

    def records() -> Iterator[Record]:
        known = Classes(classes)
        yield from _records(source, read(source, known, split), options, cache)
        source.number_categories(known.names)

    source.records = records()
    return source


def _records(
    source: Stream, images: Iterator[Rows], options: Options, cache: Path | None
) -> Iterator[Record]:
    folders = _subfolders(source.images)
    source.dropped.update(dict.fromkeys(options.leave_out, 0))
    source.dropped.update({DEGENERATE: 0, OUTSIDE: 0})
    row = 0
    with SizeReader(source.images, cache) as reader:
        while batch := list(itertools.islice(images, BATCH)):
            names = [_candidates(rows.image, folders) for rows in batch]
            for rows, found in zip(batch, reader.sizes(names), strict=True):
                if isinstance(found, ImageSize):
                    yield _record(source, rows, found, options, row)
                    row += 1
                    continue
                reason = MISSING if found.missing else UNREADABLE
                name = f"{rows.image}.jpg" if found.missing else found.name
                if options.on_bad_image == "error":
                    what = "not in the image folder" if found.missing else found.reason
                    raise InputError(
                        f"{source.images / name}: {what} (image {shown(rows.image)} of "
                        f"{source.annotations}); check data.images, {DROP_IMAGES}"
                    )
                source.drop(reason, name, found.reason)
    if row == 0:
        raise InputError(
            f"{source.annotations}: none of its images is in {source.images}; check data.images"
        )


def _candidates(image: str, folders: Sequence[str]) -> list[str]:
    """Where the image may lie: in the folder of its first digit (``train_0``) before others."""
    if "/" in image or image in ("", ".", "..") or "\0" in image:
        raise InputError(f"image {image!r:.60}: not an ImageID; mend the annotations")
    first = [folder for folder in folders if folder.endswith(f"_{image[0]}")]
    others = [folder for folder in folders if folder not in first]
    return [f"{folder}/{image}.jpg" if folder else f"{image}.jpg" for folder in [*first, *others]]


def _subfolders(folder: Path) -> list[str]:
    """The folder itself, as "", and its subfolders: the splits, or the parts of one."""
    need_folder(folder, "data.images")
    below = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return ["", *below]


def _record(source: Stream, rows: Rows, found: ImageSize, options: Options, row: int) -> Record:
    count = len(rows.labels)
    flags = np.array(rows.flags, np.uint8)
    labels = np.array(rows.labels, np.int32)
    shares = np.array(rows.corners, np.float64).reshape(count, 4)
    kept = (flags & np.uint8(options.unwanted)) == 0
    if not kept.all():
        for name in options.leave_out:  # a box with two such flags counts for the first
            stays = (flags & np.uint8(flag_bits((name,)))) == 0
            source.dropped[name] += int((~stays).sum())
            flags, labels, shares = flags[stays], labels[stays], shares[stays]
    return checked_record(
        source,
        options,
        Record(found.name, found.width, found.height, NO_BOXES, labels, row, flags),
        shares * np.array([found.width, found.height, found.width, found.height]),
        at=f"{source.annotations}: image {shown(rows.image)}",
        describe=lambda n: f"shares x1 y1 x2 y2 {numbers(shares[n])}",
    )
