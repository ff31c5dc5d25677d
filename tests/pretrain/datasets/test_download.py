from __future__ import annotations

import hashlib
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pretrain.core.errors import InputError
from pretrain.datasets import download as module
from pretrain.datasets.download import Remote, download, download_all

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under any name; can break off, ignore ranges, and lie."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.break_after: list[int] = []  # bytes after which the next answers end
        self.status = 0
        self.tag = '"one"'
        self.asked: list[tuple[str, str | None]] = []
        self.stall_after: int | None = None  # bytes after which an answer waits for ``stalled``
        self.stalled = threading.Event()

    def remote(self, name: str = "set.zip", **known) -> Remote:
        return Remote(f"http://127.0.0.1:{self.server_port}/{name}", **known)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        if self.server.status:
            self.send_error(self.server.status)
            return
        content, start = self.server.content, 0
        same = self.headers.get("If-Range") in (None, self.server.tag)
        if asked and self.server.ranges and same:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", self.server.tag)
        self.end_headers()
        count = self.server.break_after.pop(0) if self.server.break_after else len(content)
        if self.server.stall_after is not None:
            self.wfile.write(content[start : self.server.stall_after])
            self.server.stalled.wait(30)
            return
        self.wfile.write(content[start : start + count])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def only(folder: Path, name: str = "set.zip") -> bool:
    return [path.name for path in folder.iterdir()] == [name]


def test_whole_and_not_again(server, tmp_path):
    seen: list[int] = []
    remote = server.remote(size=len(CONTENT), md5=MD5)
    file = download(remote, tmp_path / "deep/set.zip", seen.append)
    assert file.read_bytes() == CONTENT
    assert sum(seen) == len(CONTENT)
    assert only(tmp_path / "deep")
    assert download(remote, file) == file
    assert len(server.asked) == 1


def test_broken_connections_are_continued(server, tmp_path):
    server.break_after = [100_000, 50_000]
    file = download(server.remote(md5=MD5), tmp_path / "set.zip")
    assert file.read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-", "bytes=150000-"]
    assert only(tmp_path)


def test_given_up_and_continued_by_the_next_call(server, tmp_path):
    server.break_after = [120_000, 0, 0, 0, 0, 0]
    with pytest.raises(InputError, match="120000 bytes are kept, call again to continue"):
        download(server.remote(md5=MD5), tmp_path / "set.zip")
    assert not (tmp_path / "set.zip").exists()
    assert (tmp_path / "set.zip.part").read_bytes() == CONTENT[:120_000]
    server.break_after, server.asked = [], []
    assert download(server.remote(md5=MD5), tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.asked == [("/set.zip", "bytes=120000-")]
    assert only(tmp_path)


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.ranges = False
    server.break_after = [100_000]
    assert download(server.remote(md5=MD5), tmp_path / "set.zip").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-"]


def test_a_file_that_has_changed_in_between_is_not_mixed(server, tmp_path):
    server.break_after = [100_000, 0, 0, 0, 0, 0]
    with pytest.raises(InputError, match="are kept"):
        download(server.remote(), tmp_path / "set.zip")
    server.content, server.tag, server.break_after = CONTENT[::-1], '"two"', []
    assert download(server.remote(), tmp_path / "set.zip").read_bytes() == CONTENT[::-1]


def test_the_remains_of_another_file_are_not_continued(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(b"of something else")
    assert download(server.remote(md5=MD5), tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.asked == [("/set.zip", None)]


def test_wrong_checksum(server, tmp_path):
    remote = server.remote(md5="0" * 32)
    with pytest.raises(InputError) as caught:
        download(remote, tmp_path / "set.zip")
    message = str(caught.value)
    assert message.startswith(f"{remote.url}: downloaded, but checksum (md5) {MD5} instead of 000")
    assert list(tmp_path.iterdir()) == []


def test_another_size_than_the_release(server, tmp_path):
    with pytest.raises(InputError, match="the server has 300000 bytes, the release 17"):
        download(server.remote(size=17), tmp_path / "set.zip")
    assert not (tmp_path / "set.zip").exists()
    (tmp_path / "set.zip").write_bytes(b"short")
    with pytest.raises(InputError, match=r"set\.zip: has 5 bytes, the release 300000; delete it"):
        download(server.remote(size=len(CONTENT)), tmp_path / "set.zip")


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, module.ATTEMPTS)])
def test_refusals(server, tmp_path, status, tries):
    server.status = status
    with pytest.raises(InputError, match=f"the server answers {status}"):
        download(server.remote(), tmp_path / "set.zip")
    assert len(server.asked) == tries


def test_nobody_there(server, tmp_path):
    remote = Remote(f"http://127.0.0.1:{server.server_port}/x")
    server.server_close()
    with pytest.raises(InputError, match="refused; 0 bytes are kept"):
        download(remote, tmp_path / "x")


def test_other_protocols_are_refused(tmp_path):
    (tmp_path / "secret").write_text("x")
    with pytest.raises(InputError, match="not an address of http or https"):
        download(Remote(f"file://{tmp_path}/secret"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_several_at_once_and_one_that_fails_does_not_cost_the_others(server, tmp_path):
    files = [server.remote(f"{n}.zip", md5=MD5) for n in range(5)]
    paths = download_all(files, tmp_path / "a")
    assert [path.name for path in paths] == [f"{n}.zip" for n in range(5)]
    assert all(path.read_bytes() == CONTENT for path in paths)
    files[1] = server.remote("1.zip", md5="f" * 32)
    files[3] = server.remote("3.zip", size=1)
    with pytest.raises(InputError) as caught:
        download_all(files, tmp_path / "b")
    assert len(str(caught.value).splitlines()) == 2
    assert sorted(p.name for p in (tmp_path / "b").glob("*.zip")) == ["0.zip", "2.zip", "4.zip"]


def test_killed_in_the_middle_and_continued(server, tmp_path):
    """A process that is killed leaves what it has received; the next one asks for the rest."""
    server.stall_after = 200_000
    code = (
        "import sys; from pathlib import Path; from pretrain.datasets import download as d; "
        "d.CHUNK = 4096; d.download(d.Remote(sys.argv[1]), Path(sys.argv[2]))"
    )
    target = tmp_path / "set.zip"
    part = tmp_path / "set.zip.part"
    process = subprocess.Popen([sys.executable, "-c", code, server.remote().url, str(target)])
    try:
        until = time.monotonic() + 30
        while not part.exists() or part.stat().st_size < 100_000:
            assert time.monotonic() < until, "the download does not begin"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
        server.stalled.set()
    held = part.stat().st_size
    assert 100_000 <= held <= 200_000
    assert not target.exists()
    server.asked, server.stall_after = [], None
    assert download(server.remote(md5=MD5), target).read_bytes() == CONTENT
    assert server.asked == [("/set.zip", f"bytes={held}-")]
