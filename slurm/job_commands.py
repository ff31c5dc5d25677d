"""``hcl status``, ``hcl logs`` and ``hcl cancel``: commands about jobs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.core.command import Command
from pretrain.core.errors import InputError

if TYPE_CHECKING:
    from slurm.job import Job
    from slurm.job_queue import Entry
    from slurm.status import Status

FOLDER = "runs/jobs"


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    """The options that choose jobs."""
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="id, name, folder or run folder")
    parser.add_argument(
        "--folder", default=FOLDER, type=Path, metavar="DIR", help="of jobs (default: %(default)s)"
    )


def chosen_jobs(arguments: argparse.Namespace) -> list[Job]:
    """The jobs that were named, or all."""
    from slurm.job import jobs_below

    chosen: list[Job] = []
    for name in arguments.jobs:
        if (Path(name) / "job.json").is_file():
            chosen += jobs_below(Path(name))
            continue
        there = jobs_below(arguments.folder)
        fits = [job for job in there if name in (job.id, job.spec().name, job.folder.name)]
        fits = fits or [job for job in there if job.spec().run == str(Path(name).absolute())]
        fits = fits or [job for job in there if (job.id or "").split("_")[0] == name]
        if not fits:
            raise InputError(f"no job '{name}' in {arguments.folder}; hcl status lists them")
        chosen += fits
    if not arguments.jobs:
        chosen = jobs_below(arguments.folder)
    return chosen


def try_queue() -> tuple[dict[str, Entry] | None, str]:
    """Slurm's queue; None and why where it does not answer."""
    from slurm.job_queue import queue

    try:
        return queue(), ""
    except InputError as error:
        return None, str(error)


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_jobs(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--live", nargs="?", type=float, const=5.0, metavar="S", help="again every S seconds"
    )


def _status(arguments: argparse.Namespace) -> int:
    from slurm.status import look

    while True:
        queue, trouble = try_queue()
        found = [look(job, queue) for job in chosen_jobs(arguments)]
        if arguments.json:
            print(json.dumps([asdict(status) for status in found], indent=1))
        else:
            if arguments.live and sys.stdout.isatty():
                print("\x1b[H\x1b[2J", end="")
            print(_table(found), end="")
        if trouble and any(status.why == "Slurm does not answer" for status in found):
            print(f"hcl status: {trouble}", file=sys.stderr)
        if arguments.live is None:
            return 0
        sys.stdout.flush()
        time.sleep(max(1.0, arguments.live))


def _table(found: list[Status]) -> str:
    from pretrain.core.text import duration

    rows = [
        ("JOB", "NAME", "STATE", "STEP", "IMAGES/S", "LEFT", "LOSS", "RESTARTS", "NODE", "GPU h")
    ]
    for one in found:
        reasons = Counter(one.restarts)
        rows.append(
            (
                one.id or "-",
                one.name,
                one.state,
                f"{one.step}/{one.total}" if one.step is not None else "-",
                f"{one.images_per_s:.0f}" if one.images_per_s else "-",
                duration(one.eta_s) if one.eta_s is not None else "-",
                f"{one.loss:.3f}" if one.loss is not None else "-",
                ", ".join(f"{count} x {why}" for why, count in reasons.items()) or "-",
                one.node or "-",
                f"{one.gpu_hours:.2f}",
            )
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row, about in zip(rows, [None, *found], strict=True):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(cells.rstrip())
        if about is not None and about.why:
            lines.append(f"    {about.why}")
        if about is not None and about.error:
            lines += [f"    | {line}" for line in about.error.splitlines()[-6:]]
    return "\n".join(lines) + "\n"


def _add_logs(parser: argparse.ArgumentParser) -> None:
    _add_jobs(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    parser.add_argument("--rank", type=int, metavar="R", help="this task only (default: all)")


def _logs(arguments: argparse.Namespace) -> int:
    job = chosen_jobs(arguments)[-1]  # the newest of its name
    from slurm.job import rank_of
    from slurm.status import ENDED, look

    read: Counter[Path] = Counter()
    while True:
        ended = not arguments.follow or look(job, try_queue()[0]).state in ENDED
        logs = job.logs()
        for log in logs:
            rank = rank_of(log)
            if arguments.rank not in (None, rank):
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


def _add_cancel(parser: argparse.ArgumentParser) -> None:
    _add_jobs(parser)
    parser.add_argument("--all", action="store_true", help="all that have not ended")


def _cancel(arguments: argparse.Namespace) -> int:
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


COMMANDS = {
    "status": Command(
        "status",
        "Every job: where it stands, how fast, and why it restarted.",
        _add_status,
        _status,
        for_jobs=False,
    ),
    "logs": Command(
        "logs",
        "What the tasks of a job have said; restarts are appended.",
        _add_logs,
        _logs,
        for_jobs=False,
    ),
    "cancel": Command(
        "cancel",
        "End jobs. A run that is at work saves first, and can be submitted again.",
        _add_cancel,
        _cancel,
        for_jobs=False,
    ),
}
