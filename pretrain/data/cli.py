"""``hcl data``: make data sets."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

MAX_WORKERS = 8
MODULES = {
    # name: module with `main(argv) -> int`, loaded when it is called
    "pack": "pretrain.data.pack_command",
    "show": "pretrain.show",
}


def main(argv: list[str]) -> int:
    """Run ``hcl data SUBCOMMAND ...``."""
    if argv and argv[0] in MODULES:
        outcome: int = importlib.import_module(MODULES[argv[0]]).main(argv[1:])
        return outcome
    parser = argparse.ArgumentParser(
        prog="hcl data",
        description="Make data sets.",
        epilog="Further commands: pack (images decoded once, for the loader to map), show (a "
        "contact sheet of what a run sees); hcl data COMMAND --help says more.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_scenes(commands)
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


def _add_scenes(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "scenes",
        help="generate scenes of many objects, in COCO format, from nothing but a seed",
        description="Generate scenes of many objects with exact boxes and masks in COCO format: "
        "OUT/train, OUT/val, OUT/annotations/instances_{train,val}.json. The same seed gives the "
        "same bytes, whatever the number of workers.",
    )
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
    parser.set_defaults(run=_scenes)


def _scenes(arguments: argparse.Namespace) -> int:
    from pretrain.data.scenes.coco_writer import write
    from pretrain.data.scenes.scene_set import SceneSet

    val = max(arguments.images // 5, 0) if arguments.val is None else arguments.val
    wanted = SceneSet(
        arguments.images, val, arguments.seed, arguments.size, arguments.out_of_context
    )
    workers = min(_cores(), MAX_WORKERS) if arguments.workers is None else arguments.workers
    total = wanted.images + wanted.val

    def progress(done: int) -> None:
        if sys.stderr.isatty() and (done % 20 == 0 or done == total):
            print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr)

    start = time.perf_counter()
    outcome = write(
        wanted,
        arguments.out,
        workers=workers,
        overwrite=arguments.overwrite,
        progress=progress,
    )
    what = f"{wanted.images} training and {wanted.val} validation scenes"
    if outcome == "present":
        print(f"{arguments.out}: holds these {what} already; nothing to do")
    else:
        seconds = time.perf_counter() - start
        print(f"{arguments.out}: {what} in {seconds:.1f} s ({total / seconds:.0f} scenes/s)")
    return 0


def _cores() -> int:
    """The cores this process may use, where the platform tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
