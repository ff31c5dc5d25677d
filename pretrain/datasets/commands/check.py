"""``hcl data check``: look at every image and box of an index."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pretrain.core.arguments import add_workers
from pretrain.core.command import Command
from pretrain.core.machine import default_workers
from pretrain.core.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images are now")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    add_workers(parser, "threads")


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data check INDEX``: 0 sound, 1 faults, 2 no index."""
    from pretrain.data.index import Index
    from pretrain.datasets.check import check

    index = Index.open(arguments.index, arguments.images)
    progress = Progress("images", len(index))
    workers = arguments.workers or default_workers()
    report = check(index, workers=workers, progress=progress)
    progress.close()
    if arguments.json:
        print(json.dumps({"index": str(index.folder), **report.as_json()}, indent=1))
    else:
        for fault in report.faults:
            where = f"row {fault.row} {fault.file}: " if fault.row >= 0 else ""
            print(f"{fault.kind}: {where}{fault.reason}")
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.by_kind().items())
        print(
            f"{index.folder}: {report.images} images ({report.without_boxes} without boxes), "
            f"{report.boxes} boxes; {f'faults: {kinds}' if kinds else 'no faults'}"
        )
    return 1 if report.faults else 0


COMMAND = Command(
    "data check",
    "Decode every image of an index and compare it with what the index says; "
    "look at every box and label. Each fault is a line. Status 1 if there is one.",
    add_arguments,
    run,
)
