"""``hcl data scenes``: make a data set of embedded scenes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.core.arguments import add_fresh, add_output, add_workers
from pretrain.core.command import Command
from pretrain.core.errors import InputError
from pretrain.core.progress import Progress

if TYPE_CHECKING:
    from pretrain.datasets.scenes.scene_source import Source


def _add_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--source",
        default="procedural",
        metavar="SOURCE",
        help="procedural (default); procedural:CONTEXT,...: some of its contexts alone, with the "
        "categories that belong there; tuxpaint: photographs of objects before photographs, from "
        "Debian's packages, fetched with apt-get; tuxpaint:DIR: the same, unpacked in DIR",
    )


def _run(arguments: argparse.Namespace) -> int:
    from pretrain.datasets.scenes.coco_writer import write
    from pretrain.datasets.scenes.scene_set import SceneSet

    val = max(arguments.images // 5, 0) if arguments.val is None else arguments.val
    wanted = SceneSet(
        arguments.images,
        val,
        arguments.seed,
        arguments.size,
        arguments.out_of_context,
        open_source(arguments.source),
    )
    total = wanted.images + wanted.val
    start = time.perf_counter()
    outcome = write(
        wanted,
        arguments.output,
        workers=arguments.workers,
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


def open_source(text: str) -> Source:
    """The source of scenes of this name.

    Raises:
        InputError: there is none of the name, or its pictures are missing.
    """
    name, colon, rest = text.partition(":")
    if name == "procedural" and (rest or not colon):
        return _procedural(rest)
    if name == "tuxpaint" and (rest or not colon):
        from pretrain.datasets.scenes.tuxpaint.bank import open_tuxpaint

        return open_tuxpaint(Path(rest) if rest else None)
    known = "procedural, procedural:CONTEXT,..., tuxpaint, tuxpaint:DIR"
    raise InputError(f"--source '{text}': unknown; choose from {known}")


def _procedural(contexts: str) -> Source:
    """The drawn scenes, all of them or those of some contexts (separated by commas)."""
    from pretrain.datasets.scenes.contexts import PROCEDURAL
    from pretrain.datasets.scenes.procedural import ProceduralSource

    if not contexts:
        return ProceduralSource()
    names = tuple(contexts.split(","))
    unknown = [name for name in names if name not in PROCEDURAL.names]
    if unknown or len(set(names)) < max(len(names), 2):
        raise InputError(
            f"--source 'procedural:{contexts}': name two or more different contexts of "
            f"{', '.join(PROCEDURAL.names)}"
        )
    return ProceduralSource(PROCEDURAL.only(names))


COMMAND = Command(
    "data scenes",
    "Generate scenes of many objects with exact boxes and masks in COCO format: "
    "OUT/train, OUT/val, OUT/annotations/instances_{train,val}.json. The same seed gives the "
    "same bytes, whatever the number of workers.",
    _add_arguments,
    _run,
    output_was_word=True,
    renamed={"--overwrite": "--fresh"},
)
