"""``hcl cancel``: end jobs."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from pathlib import Path

from pretrain.core.command import Command
from pretrain.core.errors import InputError
from slurm.job_selection import add_jobs, chosen_jobs, try_queue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_jobs(parser)
    parser.add_argument("--all", action="store_true", help="all that have not ended")


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl cancel``."""
    if not arguments.jobs and not arguments.all:
        raise InputError("name jobs, or --all")
    from slurm.job_queue import cancel
    from slurm.status import ENDED, look

    queue, _ = try_queue()
    on_slurm: dict[str, str] = {}
    for job in chosen_jobs(arguments):
        status = look(job, queue)
        if status.state in ENDED or status.id is None:
            print(f"{status.name}: {status.state} already")
            continue
        if job.spec().cluster.kind == "slurm":
            on_slurm[status.id] = status.name
        else:
            _end_local(int(status.id))
            print(f"{status.name}: cancelled ({status.id})")
    if on_slurm:
        cancel(list(on_slurm))
    for name, title in on_slurm.items():
        print(f"{title}: cancelled ({name})")
    return 0


def _end_local(pid: int) -> None:
    """Tell the process and its children: set-up lines put a shell before what passes it on."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    children = file.read_text().split() if file.exists() else []
    for one in [pid, *map(int, children)]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(one, signal.SIGTERM)


COMMAND = Command(
    "cancel",
    "End jobs. A run that is at work saves first, and can be submitted again.",
    add_arguments,
    run,
    for_jobs=False,
)
