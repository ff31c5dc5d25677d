"""``hcl logs``: what a job has said."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from pretrain.core.command import Command
from slurm.job_selection import add_jobs, chosen_jobs, try_queue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_jobs(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    parser.add_argument("--rank", type=int, metavar="R", help="this task only (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl logs``."""
    job = chosen_jobs(arguments)[-1]  # the newest of its name
    from slurm.status import ENDED, look

    read: Counter[Path] = Counter()
    while True:
        ended = not arguments.follow or look(job, try_queue()[0]).state in ENDED
        logs = job.logs()
        for log in logs:
            rank = log.name.removesuffix("_log.out").rsplit("_", 1)[-1]
            if arguments.rank is not None and rank != str(arguments.rank):
                continue
            with log.open("rb") as file:
                file.seek(read[log])
                new = file.read()
            read[log] += len(new)
            for line in new.decode("utf-8", "replace").splitlines():
                print(f"[{rank}] {line}" if len(logs) > 1 else line, flush=True)
        if ended:
            break
        time.sleep(1)
    if not read:
        print("hcl logs: nothing yet", file=sys.stderr)
    return 0


COMMAND = Command(
    "logs",
    "What the tasks of a job have said; restarts are appended.",
    add_arguments,
    run,
    for_jobs=False,
)
