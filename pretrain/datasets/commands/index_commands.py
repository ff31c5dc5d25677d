"""``hcl data check``, ``stats``, ``pack`` and ``select``: what is done with one index."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from pretrain.core.arguments import add_output, add_workers, positive_int
from pretrain.core.command import Command
from pretrain.core.errors import InputError
from pretrain.core.progress import Progress


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")


def _add_check(parser: argparse.ArgumentParser) -> None:
    _add_index(parser)
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images are now")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    add_workers(parser, "threads")


def _check(arguments: argparse.Namespace) -> int:
    """Status 0 sound, 1 faults, 2 no index."""
    from pretrain.data.index import Index
    from pretrain.datasets.check import check

    index = Index.open(arguments.index, arguments.images)
    progress = Progress("images", len(index))
    report = check(index, workers=arguments.workers, progress=progress)
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


def _add_stats(parser: argparse.ArgumentParser) -> None:
    _add_index(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, with all classes")
    parser.add_argument(
        "--top", type=positive_int, default=20, metavar="N", help="classes shown (default: 20)"
    )
    parser.add_argument(
        "--min-box-area", type=float, metavar="PX2", help="as views.min_box_area of a run"
    )
    parser.add_argument("--min-boxes", type=positive_int, metavar="N", help="as views.min_boxes")


def _stats(arguments: argparse.Namespace) -> int:
    from pretrain.data.index import Index
    from pretrain.data.views import ViewSettings
    from pretrain.datasets.index_stats import stats, text

    views = ViewSettings()
    area, boxes = arguments.min_box_area, arguments.min_boxes
    found = stats(
        Index.open(arguments.index),
        min_box_area=views.min_box_area if area is None else area,
        min_boxes=views.min_boxes if boxes is None else boxes,
    )
    print(json.dumps(found, indent=1) if arguments.json else text(found, arguments.top))
    return 0


def _add_pack(parser: argparse.ArgumentParser) -> None:
    _add_index(parser)
    add_output(parser, "folder to make", None)
    parser.add_argument(
        "--side",
        type=int,
        metavar="PX",
        help="shrink images to this shorter side, never enlarge (default: as they are)",
    )
    add_workers(parser)
    parser.add_argument("--verify", action="store_true", help="read all of it back at the end")


def _pack(arguments: argparse.Namespace) -> int:
    from pretrain.data.index import Index
    from pretrain.datasets.packing import write

    if arguments.side is not None and arguments.side < 1:
        raise InputError(f"--side {arguments.side}: it must be at least 1")
    index = Index.open(arguments.index)
    progress = Progress("images", len(index))
    start = time.perf_counter()
    pack = write(
        index, arguments.output, arguments.side, workers=arguments.workers, progress=progress
    )
    if arguments.verify:
        pack.verify()
    size = sum(shard["bytes"] for shard in pack.meta["shards"])
    seconds = time.perf_counter() - start
    print(f"{arguments.output}: {len(pack)} images, {size / 1e9:.2f} GB, {seconds:.1f} s")
    for row, reason in pack.meta["bad"]:
        print(f"not packed: {index.path(int(row))}: {reason}")
    return 0


def _add_select(parser: argparse.ArgumentParser) -> None:
    _add_index(parser)
    add_output(parser, "folder of the new index", None)
    for option, default in (("--min-classes", 2), ("--min-images", 900)):
        parser.add_argument(
            option, type=positive_int, default=default, metavar="N", help="default: %(default)s"
        )


def _select(arguments: argparse.Namespace) -> int:
    from pretrain.data.index import Index
    from pretrain.datasets.selection import PAPER_RULE, Rule, compare_with_paper, select

    index = Index.open(arguments.index)
    if arguments.output.exists():
        raise InputError(f"{arguments.output}: exists already; choose another folder")
    rule = Rule(arguments.min_classes, arguments.min_images)
    chosen = select(index, arguments.output.resolve(), rule)
    selection = chosen.meta["selection"]
    print(f"{chosen.folder}: {len(chosen)} of {len(index)} images, {chosen.box_count} boxes")
    print(
        f"  {selection['classes']} of {len(index.categories)} classes, {selection['rounds']} rounds"
    )
    print(f"  list of images: sha256 {selection['list_sha256']}")
    if rule == PAPER_RULE and index.meta["options"].get("reader") in ("openimages", "ohms"):
        print(f"  {compare_with_paper(selection)}")
    return 0


COMMANDS = {
    "check": Command(
        "data check",
        "Decode every image of an index and compare it with what the index says; "
        "look at every box and label. Each fault is a line. Status 1 if there is one.",
        _add_check,
        _check,
    ),
    "stats": Command(
        "data stats",
        "Counts of an index, the spread of its boxes' sizes and aspects, its classes, "
        "and the share of images with enough objects for HCL's scenes.",
        _add_stats,
        _stats,
    ),
    "pack": Command(
        "data pack",
        "Decode the images of an index once and write them, shrunk, into a few large "
        "files that the loader maps. An interrupted run goes on where it was when called again.",
        _add_pack,
        _pack,
        output_was_word=True,
    ),
    "select": Command(
        "data select",
        "The HCL paper's rule: images with objects of at least --min-classes classes, "
        "classes with at least --min-images images, repeated until nothing changes. Writes a new "
        "index, with the list of its images in selection.txt.",
        _add_select,
        _select,
        output_was_word=True,
    ),
}
