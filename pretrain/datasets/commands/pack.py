"""``hcl data pack``: decode the images of an index once."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pretrain.core.arguments import add_output, add_workers
from pretrain.core.command import Command
from pretrain.core.machine import default_workers
from pretrain.core.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    add_output(parser, "folder to make", None)
    parser.add_argument(
        "--side",
        type=int,
        metavar="PX",
        help="shrink images to this shorter side, never enlarge (default: as they are)",
    )
    add_workers(parser)
    parser.add_argument("--verify", action="store_true", help="read all of it back at the end")


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data pack ...``."""
    from pretrain.core.errors import InputError
    from pretrain.data.index import Index
    from pretrain.datasets.packing import write

    if arguments.side is not None and arguments.side < 1:
        raise InputError(f"--side {arguments.side}: it must be at least 1")
    workers = default_workers() if arguments.workers is None else arguments.workers
    index = Index.open(arguments.index)
    progress = Progress("images", len(index))
    start = time.perf_counter()
    pack = write(index, arguments.output, arguments.side, workers=workers, progress=progress)
    if arguments.verify:
        pack.verify()
    size = sum(shard["bytes"] for shard in pack.meta["shards"])
    seconds = time.perf_counter() - start
    print(f"{arguments.output}: {len(pack)} images, {size / 1e9:.2f} GB, {seconds:.1f} s")
    for row, reason in pack.meta["bad"]:
        print(f"not packed: {index.path(int(row))}: {reason}")
    return 0


COMMAND = Command(
    "data pack",
    "Decode the images of an index once and write them, shrunk, into a few large "
    "files that the loader maps. An interrupted run goes on where it was when called again.",
    add_arguments,
    run,
    output_was_word=True,
)
