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
from runs import (
    PROFILE,
    ROOT,
    SMALL,
    commands_of,
    ended,
    held,
    losses,
    run,
    starts,
    submit,
    verdict,
    words,
)

import hcl
from slurm.job import Job

Until = Callable[..., Any]


@pytest.mark.usefixtures("cluster")
def test_failing_command_is_not_requeued(until: Until) -> None:
    job = submit(*PROFILE, "--name", "it; breaks", "data", "scenes", "x", "--images", "-1")
    found = until(lambda: ended(job))
    assert (found["state"], found["why"], found["restarts"]) == ("failed", "exit 2", [])
    assert "--images must be at least 1" in found["error"]
    assert "--images must be at least 1" in run("logs", "it; breaks").stdout
    assert "--images must be at least 1" in run("status").stdout
    assert (until(lambda: verdict(job)), starts(job)) == ("FAILED", 1)


@pytest.mark.usefixtures("cluster")
def test_memory_and_cancel(scenes: Path, until: Until) -> None:
    other = {"over": "mem_gb=0.15", "eats": "tasks_per_node=2", "ends": "time_min=9"}
    over, eats, ends = (
        submit(*PROFILE, "--set", change, *words(scenes, name, "train.steps=100000"))
        for name, change in other.items()
    )
    # Slurm's own limit: importing torch alone is more.
    # Its word on this reaches the log a moment after the job's state.
    until(lambda: (ended(over) or {}).get("state") == "out of memory")
    assert until(lambda: ended(over))["restarts"] == []
    # The kernel takes one of two commands; the other one's complaints are not the cause, and that
    # Slurm tells it to stop is no reason to be requeued.
    until(lambda: losses("eats"))
    (eater,) = commands_of(eats, RANK="1")
    with held(eats, RANK="0"):
        os.kill(eater, signal.SIGKILL)
        until(lambda: any(event.get("name") == "SIGTERM" for event in eats.events()))
    found = until(lambda: ended(eats))
    assert (found["state"], found["restarts"]) == ("out of memory", [])
    assert "killed by the kernel" in found["why"]
    for job in (over, eats):
        assert until(lambda job=job: verdict(job)) in ("FAILED", "OUT_OF_MEMORY")
        assert starts(job) == 1
    until(lambda: losses("ends"))
    assert hcl.main(["cancel", str(ends.id)]) == 0
    assert until(lambda: ended(ends))["state"] == "cancelled"
    until(lambda: ends.events()[-1]["kind"] == "stopped")
    saved = max(Path("ends/checkpoints").glob("*.pt"))
    assert int(saved.stem.removeprefix("step_")) == len(losses("ends"))


@pytest.mark.usefixtures("cluster")
def test_odd_words_arrive_as_data(until: Until, tmp_path: Path) -> None:
    odd = "o d;d $(touch pwned) `touch pwned` 'q\" \\ #é%j\n* &"
    job = submit(*PROFILE, "--name", odd, "data", "scenes", odd, *SMALL)
    assert until(lambda: ended(job))["state"] == "finished"
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
    source.write_text(text.replace("command, rest =", f"print('code {number}'); command, rest ="))
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
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

    def all_ended() -> list[dict[str, Any]] | None:
        status = run("status", "--json")
        assert status.returncode == 0, status.stderr
        found: list[dict[str, Any]] = json.loads(status.stdout)
        return None if any(one["state"] in ("queued", "running") for one in found) else found

    found = until(all_ended)
    assert len(found) == 51
    raised = next(one for one in found if one["name"] == "raises")
    assert (raised["state"], raised["why"], raised["restarts"]) == ("failed", "exit 1", [])
    assert "Traceback" in raised["error"]
    assert "RuntimeError: edited" in raised["error"]
    assert "RuntimeError: edited" in run("logs", "raises").stdout
    job = Job(Path(raised["folder"]))
    assert (until(lambda: verdict(job)), starts(job)) == ("FAILED", 1)
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
    done = run("submit", *PROFILE, "data", "scenes", "x", timeout=60)
    assert done.returncode == 2
    assert "Slurm cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) <= 2
