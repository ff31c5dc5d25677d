"""Nodes and controllers that vanish under a run, arrays, and the end of patience."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import PROFILE, ROOT, ended, held, losses, processes, starts, status, submit, words

from slurm.cluster import choose_cluster
from slurm.job import Job
from slurm.submission import prepare
from slurm.submission import submit as submit_jobs

Until = Callable[..., Any]


def test_nodes_lost_and_controller_restarted(cluster: Any, scenes: Path, until: Until) -> None:
    more = ["train.steps=16", "train.checkpoint_every=2"]
    far = submit(*PROFILE, "--set", "nodes=2", *words(scenes, "far", *more))
    until(lambda: len(losses("far")) >= 3)
    # The controller comes and goes: nothing happens to the run.
    os.kill(cluster.pid("slurmctld"), signal.SIGKILL)
    before = len(losses("far"))
    until(lambda: len(losses("far")) > before)
    with held(far):
        found = status(far)
        assert (found["state"], found["why"]) == ("running", "Slurm does not answer")
        assert cluster.tool("controller").returncode == 0
        until(lambda: status(far)["why"] != "Slurm does not answer")
    until(lambda: len(losses("far")) > before + 1)
    assert starts(far) == 1
    # The second of two nodes goes, and a job's only one: neither comes back.
    with held(far):
        own = nodes(far)
        apart = f"sbatch={{exclude: '{','.join(own)}'}}"
        alone = submit(*PROFILE, "--set", apart, *words(scenes, "alone", *more))
        until(lambda: len(losses("alone")) >= 3)
        jobs = {"far": far, "alone": alone}
        lost = {"far": own[1], "alone": nodes(alone)[0]}
        reached = {name: len(losses(name)) for name in jobs}
        for name, job in jobs.items():
            kill_node(cluster, lost[name], job)
    began = time.time()
    # Meanwhile, what nobody disturbs.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    here = [sys.executable, *launch, str(ROOT / "hcl.py"), *words(scenes, "here", *more)]
    quiet = subprocess.Popen(here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept = {name: max(Path(name, "checkpoints").glob("*.pt")).stem for name in jobs}
    for name, job in jobs.items():
        until(lambda job=job: starts(job) == 2)
        steps = reached[name] - int(kept[name].removeprefix("step_"))
        seconds = job.events()[-1]["time"] - began
        print(f"{name}: {lost[name]} lost; running again after {seconds:.0f} s, {steps} steps lost")
    for name, job in jobs.items():
        found = until(lambda job=job: ended(job))
        assert found["state"] == "finished", found
        (why,) = found["restarts"]
        by_itself = name == "far" and why == "lost a process of another node"
        assert by_itself or why == "node failure, or ended without warning"
    assert quiet.wait(600) == 0
    assert losses("far") == losses("here")
    assert len(losses("alone")) == 16
    for node in lost.values():
        assert cluster.tool("node", node).returncode == 0


def nodes(job: Job) -> list[str]:
    """Those it runs on, the first one's first."""
    command = ["scontrol", "show", "hostnames", status(job)["node"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def kill_node(cluster: Any, node: str, job: Job) -> None:
    """A machine that loses power: its daemon, and all of the job's processes on it."""
    os.kill(cluster.pid(f"slurmd.{node}"), signal.SIGKILL)
    conf = cluster.variables["SLURM_CONF"]
    there = processes(SLURM_CONF=conf, SLURM_JOB_ID=str(job.id), SLURMD_NODENAME=node)
    above = set()
    for pid in there:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            daemon = parent(pid)
            if "slurmstepd" in Path(f"/proc/{daemon}/cmdline").read_text():
                above.add(daemon)
    for pid in [*above, *there]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.usefixtures("cluster")
def test_array_tasks_are_requeued_alone_and_not_for_ever(scenes: Path, until: Until) -> None:
    more = ["cpus_per_task=1", "mem_gb=3.5", "max_requeues=1"]
    cluster, _ = choose_cluster("cpu", more)
    lengths = {"once": 20, "often": 100000, "never": 5}
    once, often, never = jobs = [
        prepare(words(scenes, name, f"train.steps={steps}", f"data.index=i-{name}"), cluster, name)
        for name, steps in lengths.items()
    ]
    submit_jobs(jobs)
    array = str(once.id).split("_")[0]
    assert [job.id for job in jobs] == [f"{array}_{number}" for number in range(3)]
    for job, name, times in ((once, "once", 1), (often, "often", 2)):
        for number in range(times):
            until(lambda name=name: losses(name))
            until(lambda job=job, number=number: starts(job) == number + 1)
            subprocess.run(["scancel", "--signal=USR2", str(job.id)], check=True, timeout=60)
            until(lambda job=job, number=number: requeues(job) > number)
    found = until(lambda: ended(often))
    assert (found["state"], found["why"]) == ("failed", "given up after 1 restarts")
    found = until(lambda: ended(once))
    assert (found["state"], found["restarts"]) == ("finished", ["asked to stop"])
    found = until(lambda: ended(never))
    assert (found["state"], found["restarts"]) == ("finished", [])
    assert [len(losses(name)) for name in ("once", "never")] == [20, 5]


def requeues(job: Job) -> int:
    return sum(event["kind"] == "requeue" for event in job.events())
