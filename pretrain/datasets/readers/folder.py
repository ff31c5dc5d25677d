"""Any folder of images, without boxes."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pretrain.core.errors import InputError
from pretrain.datasets.headers import ImageSize, SizeReader
from pretrain.datasets.readers.common import DEFAULT, NO_BOXES, UNREADABLE, Options, need_folder
from pretrain.datasets.records import Record, Stream

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
BATCH = 2048
"""Images whose headers are read together."""

_NO_LABELS = np.empty(0, np.int32)


def stream(
    images: Path,
    options: Options = DEFAULT,
    *,
    class_folders: bool = False,
    cache: Path | None = None,
) -> Stream:
    """Read a folder and all below it: every file with a suffix of ``SUFFIXES``, ordered by name.

    Hidden files and folders are passed over. An image that its EXIF orientation turns by 90° has
    the size of the turned one, and is turned when it is decoded.

    Args:
        images: the folder.
        options: of all readers.
        class_folders: an image gets one box, the whole image, labeled with the first folder of
            its path; images outside folders are refused. Without it images have no boxes.
        cache: database of sizes (``headers.SizeReader``).
    """
    source = Stream(images, images)
    source.records = _records(source, options, class_folders, cache)
    return source


def state(images: Path) -> tuple[int, int]:
    """Number of folders, and a number that differs when one of them is changed.

    A folder changes when a file in it is added, removed or renamed.
    """
    need_folder(images, "data.images")
    changes = [(name, Path(name).stat().st_mtime_ns) for name, _ in _walk(images)]
    digest = hashlib.sha256(repr(changes).encode("utf-8", "surrogateescape")).digest()
    return len(changes), int.from_bytes(digest[:7])


def _walk(images: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder with the names of its images, in the order of their paths."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check data.images")

    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(images, onerror=refuse, followlinks=True):
        stat = Path(folder).stat()
        if (stat.st_dev, stat.st_ino) in seen:  # a link to a folder already entered
            below[:] = []
            continue
        seen.add((stat.st_dev, stat.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield (
            folder,
            sorted(
                name
                for name in files
                if name.lower().endswith(SUFFIXES) and not name.startswith(".")
            ),
        )


def _nameable(source: Stream, options: Options) -> Iterator[str]:
    """Names of the images, as far as they can be written down."""
    for folder, files in _walk(source.images):
        for file in files:
            name = Path(folder, file).relative_to(source.images).as_posix()
            try:
                name.encode("utf-8")
            except UnicodeEncodeError:
                _drop(source, options, ascii(name), "the name is not UTF-8")
            else:
                yield name


def _drop(source: Stream, options: Options, name: str, reason: str) -> None:
    if options.on_bad_image == "error":
        raise InputError(
            f"{source.images}/{name}: {reason}; replace the file, or set on_bad_image=drop to "
            "leave such images out"
        )
    source.drop(UNREADABLE, name, reason)


def _records(
    source: Stream, options: Options, class_folders: bool, cache: Path | None
) -> Iterator[Record]:
    need_folder(source.images, "data.images")
    size, changed = state(source.images)
    names = _nameable(source, options)
    labels: dict[str, int] = {}
    digest = hashlib.sha256()
    row = 0
    with SizeReader(source.images, cache, upright=True) as reader:
        while batch := list(itertools.islice(names, BATCH)):
            for name, found in zip(batch, reader.sizes([[n] for n in batch]), strict=True):
                if not isinstance(found, ImageSize):
                    _drop(source, options, name, found.reason)
                    continue
                digest.update(f"{name}\t{found.width}\t{found.height}\n".encode())
                boxes, chosen = NO_BOXES, _NO_LABELS
                if class_folders:
                    label = labels.setdefault(_class_of(source.images, name), len(labels))
                    boxes = np.array([[0, 0, found.width, found.height]], np.float32)
                    chosen = np.array([label], np.int32)
                yield Record(name, found.width, found.height, boxes, chosen, row)
                row += 1
    if row == 0:
        suffixes = ", ".join(SUFFIXES)
        raise InputError(f"{source.images}: no images in it ({suffixes}); check data.images")
    source.source_size, source.source_mtime_ns = size, changed
    source.source_sha256 = digest.hexdigest()
    source.number_categories(labels)


def _class_of(images: Path, name: str) -> str:
    folder, below, _ = name.partition("/")
    if not below:
        raise InputError(
            f"{images / name}: lies in no class folder; move it into one, or unset "
            "data.class_folders"
        )
    return folder
