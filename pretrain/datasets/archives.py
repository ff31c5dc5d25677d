"""Unpacking archives inside one folder, and nowhere else."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from pretrain.core.errors import InputError
from pretrain.core.files import read_json, write_json
from pretrain.core.locks import in_turn

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DOWNLOADS = "downloads"
"""Folder below a data set's root for its archives."""

DONE = ".unpacked"
"""Folder of a note on every archive that has been unpacked completely."""

PARTIAL = ".partial-"
"""Start of the name of a file being written."""

CHUNK = 1 << 20


@dataclass
class UnpackReport:
    """What became of an archive's members.

    Attributes:
        archive: the file.
        written: files written now.
        present: files that were there from an earlier time.
        skipped: member and reason, of everything that was refused.
        before: the archive had been unpacked completely before; nothing was read.
    """

    archive: Path
    written: int = 0
    present: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    before: bool = False

    def lines(self) -> list[str]:
        """For people: what was done, and what was refused."""
        if self.before:
            return [f"{self.archive.name}: unpacked before"]
        refused = f", {len(self.skipped)} refused" if self.skipped else ""
        done = f"{self.archive.name}: {self.written} files written, {self.present} there{refused}"
        return [done, *(f"  refused: {member!r}: {reason}" for member, reason in self.skipped)]


class _Member(NamedTuple):
    name: str
    size: int
    kind: str  # "file", "folder", or what it is instead
    open: Callable[[], IO[bytes] | None]  # something for every file


def is_archive(file: Path) -> bool:
    """Whether the name is that of an archive ``unpack`` knows."""
    return file.name.lower().endswith(SUFFIXES)


def find_archives(root: Path, given: Sequence[Path], names: Iterable[str]) -> list[Path]:
    """The archives to unpack: those given, and of ``names`` those below ``root``.

    Args:
        root: folder of a data set; archives lie in it or in its ``downloads``.
        given: by the user; one of the same name below the root is left out.
        names: under which the set's archives circulate.

    Raises:
        InputError: one that was given is no file, or no archive by its name.
    """
    for archive in given:
        if not archive.is_file():
            raise InputError(f"{archive}: no such archive; check --archive")
        if not is_archive(archive):
            raise InputError(f"{archive}: not a zip or tar archive by its name; check --archive")
    found = list(given)
    for name in names:
        places = (root / DOWNLOADS / name, root / name)
        there = [place for place in places if place.is_file() and is_archive(place)]
        if there and name not in {archive.name for archive in given}:
            found.append(there[0])
    return found


def unpack(
    archive: Path, folder: Path, progress: Callable[[int], None] | None = None
) -> UnpackReport:
    """Unpack into a folder.

    Members with absolute paths or ``..``, links and devices are refused, and named in the result.
    A file appears complete or not at all; those that are there with the right size are not
    written again, so an interrupted call is continued by the next. After a complete one a note
    is left below ``.unpacked``, and the archive is not read again while it stays the same.

    Args:
        archive: zip, or tar with or without compression.
        folder: to unpack into; made where missing.
        progress: called with the number of members seen.

    Raises:
        InputError: the archive cannot be read or is damaged (what has been unpacked stays), or
            the folder cannot be written.
    """
    result = UnpackReport(archive)
    try:
        state = archive.stat()
    except OSError as error:
        raise InputError(f"{archive}: cannot read the archive ({error.strerror})") from None
    note = folder / DONE / f"{archive.name}.json"
    identity = {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    if read_json(note) == identity:
        result.before = True
        return result
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with in_turn(note.with_suffix(".lock")), _members(archive) as members:
            for number, member in enumerate(members, start=1):
                _one(member, folder, result)
                if progress is not None:
                    progress(number)
        if not result.skipped:
            write_json(note, identity)
    except (
        *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
        *(EOFError, NotImplementedError, RuntimeError, UnicodeError),
    ) as error:
        done = result.written + result.present
        raise InputError(
            f"{archive}: damaged or incomplete archive after {done} files ({error}); download it "
            "again; what has been unpacked stays"
        ) from None
    except OSError as error:
        where = error.filename or folder
        raise InputError(
            f"{where}: cannot unpack {archive} ({error.strerror or error}); the next call continues"
        ) from None
    return result


def refusal(name: str) -> str | None:
    """Why a member of this name is not unpacked; None if it may be."""
    path = PurePosixPath(name)
    faults = {
        "a name with a null byte": "\0" in name,
        "a name with a backslash": "\\" in name,
        "an absolute path": path.is_absolute() or name[1:2] == ":",
        "a path with '..'": ".." in path.parts,
        "an empty name": not path.parts,
        "a name this program keeps for itself": path.parts[:1] == (DONE,)
        or path.name.startswith(PARTIAL),
    }
    return next((reason for reason, true in faults.items() if true), None)


def _one(member: _Member, folder: Path, result: UnpackReport) -> None:
    reason = refusal(member.name)
    if reason is None and member.kind not in ("file", "folder"):
        reason = member.kind
    if reason is not None:
        result.skipped.append((member.name, reason))
        return
    target = folder / member.name
    if member.kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if target.stat().st_size == member.size and target.is_file():
            result.present += 1
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for every archive, so that a killed call leaves one such file at most.
    partial = target.parent / f"{PARTIAL}{result.archive.name}"
    try:
        opened = member.open()
        assert opened is not None, "a regular file has content"
        with opened as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)
        if partial.stat().st_size != member.size:
            raise EOFError(f"{member.name} ends early")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    result.written += 1


@contextlib.contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            yield _zip_members(opened)
    else:
        # As a stream: an archive of any size is read once, from front to back.
        with _decompressed(archive) as file:
            content = _TailStream(file)
            with tarfile.open(fileobj=content, mode="r|") as opened_tar:  # type: ignore[call-overload]
                yield _tar_members(opened_tar)
            content.need_end()


def _decompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        start = file.read(6)
    for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\x00", lzma)):
        if start.startswith(magic):
            opened: IO[bytes] = module.open(archive, "rb")
            return opened
    return archive.open("rb")


class _TailStream:
    """A stream that remembers its last block."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last = b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._last = (self._last + data)[-tarfile.BLOCKSIZE :]
        return data

    def need_end(self) -> None:
        """Tell a whole archive, which ends in zeros; to tarfile any end is the end."""
        while self.read(CHUNK):
            pass  # a compressed file that is cut off says so
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise EOFError("no mark of the end")


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if info.is_dir():
            kind = "folder"
        elif stat.S_ISLNK(mode):
            kind = "a link"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            kind = "a device or pipe"
        else:
            kind = "file"
        # zipfile cuts a name at a null byte and changes separators; judged is what is written.
        yield _Member(
            info.orig_filename, info.file_size, kind, functools.partial(archive.open, info)
        )


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        if info.isdir():
            kind = "folder"
        elif info.isreg():
            kind = "file"
        else:
            kind = "a link" if info.issym() or info.islnk() else "a device or pipe"
        yield _Member(info.name, info.size, kind, functools.partial(archive.extractfile, info))
