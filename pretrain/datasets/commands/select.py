"""``hcl data select``: the multi-object subset of an index."""

from __future__ import annotations

import argparse
from pathlib import Path

from pretrain.core.arguments import add_output, positive_int
from pretrain.core.command import Command
from pretrain.core.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    add_output(parser, "folder of the new index", None)
    parser.add_argument(
        "--min-classes", type=positive_int, default=2, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--min-images", type=positive_int, default=900, metavar="N", help="default: %(default)s"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data select INDEX -o OUT``."""
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


COMMAND = Command(
    "data select",
    "The HCL paper's rule: images with objects of at least --min-classes classes, "
    "classes with at least --min-images images, repeated until nothing changes. Writes a new "
    "index, with the list of its images in selection.txt.",
    add_arguments,
    run,
    output_was_word=True,
)
