"""Sizes of image files, read from their headers: many at once, and remembered."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from PIL import Image, UnidentifiedImageError

THREADS = 16
"""Reading a header is waiting for the disk, mostly."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""

_ORIENTATION = 0x0112
_File = tuple[str, int, int]
"""Name, bytes and time of change."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS sizes (name TEXT, upright INTEGER, bytes INTEGER, mtime INTEGER, "
    "width INTEGER, height INTEGER, PRIMARY KEY (name, upright)) WITHOUT ROWID"
)


@dataclass(frozen=True)
class ImageSize:
    """An image file with its size, px."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class NoImageSize:
    """Why there is no size: ``missing`` or not, and the reason."""

    name: str
    missing: bool
    reason: str


class SizeReader:
    """Sizes of the images of one folder; to be used in a ``with`` statement.

    Sizes are kept in a small database, together with the files' sizes and times of change, so
    that an interrupted read continues and a second one need not open the images. Without a
    database that can be written everything works, only not as fast.

    Args:
        folder: of the images.
        cache: the database; None: keep nothing.
        upright: give the size after the EXIF orientation has been applied.
    """

    def __init__(self, folder: Path, cache: Path | None, *, upright: bool = False) -> None:
        self.folder = folder
        self.upright = upright
        self._cache = cache
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(THREADS)
        if self._cache is not None:
            with contextlib.suppress(OSError, sqlite3.Error):
                self._cache.parent.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(self._cache, timeout=20)
                self._database.execute(_SCHEMA)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._database is not None:
            self._database.close()

    def sizes(self, images: Sequence[Sequence[str]]) -> list[ImageSize | NoImageSize]:
        """Sizes of images, each given by the names it may have, relative to the folder.

        The first name under which there is a file counts.
        """
        found = list(self._pool.map(self._find, images))
        known = self._known([file[0] for file in found if file is not None])
        unread = [file for file in found if file is not None and file not in known]
        read = dict(zip(unread, self._pool.map(self._read, unread), strict=True))
        self._remember(read)
        return [
            NoImageSize(names[0], True, "no such file")
            if file is None
            else known.get(file) or read[file]
            for names, file in zip(images, found, strict=True)
        ]

    def _find(self, names: Iterable[str]) -> _File | None:
        """The first that exists."""
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                stat = (self.folder / name).stat()
                return name, stat.st_size, stat.st_mtime_ns
        return None

    def _read(self, file: _File) -> ImageSize | NoImageSize:
        try:
            size = header_size(self.folder / file[0], upright=self.upright)
        except ValueError as error:
            return NoImageSize(file[0], False, str(error))
        return ImageSize(file[0], *size)

    def _known(self, names: Sequence[str]) -> dict[_File, ImageSize]:
        known: dict[_File, ImageSize] = {}
        if self._database is None:
            return known
        with contextlib.suppress(sqlite3.Error):
            for start in range(0, len(names), 500):  # SQLite limits the number of parameters
                part = names[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = self._database.execute(
                    "SELECT name, bytes, mtime, width, height FROM sizes "
                    f"WHERE upright = ? AND name IN ({marks})",
                    (int(self.upright), *part),
                )
                known.update(
                    {(row[0], row[1], row[2]): ImageSize(row[0], *row[3:]) for row in rows}
                )
        return known

    def _remember(self, read: Mapping[_File, ImageSize | NoImageSize]) -> None:
        rows = [
            (file[0], int(self.upright), *file[1:], size.width, size.height)
            for file, size in read.items()
            if isinstance(size, ImageSize)
        ]
        if self._database is None or not rows:
            return
        with contextlib.suppress(sqlite3.Error), self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO sizes VALUES (?, ?, ?, ?, ?, ?)", rows
            )


def header_size(path: Path, *, upright: bool = False) -> tuple[int, int]:
    """Width and height of an image, px; its pixels are not decoded.

    Raises:
        ValueError: not a file, not an image, or one of more pixels than are reasonable.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images that are merely large
            with Image.open(path) as image:
                width, height = image.size
                if upright and _orientation(image) in TURNED:
                    width, height = height, width
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        reason = "the file is empty" if empty else "not an image of a known kind"
        raise ValueError(reason) from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # Pillow's plugins let through what their parsing runs into
        raise ValueError(f"header cannot be read: {error}") from None
    return width, height


def _orientation(image: Image.Image) -> int | None:
    """By EXIF; not through Pillow where that would decode the whole image."""
    try:
        if image.format == "TIFF":
            exif = image.getexif()
        else:
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        return exif.get(_ORIENTATION)
    except Exception:  # a damaged EXIF block does not make the image unreadable
        return None
