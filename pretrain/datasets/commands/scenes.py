"""``hcl data scenes``: make a data set of embedded scenes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pretrain.core.command import Command
from pretrain.core.machine import MAX_WORKERS, default_workers
from pretrain.core.progress import Progress
from pretrain.datasets.scenes import sources as scene_sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument("--images", type=int, required=True, metavar="N", help="training images")
    parser.add_argument(
        "--val", type=int, metavar="M", help="validation images (default: a fifth of N)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--size",
        type=int,
        default=256,
        metavar="PX",
        help="side of an image (default: %(default)s)",
    )
    parser.add_argument(
        "--out-of-context",
        type=float,
        default=0.15,
        metavar="SHARE",
        help="share of scenes with one object foreign to their context (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="W",
        help=f"processes (default: the cores, {MAX_WORKERS} at most)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace other generated scenes in OUT"
    )
    scene_sources.add_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data scenes OUT ...``."""
    from pretrain.datasets.scenes.coco_writer import write
    from pretrain.datasets.scenes.scene_set import SceneSet

    val = max(arguments.images // 5, 0) if arguments.val is None else arguments.val
    wanted = SceneSet(
        arguments.images,
        val,
        arguments.seed,
        arguments.size,
        arguments.out_of_context,
        scene_sources.open_source(arguments.source),
    )
    workers = default_workers() if arguments.workers is None else arguments.workers
    total = wanted.images + wanted.val
    start = time.perf_counter()
    outcome = write(
        wanted,
        arguments.out,
        workers=workers,
        overwrite=arguments.overwrite,
        progress=Progress("images", total),
    )
    what = f"{wanted.images} training and {wanted.val} validation scenes"
    if outcome == "present":
        print(f"{arguments.out}: holds these {what} already; nothing to do")
    else:
        seconds = time.perf_counter() - start
        print(f"{arguments.out}: {what} in {seconds:.1f} s ({total / seconds:.0f} scenes/s)")
    return 0


COMMAND = Command(
    "data scenes",
    "Generate scenes of many objects with exact boxes and masks in COCO format: "
    "OUT/train, OUT/val, OUT/annotations/instances_{train,val}.json. The same seed gives the "
    "same bytes, whatever the number of workers.",
    add_arguments,
    run,
)
