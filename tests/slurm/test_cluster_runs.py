"""Pretraining on a real Slurm: many processes, and every kind of interruption."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import PROFILE, losses, run, status, submit, words

Until = Callable[..., Any]


def final(output: str, steps: int) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(
        Path(output) / f"checkpoints/step_{steps:08}.pt", weights_only=True
    )
    return state


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert_same(value, right[key])
    elif isinstance(left, list):
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def ended(job: Any) -> dict[str, Any] | None:
    found = status(job)
    return None if found["state"] in ("queued", "running") else found


@pytest.mark.usefixtures("cluster")
def test_two_nodes_of_two_tasks_compute_what_four_local_processes_do(
    scenes: Path, until: Until
) -> None:
    one = ["--set", "nodes=2", "--set", "tasks_per_node=2"]
    job = submit(*PROFILE, *one, *words(scenes, "far", "train.steps=4"))
    found = until(lambda: ended(job), 150)
    assert found["state"] == "finished", found
    assert (found["step"], found["total"]) == (4, 4)
    done = run(*words(scenes, "here", "train.steps=4"), processes=4)
    assert done.returncode == 0, done.stderr
    assert losses("far") == losses("here")
    text = run("logs", str(job.folder)).stdout
    for rank in range(4):
        assert f"global_rank={rank}(4)" in text
    assert '"world": 4' in (Path("far") / "run.json").read_text()


@pytest.mark.usefixtures("cluster")
def test_five_interruptions_leave_no_trace(scenes: Path, until: Until) -> None:
    """Asked to stop, requeued from outside, and a real time limit, at random steps."""
    steps = 40
    more = [f"train.steps={steps}", "train.checkpoint_every=100"]
    limit = ["--set", "time_min=1", "--set", "signal_delay_s=40"]
    job = submit(*PROFILE, *limit, *words(scenes, "far", *more))
    kinds = ["signal", "requeue", "signal", "requeue"]
    chance = random.Random(3)
    for number, kind in enumerate(kinds):
        more_steps = len(losses("far")) + chance.randint(1, 3)
        until(lambda least=more_steps: len(losses("far")) >= least, 120)
        if kind == "signal":
            command = ["scancel", "--signal=USR2", str(job.id)]
        else:
            command = ["scontrol", "requeue", str(job.id)]
        subprocess.run(command, check=True, timeout=20)
        until(lambda least=number + 2: starts(job) >= least, 120)
    # What is left is longer than the time limit: that is the fifth.
    found = until(lambda: ended(job), 120)
    assert found["state"] == "finished", found
    assert len(found["restarts"]) >= 5, found["restarts"]
    assert found["restarts"].count("requeued from outside") == 2
    assert "time limit" in found["restarts"][4:]
    done = run(*words(scenes, "here", *more))
    assert done.returncode == 0, done.stderr
    for part in ("model", "optimizer", "step"):
        assert_same(final("far", steps)[part], final("here", steps)[part])
    assert losses("far") == losses("here")


def starts(job: Any) -> int:
    return sum(event["kind"] == "start" for event in job.events())


def test_node_killed_and_controller_restarted(cluster: Any, scenes: Path, until: Until) -> None:
    more = ["train.steps=16", "train.checkpoint_every=2"]
    job = submit(*PROFILE, *words(scenes, "far", *more))
    until(lambda: len(losses("far")) >= 3, 120)
    # The controller comes and goes: nothing happens to the run.
    os.kill(cluster.pid("slurmctld"), signal.SIGKILL)
    before = len(losses("far"))
    until(lambda: len(losses("far")) > before, 30)
    assert status(job)["state"] == "running"
    subprocess.run(
        [str(Path(__file__).parents[2] / "tools/dev_slurm.sh"), "controller", str(cluster.folder)],
        check=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    until(lambda: status(job)["why"] != "Slurm does not answer", 30)
    assert starts(job) == 1
    # The node does not come back.
    node = job.events()[0]["node"]
    lost = time.monotonic()
    kill_node(cluster, node, str(job.id))
    reached = len(losses("far"))
    until(lambda: starts(job) == 2, 150)
    print(f"running again {time.monotonic() - lost:.0f} s after the loss of {node}")
    found = until(lambda: ended(job), 150)
    assert found["state"] == "finished", found
    assert found["restarts"] == ["node failure, or ended without warning"]
    assert job.events()[1]["node"] != node
    assert reached >= 3
    assert len(losses("far")) == 16
    cluster.tool("node", node)


def kill_node(cluster: Any, node: str, job: str) -> None:
    """A machine that loses power: its daemon, and all of the job's processes."""
    os.kill(cluster.pid(f"slurmd.{node}"), signal.SIGKILL)
    own = f"SLURM_CONF={cluster.variables['SLURM_CONF']}".encode()
    marks = (f"SLURM_JOB_ID={job}".encode(), f"SLURM_JOBID={job}".encode())
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            values = (folder / "environ").read_bytes().split(b"\0")
            title = (folder / "cmdline").read_bytes()
            if own in values and (any(m in values for m in marks) or b"slurmstepd" in title):
                os.kill(int(folder.name), signal.SIGKILL)
