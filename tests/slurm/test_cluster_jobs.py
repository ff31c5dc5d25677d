"""``hcl submit`` and ``hcl pipeline`` on a real Slurm: what arrives, what fails, what follows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import PROFILE, ROOT, losses, run, status, submit, words

import hcl

Until = Callable[..., Any]
SMALL = ["--images", "2", "--val", "1", "--size", "64", "--workers", "1", "--overwrite"]


def ended(job: Any) -> dict[str, Any] | None:
    found = status(job)
    return None if found["state"] in ("queued", "running") else found


@pytest.mark.usefixtures("cluster")
def test_failing_command_is_not_requeued(until: Until) -> None:
    job = submit(*PROFILE, "--name", "it; breaks", "data", "scenes", "x", "--images", "-1")
    found = until(lambda: ended(job), 60)
    assert (found["state"], found["why"], found["restarts"]) == ("failed", "exit 2", [])
    assert "--images must be at least 1" in found["error"]
    assert "--images must be at least 1" in run("logs", "it; breaks").stdout
    assert "--images must be at least 1" in run("status").stdout
    assert sum(event["kind"] == "start" for event in job.events()) == 1


@pytest.mark.usefixtures("cluster")
def test_memory_and_cancel(scenes: Path, until: Until) -> None:
    two = [
        submit(*PROFILE, *words(scenes, name, "train.steps=100000", group=4))
        for name in ("eats", "ends")
    ]
    eats, ends = two
    for name in ("eats", "ends"):
        until(lambda name=name: losses(name), 90)
    # The kernel takes the command alone, as it does for memory.
    os.kill(command_of(str(eats.id)), signal.SIGKILL)
    found = until(lambda: ended(eats), 30)
    assert (found["state"], found["restarts"]) == ("out of memory", [])
    assert hcl.main(["cancel", str(ends.id)]) == 0
    assert until(lambda: ended(ends), 30)["state"] == "cancelled"
    saved = max(Path("ends/checkpoints").glob("*.pt"))
    assert int(saved.stem.removeprefix("step_")) == len(losses("ends"))


def command_of(job: str) -> int:
    """The process of a job's command, below its task."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                values = (folder / "environ").read_bytes().split(b"\0")
                title = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            here = f"SLURM_JOB_ID={job}".encode() in values
            if here and any(word.endswith(b"/hcl.py") for word in title):
                return int(folder.name)
    raise AssertionError("the command is not running")


@pytest.mark.usefixtures("cluster")
def test_odd_words_arrive_as_data(until: Until, tmp_path: Path) -> None:
    odd = "o d;d $(touch pwned) `touch pwned` 'q\" \\ #é%j\n* &"
    job = submit(*PROFILE, "--name", odd, "data", "scenes", odd, *SMALL)
    assert until(lambda: ended(job), 60)["state"] == "finished"
    assert (tmp_path / odd / "train").is_dir()
    assert not list(tmp_path.rglob("pwned"))
    assert run("status", odd, "--json").returncode == 0


FIFTY = """
import sys
from pathlib import Path
import hcl
source = Path(hcl.__file__)
text = source.read_text()
for number in range(50):
    source.write_text(text.replace("name, rest =", f"print('code {number}'); name, rest ="))
    assert hcl.main(["submit", *sys.argv[1:], "--name", f"n{number}", "data", "--help"]) == 0
source.write_text("raise RuntimeError('edited')")
assert hcl.main(["submit", *sys.argv[1:], "--name", "raises", "data", "--help"]) == 0
"""


@pytest.mark.usefixtures("cluster")
def test_fifty_jobs_run_the_code_they_were_submitted_with(until: Until, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for part in ("pretrain", "downstream", "slurm", "configs"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("hcl.py", "setup.py"):
        shutil.copy(ROOT / part, source)
    done = subprocess.run(
        [sys.executable, "-c", FIFTY, *PROFILE],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr

    def all_ended() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = json.loads(run("status", "--json").stdout)
        return None if any(one["state"] in ("queued", "running") for one in found) else found

    found = until(all_ended, 120)
    assert len(found) == 51
    raised = next(one for one in found if one["name"] == "raises")
    assert (raised["state"], raised["why"], raised["restarts"]) == ("failed", "exit 1", [])
    assert "Traceback" in raised["error"]
    assert "RuntimeError: edited" in raised["error"]
    assert "RuntimeError: edited" in run("logs", "raises").stdout
    found.remove(raised)
    for one in found:
        assert one["state"] == "finished", one
        (log,) = Path(one["folder"]).glob("log/*.out")
        number = one["name"].removeprefix("n")
        assert f"code {number}\n" in log.read_text()


def test_unreachable_controller(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = Path(cluster.variables["SLURM_CONF"]).read_text()
    lines = ["SlurmctldPort=1" if x.startswith("SlurmctldPort") else x for x in conf.splitlines()]
    Path("slurm.conf").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("SLURM_CONF", str(Path("slurm.conf").absolute()))
    done = run("submit", *PROFILE, "data", "scenes", "x", timeout=20)
    assert done.returncode == 2
    assert "Slurm cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) <= 2
