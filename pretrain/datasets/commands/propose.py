"""``hcl data propose``: boxes for images that have none."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.core.arguments import add_output, add_settings, positive_int, read_settings
from pretrain.core.command import Command
from pretrain.core.machine import cores
from pretrain.core.progress import Progress

if TYPE_CHECKING:
    from pretrain.data.index import Index
    from pretrain.datasets.proposals.propose import Outcome
    from pretrain.datasets.proposals.proposer import Proposer

METHODS = ("selective_search", "grid", "random", "multiscale", "detector")


def _run(arguments: argparse.Namespace) -> int:
    from pretrain.data.index import Index
    from pretrain.datasets.proposals.filters import FilterSettings
    from pretrain.datasets.proposals.propose import propose

    index = Index.open(arguments.index)
    rule = read_settings(
        FilterSettings, arguments, source="hcl data propose", keep_first=not arguments.allow_none
    )
    proposer = _proposer(arguments, index)
    # Without pixels to look at, starting a process takes longer than all the work.
    chosen = cores() if proposer.needs_image else 1
    workers = chosen if arguments.workers is None else arguments.workers
    outcome = propose(
        index, arguments.output, proposer, rule, workers=workers, progress=Progress("images")
    )
    print(describe(outcome))
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from pretrain.datasets.proposals.filters import FilterSettings

    parser.add_argument("index", metavar="INDEX", type=Path, help="folder of an index")
    add_output(parser, "folder to make", None)
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="detector: its results in COCO's format"
    )
    parser.add_argument(
        "--min-score", type=float, metavar="S", help="detector: leave out boxes with less"
    )
    parser.add_argument(
        "--mode",
        choices=("fast", "quality"),
        default="fast",
        help="selective search: OpenCV's mode (default: %(default)s)",
    )
    parser.add_argument(
        "--max-side",
        type=int,
        metavar="PX",
        help="selective search: shrink larger images for the search (default: never, as ORL)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    rule = parser.add_argument_group("filter, in this order")
    add_settings(rule, FilterSettings)
    rule.add_argument(
        "--allow-none",
        action="store_true",
        help="where nothing survives, leave the image without boxes, not with the first proposal",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="processes (default: the cores for selective search, 1 for the others)",
    )


def describe(outcome: Outcome) -> str:
    """What came of it, for people."""
    from pretrain.datasets.proposals.propose import BAD_IMAGES

    index, tally = outcome.index, outcome.tally
    boxes = f"{len(index)} images, {index.box_count} boxes"
    if tally is None:
        return f"{index.folder}: holds these proposals already ({boxes}); nothing to do"
    left_out = ", ".join(f"{count} {reason}" for reason, count in tally.left_out.items())
    lines = [
        f"{index.folder}: {boxes} ({index.box_count / len(index):.1f} an image) "
        f"of {tally.proposed} proposals; left out: {left_out}"
    ]
    if tally.kept_first:
        lines.append(f"in {tally.kept_first} images nothing survived; their first proposal is kept")
    if tally.bad:
        row, reason = tally.bad[0]
        lines.append(
            f"{len(tally.bad)} images could not be read and have no boxes, the first is "
            f"{index.path(row)}: {reason}; all are in {index.folder / BAD_IMAGES}"
        )
    if tally.seconds > 0:
        lines.append(
            f"per core and second: {len(index) / tally.seconds:.2f} images, "
            f"{tally.proposed / tally.seconds:.0f} proposals, "
            f"{index.box_count / tally.seconds:.1f} boxes kept"
        )
    if outcome.resumed:
        lines.append(f"{outcome.resumed} images had been done before")
    return "\n".join(lines)


def _proposer(arguments: argparse.Namespace, index: Index) -> Proposer:
    from pretrain.core.errors import InputError
    from pretrain.datasets.proposals.detector_results import Detector
    from pretrain.datasets.proposals.selective_search import SelectiveSearch
    from pretrain.datasets.proposals.windows import Grid, MultiScale, Random

    method = arguments.method
    if arguments.seed < 0:
        raise InputError(f"--seed must be 0 or more, got {arguments.seed}")
    given = arguments.json is not None or arguments.min_score is not None
    if given and method != "detector":
        raise InputError(f"--json and --min-score are for --method detector, not {method}")
    if method == "detector":
        if arguments.json is None:
            raise InputError("--method detector needs --json FILE, the detector's results")
        least = -math.inf if arguments.min_score is None else arguments.min_score
        detector = Detector.read(arguments.json, index, least)
        for count, what in (
            (detector.unknown, "are of images that the index lacks"),
            (detector.empty, "have no area inside their image"),
        ):
            if count:
                print(f"{arguments.json}: {count} entries {what}; left out", file=sys.stderr)
        return detector
    if method == "selective_search":
        return SelectiveSearch(arguments.seed, arguments.mode, arguments.max_side)
    if method == "grid":
        return Grid()
    return Random(arguments.seed) if method == "random" else MultiScale(arguments.seed)


COMMAND = Command(
    "data propose",
    "Propose boxes for the images of an index, filter them as ORL does, and write "
    "an index of the same images with these boxes. A stopped command goes on where it "
    "stopped; the same seed gives the same boxes, whatever the number of workers.",
    _add_arguments,
    _run,
    output_was_word=True,
)
