"""Which jobs a command is about."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.core.errors import InputError

if TYPE_CHECKING:
    from slurm.job import Job
    from slurm.job_queue import Entry

FOLDER = "runs/jobs"


def add_jobs(parser: argparse.ArgumentParser) -> None:
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
