"""The index: what is known of every image, in columns that all processes share.

A folder of plain arrays that are mapped, not loaded: opening costs the same for a thousand images
and for a million, and worker processes share the pages.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.data.records import ReadReport
from pretrain.errors import InputError

VERSION = 1
META = "meta.json"
COLUMNS = {
    # name: (dtype, trailing shape)
    "path_bytes": (np.uint8, ()),
    "path_offsets": (np.int64, ()),
    "image_ids": (np.int64, ()),
    "sizes": (np.int32, (2,)),
    "boxes": (np.float32, (4,)),
    "box_offsets": (np.int64, ()),
    "labels": (np.int32, ()),
}


class Index:
    """Rows of (path, size, boxes, labels); open with ``Index.open`` or ``Index.build``.

    Attributes:
        folder: where the index lies.
        meta: version, counts, categories, image folder, source, options, fingerprint.
    """

    def __init__(
        self, folder: Path, meta: dict[str, Any], columns: dict[str, NDArray[Any]]
    ) -> None:
        self.folder = folder
        self.meta = meta
        self._columns = columns
        self._images = Path(meta["images"])

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is an index, sound or not."""
        return (folder / META).is_file()

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Map an index; its arrays are not read.

        Raises:
            InputError: there is none, it is damaged, or another version wrote it.
        """
        if not cls.exists(folder):
            raise InputError(f"{folder}: no index here (no {META}); build it, or check data.index")
        remedy = "delete the folder and it will be built again"
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            version = meta["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}/{META}: damaged ({error}); {remedy}") from None
        if version != VERSION:
            raise InputError(
                f"{folder}: index of version {version}, this program needs {VERSION}; {remedy}"
            )
        columns = {}
        try:
            for name, (dtype, tail) in COLUMNS.items():
                shape = (meta["lengths"][name], *tail)
                columns[name] = _map(folder / f"{name}.npy", np.dtype(dtype), shape)
            index = cls(folder, meta, columns)
            _ = index.categories, index.category_ids, index.fingerprint
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: damaged index ({error}); {remedy}") from None
        return index

    @classmethod
    def build(
        cls, report: ReadReport, folder: Path, options: dict[str, Any] | None = None
    ) -> Index:
        """Write an index and open it.

        The folder appears complete or not at all. If another process was faster, its index is
        opened.

        Args:
            report: of a reader.
            folder: to create.
            options: with which the source was read, kept in ``meta``.

        Raises:
            InputError: the folder cannot be written, or holds something else.
        """
        columns = _columns(report)
        meta = {
            "version": VERSION,
            "images": str(report.images.resolve()),
            "categories": list(report.categories),
            "category_ids": list(report.category_ids),
            "dropped": report.dropped,
            "clipped": report.clipped,
            "options": options or {},
            "source": {
                "path": str(report.annotations.resolve()),
                "size": report.source_size,
                "mtime_ns": report.source_mtime_ns,
                "sha256": report.source_sha256,
            },
            "lengths": {name: len(column) for name, column in columns.items()},
            "fingerprint": _fingerprint(columns, report.categories, report.category_ids),
        }
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        except OSError as error:
            raise InputError(
                f"{folder}: cannot write the index ({error.strerror}); set data.index to a "
                "folder that can be written"
            ) from None
        try:
            _write(temporary, meta, columns)
            try:
                temporary.rename(folder)
            except OSError as error:
                if not cls.exists(folder):
                    raise InputError(
                        f"{folder}: cannot write the index here ({error.strerror}); delete the "
                        "folder, or set data.index to another one"
                    ) from None
            _sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls.open(folder)

    def __len__(self) -> int:
        return len(self._columns["image_ids"])

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker gets the name and maps the same pages, whatever the start method.
        return Index.open, (self.folder,)

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
        """sha256 of names, sizes, boxes, labels and categories; not of the pixels."""
        return str(self.meta["fingerprint"])

    @property
    def box_count(self) -> int:
        """Boxes of all rows."""
        return len(self._columns["labels"])

    def path(self, row: int) -> Path:
        """The image file."""
        return self._images / self.file_name(row)

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
        start, stop = self._columns["box_offsets"][row : row + 2]
        return self._columns["boxes"][start:stop]

    def labels(self, row: int) -> NDArray[np.int32]:
        """int32 (n,); read-only."""
        start, stop = self._columns["box_offsets"][row : row + 2]
        return self._columns["labels"][start:stop]

    def verify(self) -> None:
        """Read everything and compare it with the fingerprint.

        Raises:
            InputError: the content is not what was written.
        """
        found = _fingerprint(self._columns, self.categories, self.category_ids)
        if found != self.fingerprint:
            raise InputError(
                f"{self.folder}: the index's content has changed since it was written; delete "
                "the folder and it will be built again"
            )


def _columns(report: ReadReport) -> dict[str, NDArray[Any]]:
    names = [record.file_name.encode("utf-8") for record in report.records]
    boxes = [record.boxes for record in report.records]
    labels = [record.labels for record in report.records]
    return {
        "path_bytes": np.frombuffer(b"".join(names), np.uint8),
        "path_offsets": _offsets([len(name) for name in names]),
        "image_ids": np.array([record.image_id for record in report.records], np.int64),
        "sizes": np.array([(r.width, r.height) for r in report.records], np.int32).reshape(-1, 2),
        "boxes": np.concatenate([np.empty((0, 4), np.float32), *boxes]),
        "box_offsets": _offsets([len(part) for part in boxes]),
        "labels": np.concatenate([np.empty(0, np.int32), *labels]),
    }


def _offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _fingerprint(
    columns: dict[str, NDArray[Any]], categories: tuple[str, ...], ids: tuple[int, ...]
) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, list(categories), list(ids)]).encode())
    for name in COLUMNS:
        column = np.ascontiguousarray(columns[name])
        digest.update(f"{name}{column.dtype.str}{column.shape}".encode())
        digest.update(column.data)
    return digest.hexdigest()


def _map(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    column = np.load(file, mmap_mode="r", allow_pickle=False)
    if column.dtype != dtype or column.shape != shape:
        raise ValueError(f"{file.name} holds {column.dtype} {column.shape}, not {dtype} {shape}")
    array: NDArray[Any] = column
    return array


def _write(folder: Path, meta: dict[str, Any], columns: dict[str, NDArray[Any]]) -> None:
    folder.chmod(0o755)  # mkdtemp makes it private, but an index may be shared
    for name, column in columns.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, column, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    with (folder / META).open("w", encoding="utf-8") as text:
        json.dump(meta, text, indent=1)
        text.flush()
        os.fsync(text.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
