"""Downloads that can be interrupted, checked against their size and checksum."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain import __version__
from pretrain.core.errors import InputError
from pretrain.core.files import read_json

CHUNK = 1 << 20
ATTEMPTS = 5
"""Tries without a byte of progress before a download is given up."""

PAUSE = 1.0
"""Seconds before the second try; doubled for each that follows."""

TIMEOUT = 60.0
PARALLEL = 4
NO_CONNECTION = (
    *(urllib.error.URLError, http.client.HTTPException),
    *(TimeoutError, ConnectionError),
)

Progress = Callable[[int], None]
"""Called with the bytes received since the last call, by any thread."""


@dataclass(frozen=True)
class Remote:
    """A file of a release.

    Attributes:
        url: http or https.
        size: bytes; None where not known for sure.
        md5: hex; "" where not known for sure, and then only the size the server tells is checked.
        folder: below the root, where a file that is no archive belongs.
    """

    url: str
    size: int | None = None
    md5: str = ""
    folder: str = ""

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def download_all(
    files: Sequence[Remote], folder: Path, progress: Progress | None = None
) -> list[Path]:
    """Download several files at once.

    All are tried, so one that fails does not cost the others.

    Raises:
        InputError: naming every file that failed.
    """
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(download, file, folder / file.name, progress) for file in files]
        try:
            faults = [str(e) for future in futures if (e := future.exception()) is not None]
        except KeyboardInterrupt:
            _stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            _stop.clear()
    if faults:
        raise InputError("\n".join(faults))
    return [future.result() for future in futures]


_stop = threading.Event()


def download(remote: Remote, target: Path, progress: Progress | None = None) -> Path:
    """Download a file, unless it is there.

    Bytes go to ``NAME.part``, beside which ``NAME.part.json`` tells what they are part of. A call
    continues what an earlier one left, if the server still has the same file and can continue;
    otherwise it begins anew. The target appears when size and checksum are right.

    Raises:
        InputError: the server refuses, cannot be reached, or sends something else.
    """
    if target.is_file():
        if remote.size is not None and target.stat().st_size != remote.size:
            raise InputError(
                f"{target}: has {target.stat().st_size} bytes, the release {remote.size}; delete "
                "it and it will be downloaded again"
            )
        return target
    if not remote.url.startswith(("http://", "https://")):
        raise InputError(f"{remote.url}: not an address of http or https")
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(remote, part, progress)
        _check(remote, part)
        part.replace(target)
        _note(part).unlink(missing_ok=True)
    except urllib.error.HTTPError as error:
        raise InputError(f"{remote.url}: the server answers {error.code} {error.reason}") from None
    except NO_CONNECTION as error:
        held = part.stat().st_size if part.is_file() else 0
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise InputError(
            f"{remote.url}: {reason}; {held} bytes are kept, call again to continue"
        ) from None
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _fetch(remote: Remote, part: Path, progress: Progress | None) -> None:
    """Try until the file is complete; after a try that brings something the count begins anew."""
    tries = 0
    while not _stop.is_set():
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _receive(remote, part, progress):
                return
            fault: Exception = http.client.HTTPException("the connection ended early")
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise
            fault = error
        except NO_CONNECTION as error:
            fault = error
        after = part.stat().st_size if part.is_file() else 0
        tries = 1 if after > before else tries + 1
        if tries >= ATTEMPTS:
            raise fault
        time.sleep(PAUSE * 2 ** (tries - 1))
    raise http.client.HTTPException("stopped")


def _receive(remote: Remote, part: Path, progress: Progress | None) -> bool:
    """One connection; whether the file is complete after it."""
    note = read_json(_note(part))
    note = note if isinstance(note, dict) else {}
    held = part.stat().st_size if part.is_file() and note.get("url") == remote.url else 0
    if held and held == note.get("length"):
        return True
    try:
        answer = urllib.request.urlopen(_request(remote, held, note), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is held is no part of what the server has now
            part.unlink(missing_ok=True)
            return False
        raise
    with answer:
        continued = answer.status == 206
        if continued and _range_start(answer) != held:
            raise http.client.HTTPException("the server sends another part than asked for")
        length = _length(answer, held if continued else 0)
        if remote.size is not None and length not in (None, remote.size):
            raise InputError(
                f"{remote.url}: the server has {length} bytes, the release {remote.size}; another "
                "version of the file, or a page that stands in for it"
            )
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if validator and validator.startswith("W/"):
            validator = None  # a weak tag does not promise the same bytes
        _note(part).write_text(
            json.dumps({"url": remote.url, "length": length, "validator": validator})
        )
        with part.open("ab" if continued else "wb") as sink:
            while not _stop.is_set() and (chunk := answer.read(CHUNK)):
                sink.write(chunk)
                if progress is not None:
                    progress(len(chunk))
    held = part.stat().st_size
    if length is None:  # the server did not say; its end of the stream is the end of the file
        return not _stop.is_set()
    if held > length:
        part.unlink()
        raise http.client.HTTPException("the server sends more than it said")
    return held == length


def _request(remote: Remote, held: int, note: dict[str, Any]) -> urllib.request.Request:
    request = urllib.request.Request(remote.url, headers={"User-Agent": f"hcl/{__version__}"})
    if held:
        request.add_header("Range", f"bytes={held}-")
        if note.get("validator"):
            request.add_header("If-Range", note["validator"])
    return request


def _length(answer: Any, held: int) -> int | None:
    """Bytes of the whole file, if the server tells."""
    with contextlib.suppress(TypeError, ValueError):
        return held + int(answer.headers.get("Content-Length"))
    return None


def _range_start(answer: Any) -> int | None:
    text = answer.headers.get("Content-Range") or ""
    with contextlib.suppress(ValueError):
        return int(text.removeprefix("bytes ").partition("-")[0])
    return None


def _check(remote: Remote, part: Path) -> None:
    size = part.stat().st_size
    fault = None
    if remote.size is not None and size != remote.size:
        fault = f"{size} bytes instead of {remote.size}"
    elif remote.md5:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != remote.md5:
            fault = f"checksum (md5) {found} instead of {remote.md5}"
    if fault is not None:
        part.unlink()
        _note(part).unlink(missing_ok=True)
        raise InputError(
            f"{remote.url}: downloaded, but {fault}; the file has been removed; try again, or "
            "another network"
        )


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
