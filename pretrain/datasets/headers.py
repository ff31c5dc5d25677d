"""Sizes of image files, read from their headers: many at once, and remembered."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image, UnidentifiedImageError

THREADS = 16
"""Reading a header is waiting for the disk, mostly."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""

_ORIENTATION = 0x0112
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
        threads: that read.
    """

    def __init__(
        self, folder: Path, cache: Path | None, *, upright: bool = False, threads: int = THREADS
    ) -> None:
        self.folder = folder
        self.upright = upright
        self._cache = cache
        self._threads = threads
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._threads)
        if self._cache is not None:
            with contextlib.suppress(OSError, sqlite3.Error):
                self._cache.parent.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(self._cache, timeout=20)
                self._database.execute(_SCHEMA)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._database is not None:
            self._database.close()

    def sizes(self, images: Sequence[Sequence[str]]) -> list[ImageSize | NoImageSize]:
        """Sizes of images, each given by the names it may have, relative to the folder.

        The first name under which there is a file counts.
        """
        present = list(self._pool.map(self._find, images))
        names = [found[0] for found in present if found is not None]
        known = self._known(names)
        results: list[ImageSize | NoImageSize] = []
        unknown: list[int] = []
        for place, found in enumerate(present):
            if found is None:
                results.append(NoImageSize(images[place][0], True, "no such file"))
                continue
            name, size, changed = found
            entry = known.get(name)
            if entry is not None and entry[:2] == (size, changed):
                results.append(ImageSize(name, *entry[2:]))
            else:
                unknown.append(place)
                results.append(NoImageSize(name, False, "not read yet"))
        fresh = self._pool.map(self._read, [results[place].name for place in unknown])
        learnt = []
        for place, read in zip(unknown, fresh, strict=True):
            results[place] = read
            found = present[place]
            if isinstance(read, ImageSize) and found is not None:
                learnt.append((*found, read.width, read.height))
        self._learn(learnt)
        return results

    def _find(self, names: Iterable[str]) -> tuple[str, int, int] | None:
        """Name, bytes and time of change of the first that exists."""
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                stat = (self.folder / name).stat()
                return name, stat.st_size, stat.st_mtime_ns
        return None

    def _read(self, name: str) -> ImageSize | NoImageSize:
        try:
            width, height = header_size(self.folder / name, upright=self.upright)
        except ValueError as error:
            return NoImageSize(name, False, str(error))
        return ImageSize(name, width, height)

    def _known(self, names: Sequence[str]) -> dict[str, tuple[int, int, int, int]]:
        found: dict[str, tuple[int, int, int, int]] = {}
        if self._database is None:
            return found
        with contextlib.suppress(sqlite3.Error):
            for start in range(0, len(names), 500):  # SQLite limits the number of parameters
                part = names[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = self._database.execute(
                    "SELECT name, bytes, mtime, width, height FROM sizes "
                    f"WHERE upright = ? AND name IN ({marks})",
                    (int(self.upright), *part),
                )
                found.update({name: tuple(rest) for name, *rest in rows})
        return found

    def _learn(self, rows: list[tuple[str, int, int, int, int]]) -> None:
        if self._database is None or not rows:
            return
        with contextlib.suppress(sqlite3.Error), self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO sizes VALUES (?, ?, ?, ?, ?, ?)",
                [(name, int(self.upright), *rest) for name, *rest in rows],
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
    """By EXIF; not asked of Pillow where it would decode the whole image to answer."""
    try:
        if image.format == "TIFF":
            exif = image.getexif()
        else:
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        return exif.get(_ORIENTATION)
    except Exception:  # a damaged EXIF block does not make the image unreadable
        return None
