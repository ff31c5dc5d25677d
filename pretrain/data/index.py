"""The index: what is known of every image, in columns that all processes share.

A folder of plain arrays that are mapped, not loaded: opening costs the same for a thousand images
and for a million, and worker processes share the pages. ``pretrain.datasets.index_writer`` writes
it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pretrain.core.errors import InputError
from pretrain.core.files import read_versioned

VERSION = 2
META = "meta.json"
DROPPED = "dropped.tsv"
"""Reason, file name and entry of all that was left out as faulty; absent if nothing was."""

COLUMNS = {
    # name: (dtype, trailing shape)
    "path_bytes": (np.uint8, ()),
    "path_offsets": (np.int64, ()),
    "image_ids": (np.int64, ()),
    "sizes": (np.int32, (2,)),
    "boxes": (np.float32, (4,)),
    "box_offsets": (np.int64, ()),
    "labels": (np.int32, ()),
    "flags": (np.uint8, ()),
}
DIGEST_CHUNK = 1 << 24
"""Bytes of a column hashed at a time, so that a build of any size needs the same memory."""

AGAIN = "delete the folder; a run builds its own again, hcl data prepare a prepared one"


class Index:
    """Rows of (path, size, boxes, labels, flags); open with ``Index.open``.

    Attributes:
        folder: where the index lies.
        images: folder of the images.
        meta: version, counts, categories, image folder, source, options, fingerprint.
    """

    def __init__(
        self,
        folder: Path,
        meta: dict[str, Any],
        columns: dict[str, NDArray[Any]],
        images: Path | None = None,
    ) -> None:
        self.folder = folder
        self.meta = meta
        self.images = images or Path(meta["images"])
        self._columns = columns
        self._moved = images

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is an index, sound or not."""
        return (folder / META).is_file()

    @classmethod
    def open(cls, folder: Path, images: Path | None = None) -> Index:
        """Map an index; its arrays are not read.

        Args:
            folder: of the index.
            images: folder of the images, if they lie elsewhere than when it was built.

        Raises:
            InputError: there is none, it is damaged, or another version wrote it.
        """
        missing = "build it, or check data.index"
        meta = read_versioned(folder / META, VERSION, "index", missing, AGAIN)
        columns = {}
        try:
            for name, (dtype, tail) in COLUMNS.items():
                shape = (meta["lengths"][name], *tail)
                columns[name] = map_column(folder / f"{name}.npy", dtype, shape)
            index = cls(folder, meta, columns, images)
            _ = index.categories, index.category_ids, index.fingerprint
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: damaged index ({error}); {AGAIN}") from None
        return index

    def __len__(self) -> int:
        return len(self._columns["image_ids"])

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker gets the name and maps the same pages, whatever the start method.
        return Index.open, (self.folder, self._moved)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names by label."""
        return tuple(self.meta["categories"])

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The source's numbers by label."""
        return tuple(self.meta["category_ids"])

    @property
    def fingerprint(self) -> str:
        """sha256 of names, sizes, boxes, labels, flags and categories; not of the pixels."""
        return str(self.meta["fingerprint"])

    @property
    def box_count(self) -> int:
        """Boxes of all rows."""
        return len(self._columns["labels"])

    def column(self, name: str) -> NDArray[Any]:
        """A whole column of ``COLUMNS``, mapped and read-only, for work over all rows."""
        return self._columns[name]

    def path(self, row: int) -> Path:
        """The image file."""
        return self.images / self.file_name(row)

    def file_name(self, row: int) -> str:
        """The image file, relative to the folder of the images."""
        start, stop = self._columns["path_offsets"][row : row + 2]
        return bytes(self._columns["path_bytes"][start:stop]).decode("utf-8")

    def image_id(self, row: int) -> int:
        """The source's number of the image."""
        return int(self._columns["image_ids"][row])

    def size(self, row: int) -> tuple[int, int]:
        """Width and height, px."""
        width, height = self._columns["sizes"][row]
        return int(width), int(height)

    def boxes(self, row: int) -> NDArray[np.float32]:
        """float32 (n, 4), x1 y1 x2 y2 in px; read-only."""
        return self._of_row("boxes", row)

    def labels(self, row: int) -> NDArray[np.int32]:
        """int32 (n,); read-only."""
        return self._of_row("labels", row)

    def flags(self, row: int) -> NDArray[np.uint8]:
        """uint8 (n,), bits of ``pretrain.datasets.records.Flag``; read-only."""
        return self._of_row("flags", row)

    def verify(self) -> None:
        """Read everything and compare it with the fingerprint.

        Raises:
            InputError: the content is not what was written.
        """
        found = fingerprint(self._columns, self.categories, self.category_ids)
        if found != self.fingerprint:
            raise InputError(
                f"{self.folder}: the index's content has changed since it was written; {AGAIN}"
            )

    def _of_row(self, name: str, row: int) -> NDArray[Any]:
        start, stop = self._columns["box_offsets"][row : row + 2]
        return self._columns[name][start:stop]


def fingerprint(
    columns: dict[str, NDArray[Any]], categories: tuple[str, ...], ids: tuple[int, ...]
) -> str:
    """sha256 of all columns and categories."""
    digest = hashlib.sha256(json.dumps([VERSION, list(categories), list(ids)]).encode())
    for name in COLUMNS:
        column = columns[name]
        digest.update(f"{name}{column.dtype.str}{column.shape}".encode())
        rows = max(1, DIGEST_CHUNK // max(1, column.dtype.itemsize * int(column[:1].size)))
        for start in range(0, len(column), rows):
            digest.update(np.ascontiguousarray(column[start : start + rows]).data)
    return digest.hexdigest()


def offsets(lengths: ArrayLike) -> NDArray[np.int64]:
    """Where each of so many parts of these lengths (n,) starts, and the end: int64 (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def map_column(file: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array of a file, mapped.

    Raises:
        OSError: it is not there.
        ValueError: it is another one.
    """
    column = np.load(file, mmap_mode="r", allow_pickle=False)
    if column.dtype != np.dtype(dtype) or column.shape != shape:
        raise ValueError(
            f"{file.name} holds {column.dtype} {column.shape}, not {np.dtype(dtype)} {shape}"
        )
    # A plain view of the mapping: a row read from memmaps costs three times as much.
    array: NDArray[Any] = np.asarray(column)
    return array
