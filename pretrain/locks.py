"""Folders that one process at a time may work in."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from pretrain.errors import InputError


@contextlib.contextmanager
def alone_in(folder: Path, who: str = "another process is at work here") -> Iterator[None]:
    """Hold a folder, making it where there is none; the lock of a killed process is gone with it.

    A file system without locks does not keep others out.

    Args:
        folder: to hold.
        who: is there, if somebody is; ends the message.

    Raises:
        InputError: it is held, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: {who}; wait for it, or choose another folder") from None
        except OSError:
            pass
        yield
