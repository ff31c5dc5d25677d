"""``hcl data stats``: an index in numbers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pretrain.core.arguments import positive_int
from pretrain.core.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    parser.add_argument("--json", action="store_true", help="as JSON, with all classes")
    parser.add_argument(
        "--top", type=positive_int, default=20, metavar="N", help="classes shown (default: 20)"
    )
    parser.add_argument(
        "--min-box-area", type=float, metavar="PX2", help="as views.min_box_area of a run"
    )
    parser.add_argument("--min-boxes", type=positive_int, metavar="N", help="as views.min_boxes")


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data stats INDEX``."""
    from pretrain.data.index import Index
    from pretrain.data.views import ViewSettings
    from pretrain.datasets.stats import stats, text

    views = ViewSettings()
    area, boxes = arguments.min_box_area, arguments.min_boxes
    index = Index.open(arguments.index)
    found = stats(
        index,
        min_box_area=views.min_box_area if area is None else area,
        min_boxes=views.min_boxes if boxes is None else boxes,
    )
    print(json.dumps(found, indent=1) if arguments.json else text(found, arguments.top))
    return 0


COMMAND = Command(
    "data stats",
    "Counts of an index, the spread of its boxes' sizes and aspects, its classes, "
    "and the share of images with enough objects for HCL's scenes.",
    add_arguments,
    run,
)
