"""Files and folders that appear whole or not at all.

One rule for ``fsync``: what is ``durable`` is on the disk before it gets its name, and its name is
on the disk before the call returns. Checkpoints, exports, indexes and shards are durable, because
later runs trust what they find under the name; small records that a run writes again are not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pretrain.core.errors import InputError

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
                sync_file(stream)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left half written; for the one that holds the folder."""
    for leftover in folder.glob(TEMPORARY):
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write a text file in UTF-8, in place of the one that may be there."""
    with replacing(path, durable) as stream:
        stream.write(text.encode())


def write_json(
    path: Path, content: Any, *, indent: int | None = None, durable: bool = False
) -> None:
    """Write a JSON file, in place of the one that may be there."""
    write_text(path, json.dumps(content, indent=indent) + "\n" * (indent is not None), durable)


def read_versioned(
    file: Path, version: int, what: str, missing: str, damaged: str
) -> dict[str, Any]:
    """The JSON object that describes a folder and names the version of its format.

    Args:
        file: of the object.
        version: that this program reads.
        what: the folder holds, for messages.
        missing: what to do where there is none.
        damaged: what to do where it is damaged or of another version.

    Raises:
        InputError: it is not there, not such an object, or of another version.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = content["version"]
    except FileNotFoundError:
        raise InputError(f"{file.parent}: no {what} here (no {file.name}); {missing}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: damaged ({error}); {damaged}") from None
    if found != version:
        raise InputError(
            f"{file.parent}: {what} of version {found}, this program needs {version}; {damaged}"
        )
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is none, or none that is whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def cache_folder() -> Path:
    """Where this program keeps what it can make again: below $XDG_CACHE_HOME, else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "hcl"


@contextlib.contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A folder on the file system of ``target``, removed at the end of the block.

    What is made in it can be renamed to ``target``. It is readable by others, as folders that
    ``mkdir`` makes are.

    Raises:
        OSError: it cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        scratch.chmod(0o755)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that gets its name at the end of the block, or disappears.

    Raises:
        InputError: there is another in its place that is not empty, or it cannot be written.
    """
    try:
        with scratch_beside(folder) as scratch:
            yield scratch
            scratch.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def sync_file(file: IO[Any]) -> None:
    """Bring what has been written to an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
