"""``hcl data prepare miniplaces``: scenes and objects of MiniPlaces, indexed."""

from __future__ import annotations

import argparse
from pathlib import Path

from pretrain.core.command import Command


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data prepare miniplaces ROOT``."""
    from pretrain.datasets.miniplaces.prepare import ANNOTATIONS, FAULTS, prepare

    root: Path = arguments.root
    made = prepare(root, tuple(arguments.archive), lambda line: print(line, flush=True))
    for index in made.indexes.values():
        boxes = "" if index.folder.name.startswith("index-scenes") else f", {index.box_count} boxes"
        print(f"{index.folder}: {len(index)} images, {len(index.categories)} categories{boxes}")
    for warning in made.warnings:
        print(f"warning: {warning}")
    if made.faults:
        file = root / ANNOTATIONS / FAULTS
        print(f"warning: left out as missing or faulty: {len(made.faults)}, named in {file}")
    train, val = (root / f"index-scenes-{split}" for split in ("train", "val"))
    print("to pretrain with proposals: hcl data propose", train, root / "index-proposals")
    print(f"to probe scenes: hcl probe RUN --labels image --train {train} --val {val} ...")
    if "objects-train" in made.indexes:
        print("to detect objects: hcl detect CONFIG --train ANNOTATIONS IMAGES ... with")
        for split in ("train", "val"):
            index = made.indexes[f"objects-{split}"]
            print(f"  {index.meta['source']['path']} {index.images}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("root", metavar="ROOT", type=Path, help="folder of the data")
    parser.add_argument(
        "--archive", type=Path, nargs="+", default=[], metavar="FILE", help="to unpack into ROOT"
    )


COMMAND = Command(
    "data prepare miniplaces",
    "Check MiniPlaces (development kit and data.tar.gz, or a subset) and write its "
    "scenes and outlined objects as COCO-form files and indexes. Nothing is downloaded: the "
    "images are for research and teaching, see the development kit's terms.",
    add_arguments,
    run,
)
