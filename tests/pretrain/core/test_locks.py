"""One process at a time in a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import pretrain
from pretrain import processes
from pretrain.core import locks
from pretrain.core.errors import InputError
from pretrain.core.locks import LOCK, alone_in
from pretrain.distributed import World

ROOT = Path(pretrain.__file__).parent.parent
HOLD = """
import os, sys, time
from pathlib import Path
from pretrain.core.locks import alone_in
with alone_in(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds ``tmp_path/run`` and has forked a child, whose number it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_other_is_named(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    first_line(holder)
    with pytest.raises(InputError) as caught, alone_in(tmp_path / "run", "a run is here"):
        pass
    since = json.loads((tmp_path / "run" / LOCK).read_text())["since"]
    name = os.uname().nodename
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: a run is here (process {holder.pid} on {name}, since {since}); "
        "wait for it, or choose another folder"
    )


def test_a_killed_process_holds_nothing_though_its_child_lives(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    child = int(first_line(holder))
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    os.kill(child, 0)  # it is there
    with alone_in(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()


def test_a_requeued_job_waits(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_line(holder)
    world = World(0, 1, 0, 1, torch.device("cpu"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(processes, "PATIENCE", 1.5)
    start = time.monotonic()
    with pytest.raises(InputError), processes.held(tmp_path / "run", world):
        pass
    assert time.monotonic() - start >= 1.5
    monkeypatch.setattr(processes, "PATIENCE", 60.0)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {holder.pid}"])
    with processes.held(tmp_path / "run", world):
        assert holder.wait() == -signal.SIGKILL
    killer.wait()


def test_not_twice_in_one_process(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        again = alone_in(tmp_path / "../" / tmp_path.name)
        with pytest.raises(InputError, match=f"process {os.getpid()}, this one"), again:
            pass
        # The attempt has not given the lock away.
        code = HOLD.replace("os.fork()", "1 / 0")
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "another process is at work here" in done.stderr
    with alone_in(tmp_path):
        pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(letter)
    with (
        pytest.raises(InputError, match=r"run: cannot be written \(\.lock is a link; remove it\)"),
        alone_in(tmp_path / "run"),
    ):
        pass
    assert letter.read_text() == "dear"


def test_a_file_of_others_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("of another program")
    with alone_in(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "of another program"


def test_what_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wrong settings"), alone_in(tmp_path / "run"):
        raise InputError("wrong settings")
    assert not (tmp_path / "run").exists()
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="wrong settings"), alone_in(tmp_path):
        raise InputError("wrong settings")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_removed_lock_file_is_not_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder fails and removes the file between our opening and our locking it."""
    opened = []

    def open_then_remove(path: Path):
        file = real(path)
        opened.append(path)
        if len(opened) == 1:
            path.unlink()
        return file

    real = locks.open_lock
    monkeypatch.setattr(locks, "open_lock", open_then_remove)
    with alone_in(tmp_path):
        assert (tmp_path / LOCK).is_file()
    assert len(opened) == 2


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "lockf", refuse)
    with alone_in(tmp_path):
        pass
    assert "has no locks (Function not implemented)" in caplog.text
