"""A real Slurm for the session, where this machine can have one."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/dev_slurm.sh"


class DevSlurm:
    """A running cluster; its variables are set only where a test asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}

    def tool(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(TOOL), *words, str(self.folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            stdin=subprocess.DEVNULL,
        )

    def pid(self, daemon: str) -> int:
        return int((self.folder / f"run/{daemon}.pid").read_text())


@pytest.fixture(scope="session")
def _slurm() -> Iterator[DevSlurm]:
    # Not below pytest's folders: the names of Slurm's sockets would become too long.
    with tempfile.TemporaryDirectory(prefix="hcl-slurm-", ignore_cleanup_errors=True) as folder:
        yield from _running(DevSlurm(Path(folder)))


def _running(cluster: DevSlurm) -> Iterator[DevSlurm]:
    done = cluster.tool("start")
    if done.returncode == 3:
        pytest.skip(f"no Slurm on this machine: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    script = f'eval "$({TOOL} env {cluster.folder})"; env -0'
    text = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    now = dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
    cluster.variables = {k: v for k, v in now.items() if os.environ.get(k) != v and k != "_"}
    try:
        yield cluster
    finally:
        cluster.tool("stop")


@pytest.fixture
def cluster(
    _slurm: DevSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DevSlurm]:
    """The session's Slurm, from a folder of the test's own."""
    for key, value in _slurm.variables.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("HCL_CLUSTER", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    own = dict(os.environ)  # a test may have changed it
    yield _slurm
    for more in (["--signal=KILL"], []):
        subprocess.run(["scancel", "--me", *more], check=False, timeout=20, env=own)


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait until a function gives something true, and return that."""

    def wait(condition: Callable[[], Any], seconds: float = 300) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.1)
        return found

    return wait
