"""What lies on disk: arrays in shards, each complete or not there, and what they are of."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pretrain.core import files
from pretrain.core.errors import InputError

VERSION = 1
"""Of the folder; it changes whenever its files do, or the same settings give other pairs."""
MANIFEST = "correspond.json"
OPEN_SHARDS = 128
"""Mapped at a time: each holds a file open, and a process may have about a thousand."""


class Shards:
    """An array of many rows, in files of consecutive ones.

    Args:
        folder: of the files.
        dtype: of the array.
        tail: shape of a row.
        lengths: rows of each shard.
    """

    def __init__(
        self, folder: Path, dtype: DTypeLike, tail: tuple[int, ...], lengths: Sequence[int]
    ) -> None:
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.tail = tail
        self.lengths = lengths
        self.map = functools.lru_cache(OPEN_SHARDS)(self._map)

    def __len__(self) -> int:
        return len(self.lengths)

    def file(self, number: int) -> Path:
        """Where a shard is kept."""
        return self.folder / f"shard-{number:06d}.npy"

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there, or not whole."""
        missing = []
        for number in range(len(self)):
            try:
                self._map(number)
            except (OSError, ValueError, EOFError):
                missing.append(number)
        return missing

    def tidy(self) -> None:
        """Remove what killed processes have left half written."""
        files.remove_unfinished(self.folder)

    def write(self, number: int, array: NDArray[Any]) -> None:
        """Keep a shard; a process that is killed leaves no part of one under its name."""
        assert array.dtype == self.dtype
        assert array.shape == (self.lengths[number], *self.tail)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.file(number)) as stream:
            np.save(stream, array, allow_pickle=False)

    def join(self, target: Path) -> None:
        """Write all shards one after another as a single array; the file is whole or not there."""
        shape = (sum(self.lengths), *self.tail)
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": shape,
        }
        with replacing(target) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for number in range(len(self)):
                stream.write(np.ascontiguousarray(self._map(number)).tobytes())

    def _map(self, number: int) -> NDArray[Any]:
        # An array without elements cannot be mapped.
        file, empty = self.file(number), self.lengths[number] == 0
        array: NDArray[Any] = np.load(file, mmap_mode=None if empty else "r", allow_pickle=False)
        if array.dtype != self.dtype or array.shape != (self.lengths[number], *self.tail):
            raise ValueError(f"{self.file(number)} holds {array.dtype} {array.shape}")
        return np.asarray(array)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears whole and durable, or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with files.replacing(target, durable=True) as stream:
            yield stream
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from None


def claim(folder: Path, settings: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write down what the folder is of, or compare.

    Args:
        folder: of the correspondence.
        settings: all that determines the pairs, flat.
        facts: worth knowing, and free to change.

    Raises:
        InputError: it holds something else, or was begun with other settings.
    """
    if not (folder / MANIFEST).exists():
        strangers = sorted({path.name for path in folder.iterdir()} - {".lock"})
        strangers = [name for name in strangers if not name.startswith(f".{MANIFEST}.")]
        if strangers:
            raise InputError(
                f"{folder}: holds something other than correspondences ({strangers[0]}); choose "
                "another folder"
            )
        _write(folder, {"version": VERSION, "settings": settings, "facts": facts})
        return
    held = manifest(folder)
    before = held["settings"]
    differences = [
        f"{key} {before.get(key)!r} instead of {settings.get(key)!r}"
        for key in before | settings
        if before.get(key) != settings.get(key)
    ]
    if differences:
        raise InputError(
            f"{folder}: was begun with {', '.join(differences)}; choose another folder, delete it, "
            "or go on as it was begun"
        )
    _write(folder, held | {"facts": held["facts"] | facts})


def manifest(folder: Path) -> dict[str, Any]:
    """What a folder is of: version, settings and facts.

    Raises:
        InputError: it holds no correspondences, damaged ones, or some of another version.
    """
    missing, damaged = "make them: hcl correspond --help", "delete the folder and make them again"
    held = files.read_versioned(folder / MANIFEST, VERSION, "correspondences", missing, damaged)
    if not all(isinstance(held.get(part), dict) for part in ("settings", "facts")):
        raise InputError(f"{folder / MANIFEST}: damaged (no settings); {damaged}")
    return held


def note(folder: Path, name: str, value: Any) -> None:
    """Keep one more fact."""
    held = manifest(folder)
    _write(folder, held | {"facts": held["facts"] | {name: value}})


def _write(folder: Path, held: dict[str, Any]) -> None:
    with replacing(folder / MANIFEST) as stream:
        stream.write(json.dumps(held, indent=1).encode())
