"""Folders that one process at a time may work in.

Not by the library filelock: its native lock does not say who holds it, and its ``SoftFileLock``,
which does, stays after a process that has died on another machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pretrain.core.errors import InputError

log = logging.getLogger(__name__)

LOCK = ".lock"
"""Name of the lock in a folder."""
BUSY = "another process is at work here"

_held: set[Path] = set()
# A lock of POSIX does not keep a process out of what it holds itself, and is lost as soon as that
# process closes any other handle on the file.


@contextlib.contextmanager
def alone_in(folder: Path, who: str = BUSY, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder, making it where there is none; the lock of a killed process is gone with it.

    The lock is one of POSIX (``fcntl``): it works over NFS, and child processes do not inherit it,
    so workers that outlive a killed process hold nothing. The lock file says who holds it. Where
    the block fails, a folder and a lock file that were made here are removed again.

    A file system without locks does not keep others out; a warning says so.

    Args:
        folder: to hold.
        who: is there, if somebody is; begins the message.
        patience: seconds to wait for the other.

    Raises:
        InputError: it is held, or cannot be made.
    """
    path, made = folder / LOCK, not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place, new = folder.resolve(), not path.exists()
        if place in _held:
            raise InputError(f"{folder}: {who} (process {os.getpid()}, this one)")
        file = _acquire(path, who, patience)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    _held.add(place)
    with file:
        try:
            _sign(file)
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                if new:
                    path.unlink()
                if made:
                    folder.rmdir()
            raise
        finally:
            _held.discard(place)


@contextlib.contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """Let one process or thread after the other through the block; where no locks, all at once.

    For work whose result all of them then find done, such as building a cached index.

    Args:
        lock: the lock file, made with its folder where there is none.

    Raises:
        OSError: it cannot be made.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open_lock(lock) as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)  # unlike lockf, it also keeps out other threads
        yield


def open_lock(path: Path) -> IO[str]:
    """Open a lock file, making it where there is none; a link is not followed.

    Raises:
        OSError: it is a link or no plain file, or cannot be made or written.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a link; remove it")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is no plain file")
    return os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as the lock file says."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def _acquire(path: Path, who: str, patience: float) -> IO[str]:
    """Open and lock a file, waiting for at most ``patience`` seconds.

    Raises:
        InputError: another process holds it.
    """
    deadline = time.monotonic() + patience
    while True:
        file = open_lock(path)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:
                return file
            # Removed by its holder since it was opened.
        except (BlockingIOError, PermissionError):
            holder = _holder(file)
            file.close()
            if time.monotonic() >= deadline:
                by = f" ({holder})" if holder else ""
                raise InputError(
                    f"{path.parent}: {who}{by}; wait for it, or choose another folder"
                ) from None
            time.sleep(1)
            continue
        except OSError as error:
            log.warning(
                "%s: the file system has no locks (%s); do not start a second process there",
                *(path.parent, error.strerror),
            )
            return file
        file.close()


def _holder(file: IO[str]) -> Holder | None:
    file.seek(0)
    try:
        return Holder(**json.loads(file.read(4096)))
    except (ValueError, TypeError):
        return None


def _sign(file: IO[str]) -> None:
    """Note the holder; a file with other content is not ours and stays as it is."""
    if os.fstat(file.fileno()).st_size and _holder(file) is None:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the note
        file.seek(0)
        file.truncate()
        file.write(json.dumps(asdict(Holder(socket.gethostname(), os.getpid(), now))) + "\n")
        file.flush()
