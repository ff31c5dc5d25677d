"""``hcl data prepare cub|cars|sop|inshop|grocery``: unpack, read, count."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from downstream.retrieval.datasets.dataset_specs import KNOWN, check_counts
from downstream.retrieval.datasets.labeled_images import LabeledImages
from pretrain.core.command import Command
from pretrain.datasets.archives import find_archives, unpack


def run(name: str, arguments: argparse.Namespace) -> int:
    """Prepare one of the sets of metric learning."""
    known = KNOWN[name]
    found = prepare(name, arguments.root, tuple(arguments.archive), partial=arguments.partial)
    print(f"{found.root}: {known.title}")
    for split, (images, classes) in found.counts().items():
        print(f"  {split:<8}{images:>8} images {classes:>7} classes")
    whole = found.counts() == known.counts
    print(f"  {'complete' if whole else 'not the whole set'}; fingerprint {found.fingerprint[:16]}")
    print(f"to fine-tune on it: hcl retrieve train CONFIG data.root={arguments.root}")
    return 0


def prepare(
    name: str, root: Path, archives: tuple[Path, ...] = (), *, partial: bool = False
) -> LabeledImages:
    """Unpack what is given or found, read the set and see that all of it is there.

    Args:
        name: key in ``KNOWN``.
        root: folder of the set.
        archives: to unpack, besides those found by name in ``root`` and ``root/downloads``.
        partial: accept fewer images than published.

    Raises:
        InputError: naming what is missing or wrong, and what to do.
    """
    known = KNOWN[name]
    for archive in find_archives(root, archives, known.archives):
        report = unpack(archive, root / known.unpack_to.get(archive.name, ""))
        print("\n".join(report.lines()))
    found = known.read(root)
    if not partial:
        check_counts(name, found, known.counts)
    found.check_files(known.remedy)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data")
    parser.add_argument(
        "--archive", type=Path, nargs="+", default=[], metavar="FILE", help="to unpack into ROOT"
    )
    parser.add_argument(
        "--partial", action="store_true", help="accept a set with other counts than published"
    )


COMMANDS = {
    name: Command(
        f"data prepare {name}",
        f"Check {known.title} and its split; archives given, or found in ROOT or ROOT/downloads, "
        "are unpacked first. Nothing is downloaded: their sources want a registration or have "
        "moved.",
        add_arguments,
        functools.partial(run, name),
    )
    for name, known in KNOWN.items()
}
