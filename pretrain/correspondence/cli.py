"""``hcl correspond``: ORL's second stage, from a pretrained run to a table of pairs."""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.core.arguments import add_output, add_settings, add_workers, read_settings
from pretrain.core.command import Command
from pretrain.core.errors import InputError
from pretrain.core.files import sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pretrain.correspondence.pipeline import Report
    from pretrain.data.index import Index
    from pretrain.distributed import World
    from pretrain.pretrained import PretrainedEncoder


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl correspond ...``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("faiss").setLevel(logging.WARNING)
    if (arguments.run is None) == (arguments.official is None):
        raise InputError("give either RUN or --official FILE")
    if arguments.official is not None:
        if arguments.index is None:
            raise InputError("--official needs --index FOLDER")
        return _import(arguments)
    return _correspond(arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from pretrain.correspondence.settings import CorrespondSettings

    parser.add_argument("run", metavar="RUN", nargs="?", type=Path, help="run or checkpoint")
    add_output(parser, "folder to make")
    data = parser.add_argument_group("data")
    data.add_argument("--index", metavar="FOLDER", type=Path, help="default: the run's own data")
    data.add_argument("--images", metavar="FOLDER", type=Path, help="if images have been moved")
    data.add_argument(
        "--proposals-file",
        metavar="JSON",
        type=Path,
        help="ORL's proposals as boxes, filtered by ORL's rule; default: the boxes of the index",
    )
    data.add_argument(
        "--neighbours-file",
        metavar="JSON",
        type=Path,
        help="ORL's neighbors, instead of searching them",
    )
    data.add_argument(
        "--official",
        metavar="JSON",
        type=Path,
        help="ORL's correspondences: only turn them into a table",
    )
    data.add_argument(
        "--to-official", metavar="JSON", type=Path, help="write the table in ORL's format as well"
    )
    add_settings(parser, CorrespondSettings)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add_workers(parser, "threads that decode")


def _correspond(arguments: argparse.Namespace) -> int:
    from pretrain import distributed
    from pretrain.correspondence import shard_files
    from pretrain.correspondence.encode import FeatureEncoder
    from pretrain.correspondence.pipeline import Job, correspond
    from pretrain.correspondence.settings import CorrespondSettings
    from pretrain.pretrained import load_pretrained
    from pretrain.processes import held, on_main

    settings = read_settings(CorrespondSettings, arguments, source="hcl correspond")
    with distributed.process_group(arguments.device) as world:
        pretrained = load_pretrained(arguments.run)
        index = _index(arguments, pretrained)
        regions, given = _inputs(arguments, index, settings.max_regions)
        folder = arguments.output.expanduser().resolve()
        identity = {
            "checkpoint": sha256(pretrained.checkpoint),
            "index": index.fingerprint,
            "regions": regions.digest,
            "neighbours_file": None if given is None else hashlib.sha256(given.data).hexdigest(),
            "device": world.device.type,
            **settings.model_dump(),
        }
        facts = _facts(index) | {"run": str(arguments.run), "step": pretrained.step}
        encoder = FeatureEncoder(pretrained, world.device, settings.precision, settings.batch_size)
        with held(folder, world):
            on_main(world, lambda: shard_files.claim(folder, identity, facts))
            report = correspond(
                Job(index, regions, encoder, settings, folder, world, arguments.workers, given)
            )
            on_main(world, lambda: _to_official(arguments, index, folder))
        if world.is_main:
            print(describe(report, folder, world))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from pretrain.core.locks import alone_in
    from pretrain.correspondence import shard_files
    from pretrain.correspondence.official import read_correspondences
    from pretrain.correspondence.pipeline import PAIRS, REGIONS
    from pretrain.data.index import Index

    index = Index.open(arguments.index, arguments.images)
    folder = arguments.output.expanduser().resolve()
    identity = {"official": sha256(arguments.official), "index": index.fingerprint}
    with alone_in(folder):
        shard_files.claim(folder, identity, _facts(index) | {"file": str(arguments.official)})
        if not (folder / PAIRS).exists():
            found = read_correspondences(arguments.official, index)
            shard_files.note(folder, "info", found.info)
            found.regions.write(folder / REGIONS)
            found.table.write(folder / PAIRS)
            print(
                f"{folder / PAIRS}: {len(found.table)} images, {len(found.table.neighbours)} "
                f"neighbors, {len(found.table.query)} pairs"
            )
            if found.absent:
                print(f"  {found.absent} images of the index are not in the file: without pairs")
            if found.own:
                print(
                    f"  {found.own} images are their own neighbors: duplicates, and code that "
                    "drops the first hit instead of the image itself"
                )
        else:
            print(f"{folder / PAIRS}: holds this table already; nothing to do")
        _to_official(arguments, index, folder)
    return 0


def describe(report: Report, folder: Path, world: World) -> str:
    """What came of it, for people."""
    from pretrain.correspondence.pipeline import PAIRS

    lines = [
        f"{name + ':':<12}{seconds:8.1f} s, {there} of {total} shards were there"
        + (f", search by {report.engine}" if name == "neighbours" else "")
        for name, (seconds, there, total) in report.steps.items()
    ]
    table = report.table
    assert table is not None
    state = "" if report.steps else "; it was there, nothing to do"
    lines += [
        f"{folder / PAIRS}: {len(table)} images, {len(table.neighbours)} neighbors, "
        f"{len(table.query)} pairs{state}",
        f"  {report.regions} regions encoded once each; once for every pair of images, as the "
        f"published code does it, {report.official} ({report.official / report.regions:.1f} times)",
    ]
    if report.unreadable:
        lines.append(f"  {report.unreadable} images have no neighbors: see hcl data check")
    if world.size > 1:
        lines.append(f"  {world.size} processes")
    return "\n".join(lines)


def _index(arguments: argparse.Namespace, pretrained: PretrainedEncoder) -> Index:
    """The index that is named, or that of the run's own data."""
    from pretrain.core.settings import parse
    from pretrain.data.index import Index
    from pretrain.datasets.source import DataSettings, open_index

    if arguments.index is not None:
        index = Index.open(arguments.index, arguments.images)
    else:
        values = pretrained.description.config.get("data")
        if not isinstance(values, dict):
            raise InputError(f"{pretrained.checkpoint}: does not say what data; give --index")
        moved = {} if arguments.images is None else {"images": str(arguments.images)}
        source = str(pretrained.checkpoint)
        index = open_index(parse(DataSettings, values | moved, source=source, at="data"))
    if len(index) == 0:
        raise InputError(f"{index.folder}: the index has no images")
    return index


def _inputs(
    arguments: argparse.Namespace, index: Index, limit: int
) -> tuple[Any, NDArray[np.int64] | None]:
    """Regions, and neighbors where a file gives them."""
    from pretrain.correspondence.official import read_neighbors, read_proposals
    from pretrain.correspondence.regions import Regions

    given, order = None, None
    if arguments.neighbours_file is not None:
        given, order = read_neighbors(arguments.neighbours_file, index, arguments.neighbours)
    if arguments.proposals_file is None:
        return Regions.of_index(index, limit), given
    boxes = read_proposals(arguments.proposals_file, index, order)
    return Regions.gather(index, boxes, limit), given


def _to_official(arguments: argparse.Namespace, index: Index, folder: Path) -> None:
    from pretrain.correspondence.official_writer import write_official

    if arguments.to_official is not None:
        write_official(arguments.to_official, index, folder)
        print(f"{arguments.to_official}: the table in ORL's format")


def _facts(index: Index) -> dict[str, Any]:
    return {"index_folder": str(index.folder.resolve()), "images": str(index.images.resolve())}


COMMAND = Command(
    "correspond",
    "Find, for every image, its nearest images and the regions that show alike "
    "things in both, with the encoder of a run (ORL, stage 2). FOLDER/pairs is what data.pairs "
    "names. Run again to resume; torchrun or srun for many processes.",
    add_arguments,
    run,
    usage="hcl correspond RUN -o FOLDER [options]\n"
    "       hcl correspond --official FILE --index INDEX -o FOLDER [--to-official FILE]\n"
    "       hcl correspond show FOLDER -o PNG [--rows N] [--seed S]",
)
