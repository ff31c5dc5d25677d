"""``hcl status``: where jobs stand."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from pretrain.core.command import Command
from slurm.job_selection import add_jobs, chosen_jobs, try_queue

if TYPE_CHECKING:
    from slurm.status import Status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_jobs(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--live", nargs="?", type=float, const=5.0, metavar="S", help="again every S seconds"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl status``."""
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


COMMAND = Command(
    "status",
    "Every job: where it stands, how fast, and why it restarted.",
    add_arguments,
    run,
    for_jobs=False,
)
