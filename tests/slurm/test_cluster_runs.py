"""Pretraining on a real Slurm: many processes, and interruptions that leave no trace."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import PROFILE, ROOT, ended, held, losses, run, starts, submit, words

from slurm.job import Job

Until = Callable[..., Any]


@pytest.mark.usefixtures("cluster")
def test_two_nodes_of_two_tasks_compute_what_four_local_processes_do(
    scenes: Path, until: Until
) -> None:
    """And what status and logs say of them meanwhile."""
    more = ["train.steps=8", "train.device=cpu", "train.checkpoint_every=100"]
    one = ["--set", "nodes=2", "--set", "tasks_per_node=2", "--set", "gpus_per_node=2"]
    job = submit(*PROFILE, *one, *words(scenes, "far", *more))
    hcl = [sys.executable, str(ROOT / "hcl.py")]
    follow = subprocess.Popen(
        [*hcl, "logs", "-f", str(job.id)], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
    )
    until(lambda: len(losses("far")) >= 2)
    with held(job):
        shown = on_a_terminal([*hcl, "status", "--live", "1"])
    row = re.search(rf"{job.id}  pretrain-far  running +(\S.*)", shown)
    assert row is not None, shown
    # Step, images/s, time left, loss, restarts, nodes.
    expected = r"\d+/8 +(\d+|-) .* \d+\.\d{3} +- +127\.0\.0\.\[1\d[-,]1\d\] "
    assert re.match(expected, row[1]), row[1]

    found = until(lambda: ended(job))
    assert found["state"] == "finished", found
    assert (found["step"], found["total"], found["restarts"]) == (8, 8, [])
    assert found["images_per_s"] > 0
    assert found["loss"] == losses("far")[-1]
    assert found["gpu_hours"] > 0
    text, errors = follow.communicate(timeout=60)
    assert (follow.returncode, errors) == (0, "")
    for rank in range(4):
        assert re.search(rf"^\[{rank}\] .*global_rank={rank}\(4\)", text, re.M), text
    assert text.count("finished: far") == 1
    assert '"world": 4' in (Path("far") / "run.json").read_text()
    done = run(*words(scenes, "here", *more), timeout=600, processes=4)
    assert done.returncode == 0, done.stderr
    assert losses("far") == losses("here")


def on_a_terminal(command: list[str]) -> str:
    """What is shown until it has been refreshed twice; then Ctrl-C."""
    screen, theirs = pty.openpty()
    live = subprocess.Popen(command, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while shown.count(b"\x1b[2J") < 3:
        shown += os.read(screen, 65536)
    live.send_signal(signal.SIGINT)
    assert live.wait(60) == 130
    os.close(screen)
    return shown.decode()


class Interruptions:
    """Ways to take a job's place away."""

    def __init__(self, job: Job, until: Until) -> None:
        self.job, self.until = job, until

    def signal(self) -> None:
        """As ``scancel --signal`` does."""
        self._call("scancel", "--signal=USR2", str(self.job.id))

    def requeue(self) -> None:
        """By somebody else."""
        self._call("scontrol", "requeue", str(self.job.id))

    def preempt(self) -> None:
        """By a job of a partition that goes before."""
        node = next(e["node"] for e in reversed(self.job.events()) if e["kind"] == "start")
        more = ["--partition=urgent", "--exclusive", f"--nodelist={node}", "--output=/dev/null"]
        with held(self.job):
            self._call("sbatch", *more, "--wrap=sleep 1")
            self.until(self._told)

    def time_limit(self) -> None:
        """The real one, which Slurm looks at twice a minute."""
        with held(self.job):
            begun = next(e["time"] for e in reversed(self.job.events()) if e["kind"] == "start")
            # It counts from the start: the minute that is not over for a while yet.
            minutes = int((time.time() - begun + 35) // 60) + 1
            self._call("scontrol", "update", f"JobId={self.job.id}", f"TimeLimit={minutes}")
            self.until(self._told)
        self.until(lambda: not self._told())
        self._call("scontrol", "update", f"JobId={self.job.id}", "TimeLimit=100")

    def _told(self) -> bool:
        return self.job.events()[-1]["kind"] == "signal"

    def _call(self, *command: str) -> None:
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)


@pytest.mark.usefixtures("cluster")
def test_five_interruptions_leave_no_trace(scenes: Path, until: Until) -> None:
    steps = 36
    more = [f"train.steps={steps}", "train.checkpoint_every=100"]
    job = submit(*PROFILE, "--set", "signal_delay_s=59", *words(scenes, "far", *more))
    ways = Interruptions(job, until)
    chance = random.Random()
    # The last but one comes while the run has not begun to train.
    plan = [ways.signal, ways.requeue, ways.preempt, ways.signal, ways.time_limit]
    for number, interrupt in enumerate(plan):
        least = len(losses("far")) + (chance.randint(1, 3) if number != 3 else 0)
        until(lambda least=least: len(losses("far")) >= least)
        before, began = starts(job), time.time()
        interrupt()
        until(lambda before=before: starts(job) > before)
        event = job.events()[-1]
        print(f"{interrupt.__name__} at {len(losses('far'))}: {event['time'] - began:.1f} s")
    found = until(lambda: ended(job))
    assert found["state"] == "finished", found
    expected = ["asked to stop", "requeued from outside", "preempted", "asked to stop"]
    assert found["restarts"] == [*expected, "time limit"]
    done = run(*words(scenes, "here", *more), timeout=600)
    assert done.returncode == 0, done.stderr
    for part in ("model", "optimizer", "step"):
        assert_same(final("far", steps)[part], final("here", steps)[part])
    assert losses("far") == losses("here")


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
