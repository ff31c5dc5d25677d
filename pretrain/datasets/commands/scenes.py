"""``hcl data scenes``: make a data set of embedded scenes."""

from __future__ import annotations

import argparse
import time

from pretrain.core.arguments import add_fresh, add_output, add_workers
from pretrain.core.command import Command
from pretrain.core.machine import default_workers
from pretrain.core.progress import Progress
from pretrain.datasets.scenes import sources as scene_sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_output(parser, "folder to make", None)
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
    add_workers(parser)
    add_fresh(parser, "replace other generated scenes in OUT")
    scene_sources.add_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data scenes -o OUT ...``."""
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
        arguments.output,
        workers=workers,
        fresh=arguments.fresh,
        progress=Progress("images", total),
    )
    what = f"{wanted.images} training and {wanted.val} validation scenes"
    if outcome == "present":
        print(f"{arguments.output}: holds these {what} already; nothing to do")
    else:
        seconds = time.perf_counter() - start
        print(f"{arguments.output}: {what} in {seconds:.1f} s ({total / seconds:.0f} scenes/s)")
    return 0


COMMAND = Command(
    "data scenes",
    "Generate scenes of many objects with exact boxes and masks in COCO format: "
    "OUT/train, OUT/val, OUT/annotations/instances_{train,val}.json. The same seed gives the "
    "same bytes, whatever the number of workers.",
    add_arguments,
    run,
    output_was_word=True,
    renamed={"--overwrite": "--fresh"},
)
