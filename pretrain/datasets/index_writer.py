"""Writing an index: record by record, complete or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self, TextIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.core.files import scratch_beside, sync, sync_file, write_text
from pretrain.data.index import COLUMNS, DROPPED, META, VERSION, Index, fingerprint
from pretrain.datasets.records import Record, Stream

BATCH = 4096
"""Records kept in memory before their columns go to the disk."""


def build_index(source: Stream, folder: Path, options: dict[str, Any] | None = None) -> Index:
    """Write an index of all records of a source and open it.

    The folder appears complete or not at all. If another process was faster, its index is
    opened. Memory does not grow with the number of records.

    Args:
        source: of a reader.
        folder: to create.
        options: with which the source was read, kept in ``meta``.

    Raises:
        InputError: the source is at fault; the folder cannot be written, or holds something
            else.
    """
    with IndexWriter(folder, source.images) as writer:
        if source.on_drop is None:
            source.on_drop = writer.note_dropped
        for record in source.records:
            writer.append(record)
        writer.finish(source, options)
    return Index.open(folder)


class IndexWriter:
    """Appends records to a new index; to be used in a ``with`` statement.

    The columns grow in a hidden folder beside the wanted one, which appears when ``finish`` is
    called, and is removed where that does not happen. If another process was faster, its index
    stays.

    Args:
        folder: of the index, to be created.
        images: folder of the images.

    Raises:
        InputError: on entry, the folder cannot be written.
    """

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder = folder
        self.images = images
        self.rows = 0
        self._batch: list[Record] = []
        self._path_end = 0
        self._box_end = 0
        self._dropped: TextIO | None = None

    def __enter__(self) -> Self:
        folder = self.folder
        with _writing(folder):
            self._scratch = scratch_beside(folder)
            self._temporary = self._scratch.__enter__()
            self._columns = {
                name: _Column(self._temporary / f"{name}.npy", np.dtype(dtype), tail)
                for name, (dtype, tail) in COLUMNS.items()
            }
            for name in ("path_offsets", "box_offsets"):
                self._columns[name].append(np.zeros(1, np.int64))
        return self

    def __exit__(self, *_: object) -> None:
        for column in self._columns.values():
            column.close()
        if self._dropped is not None:
            self._dropped.close()
        self._scratch.__exit__(None, None, None)

    def append(self, record: Record) -> None:
        """Add a row."""
        count = len(record.boxes)
        assert record.boxes.shape == (count, 4), "boxes are (n, 4)"
        assert len(record.labels) == count, "a label for every box"
        assert record.flags is None or len(record.flags) == count, "flags for every box"
        self._batch.append(record)
        self.rows += 1
        if len(self._batch) == BATCH:
            self._spill()

    def note_dropped(self, reason: str, file_name: str, what: str) -> None:
        """Keep one line about something left out as faulty, in ``dropped.tsv``."""
        fields = (" ".join(value.split()) for value in (reason, file_name, what))
        with _writing(self.folder):
            if self._dropped is None:
                self._dropped = (self._temporary / DROPPED).open("w", encoding="utf-8")
            self._dropped.write("\t".join(fields) + "\n")

    def finish(
        self,
        source: Stream,
        options: dict[str, Any] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        files: dict[str, str] | None = None,
    ) -> None:
        """Put the complete index in place.

        Args:
            source: what was read; its records have been appended.
            options: with which it was read.
            extra: entries of ``meta``, further ones or instead of those of the source.
            files: further text files of the folder, by name.

        Raises:
            InputError: the folder holds something else.
        """
        self._spill()
        with _writing(self.folder):
            for column in self._columns.values():
                column.finish()
            if self._dropped is not None:
                sync_file(self._dropped)
            mapped = {
                name: np.load(self._temporary / f"{name}.npy", mmap_mode="r") for name in COLUMNS
            }
            meta = {
                "version": VERSION,
                "images": str(self.images.resolve()),
                "categories": list(source.categories),
                "category_ids": list(source.category_ids),
                "dropped": source.dropped,
                "clipped": source.clipped,
                "options": options or {},
                "source": {
                    "path": str(source.annotations.resolve()),
                    "size": source.source_size,
                    "mtime_ns": source.source_mtime_ns,
                    "sha256": source.source_sha256,
                },
                "lengths": {name: len(column) for name, column in mapped.items()},
                "fingerprint": fingerprint(mapped, source.categories, source.category_ids),
                **(extra or {}),
            }
            for name, content in {**(files or {}), META: json.dumps(meta, indent=1)}.items():
                write_text(self._temporary / name, content, durable=True)
        try:
            self._temporary.rename(self.folder)
        except OSError as error:
            if not Index.exists(self.folder):
                raise InputError(
                    f"{self.folder}: cannot write the index here ({error.strerror}); delete the "
                    "folder, or set data.index to another one"
                ) from None
        sync(self.folder.parent)

    def _spill(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        names = [record.file_name.encode("utf-8") for record in batch]
        no_flags = np.zeros(max(len(record.boxes) for record in batch), np.uint8)
        flags = [no_flags[: len(r.boxes)] if r.flags is None else r.flags for r in batch]
        parts = {
            "path_bytes": np.frombuffer(b"".join(names), np.uint8),
            "path_offsets": self._path_end + np.cumsum([len(name) for name in names]),
            "image_ids": np.array([record.image_id for record in batch], np.int64),
            "sizes": np.array([(record.width, record.height) for record in batch], np.int32),
            "boxes": np.concatenate([record.boxes for record in batch]),
            "box_offsets": self._box_end + np.cumsum([len(record.boxes) for record in batch]),
            "labels": np.concatenate([record.labels for record in batch]),
            "flags": np.concatenate(flags),
        }
        self._path_end = int(parts["path_offsets"][-1])
        self._box_end = int(parts["box_offsets"][-1])
        with _writing(self.folder):
            for name, part in parts.items():
                self._columns[name].append(part)


class _Column:
    """An array file that grows along its first axis."""

    def __init__(self, path: Path, dtype: np.dtype[Any], tail: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.tail = tail
        self.length = 0
        self._file: BinaryIO = path.open("wb")
        self._header = self._write_header()

    def append(self, part: NDArray[Any]) -> None:
        part = np.ascontiguousarray(part, self.dtype)
        assert part.shape[1:] == self.tail, f"rows of shape {self.tail}, not {part.shape[1:]}"
        self._file.write(part.data)
        self.length += len(part)

    def finish(self) -> None:
        self._file.seek(0)
        # numpy leaves room in the header for the first axis to grow.
        assert self._write_header() == self._header, "the header has outgrown its room"
        sync_file(self._file)
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def _write_header(self) -> int:
        descr, shape = npy.dtype_to_descr(self.dtype), (self.length, *self.tail)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, header)
        return self._file.tell()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write the index ({error.strerror}); set data.index to a folder "
            "that can be written"
        ) from None
