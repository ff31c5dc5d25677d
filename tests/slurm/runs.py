"""Small runs as jobs, for the tests on a real Slurm."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hcl
from slurm.job import Job, jobs_below
from slurm.job_commands import try_queue
from slurm.job_queue import queue
from slurm.status import AT_WORK, WAITING, look

ROOT = Path(hcl.__file__).resolve().parent
PROFILE = ["--cluster", "cpu", "--set", "cpus_per_task=1", "--set", "mem_gb=3.5"]
SMALL = ["--images", "2", "--val", "1", "--size", "64", "--workers", "1", "--fresh"]


def words(scenes: Path, output: str, *more: str, group: int = 2) -> list[str]:
    """A pretraining of a step a second or more."""
    return [
        "pretrain",
        "quickstart",
        f"output={output}",
        f"data.annotations={scenes / 'annotations/instances_train.json'}",
        f"data.images={scenes / 'train'}",
        "data.index=index",
        "data.workers=0",
        "views.size=32",
        "optim.batch_size=8",
        f"method.norm_group={group}",
        "method.queue=64",
        "hcl.queue=64",
        "train.epochs=null",
        "train.log_every=1",
        "train.threads=1",
        "train.tensorboard=false",
        *more,
    ]


def submit(*arguments: str) -> Job:
    """Submit, and give the newest job's folder."""
    before = {job.folder for job in _jobs()}
    assert hcl.main(["submit", *arguments]) == 0
    (job,) = [job for job in _jobs() if job.folder not in before]
    return job


def _jobs() -> list[Job]:
    return jobs_below(Path("runs/jobs")) if Path("runs/jobs").is_dir() else []


def status(job: Job) -> dict[str, Any]:
    """What ``hcl status --json`` says of a job."""
    return asdict(look(job, try_queue()[0]))


def ended(job: Job) -> dict[str, Any] | None:
    """Its status once it is over."""
    found = status(job)
    return None if found["state"] in ("queued", "running") else found


def verdict(job: Job) -> str | None:
    """Slurm's last word, once it has done with the job: from then on nothing is requeued."""
    state = queue()[str(job.id)].state
    return None if state in (*AT_WORK, *WAITING) else state


def starts(job: Job) -> int:
    """How many times it has been started."""
    return sum(event["kind"] == "start" for event in job.events())


def processes(**variables: str) -> dict[int, list[str]]:
    """Ids and command lines of processes with these variables."""
    wanted = {f"{key}={value}".encode() for key, value in variables.items()}
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                words = (folder / "cmdline").read_bytes().decode(errors="replace")
                found[int(folder.name)] = words.split("\0")
    return found


def commands_of(job: Job, **variables: str) -> list[int]:
    """The processes of a job's command, each below its task."""
    there = processes(SLURM_JOB_ID=str(job.id), **variables).items()
    found = [pid for pid, title in there if any(word.endswith("/hcl.py") for word in title)]
    assert found, "the command is not running"
    return found


@contextlib.contextmanager
def held(job: Job, **variables: str) -> Iterator[None]:
    """Its commands stand still, so that no machine is too fast for what is looked at."""
    found = commands_of(job, **variables)
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def run(
    *arguments: str, timeout: float = 120, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), str(ROOT / "hcl.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def losses(output: str) -> list[float]:
    """Of a run, by step; a line that is being written is left out."""
    file = Path(output) / "metrics.jsonl"
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line)["loss"] for line in text.splitlines(keepends=True) if line[-1] == "\n"]
