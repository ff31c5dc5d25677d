"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY = ".*.tmp"
"""Pattern of the names of unfinished files, which a kill may leave behind."""


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[IO[bytes]]:
    """Write a file that takes the place of ``path`` at the end of the block.

    It is written under a name of its own, so that two processes never write into one file. Where
    the block fails it is removed and ``path`` stays as it was.

    Args:
        path: to write or to replace.
        durable: bring the content to the disk before it gets its name.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left half written; for the one that holds the folder."""
    for leftover in folder.glob(TEMPORARY):
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, in place of the one that may be there."""
    with replacing(path) as stream:
        stream.write(text.encode())
