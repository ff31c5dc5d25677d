"""``hcl correspond show``: a picture of matched regions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.core.arguments import add_output
from pretrain.core.command import Command
from pretrain.core.errors import InputError

if TYPE_CHECKING:
    from pretrain.correspondence.picture import Match
    from pretrain.data.index import Index
    from pretrain.data.pairs import PairTable

MAX_ROWS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="of hcl correspond")
    add_output(parser, "file to write", metavar="PNG")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="pairs (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="%(default)s")
    parser.add_argument("--index", metavar="FOLDER", type=Path, help="if it has been moved")
    parser.add_argument("--images", metavar="FOLDER", type=Path, help="if they have been moved")


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl correspond show FOLDER -o PNG``."""
    from pretrain.correspondence.picture import sheet
    from pretrain.correspondence.pipeline import PAIRS
    from pretrain.correspondence.shard_files import manifest
    from pretrain.data.contact_sheet import save_png
    from pretrain.data.index import Index
    from pretrain.data.pairs import PairTable

    if not 1 <= arguments.rows <= MAX_ROWS:
        raise InputError(f"--rows {arguments.rows}: choose 1 to {MAX_ROWS}")
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: it must be at least 0")
    facts = manifest(arguments.folder)["facts"]
    images = arguments.images or Path(facts["images"])
    index = Index.open(arguments.index or Path(facts["index_folder"]), images)
    table = PairTable.open(arguments.folder / PAIRS)
    if table.fingerprint != index.fingerprint:
        raise InputError(f"{arguments.folder}: its pairs are of another index than {index.folder}")
    matches = draw_matches(table, index, arguments.folder, arguments.rows, arguments.seed)
    save_png(sheet(index, matches), arguments.output)
    print(f"{arguments.output}: {len(matches)} of {len(table.query)} pairs")
    return 0


def draw_matches(
    table: PairTable, index: Index, folder: Path, count: int, seed: int
) -> list[Match]:
    """Pairs of so many different images, or of all that have any.

    Raises:
        InputError: no image has pairs.
    """
    import numpy as np

    from pretrain.correspondence.picture import Match
    from pretrain.correspondence.pipeline import SIMILARITY
    from pretrain.data.pairs import choose_pair

    similarity = None
    if (folder / SIMILARITY).is_file():
        similarity = np.load(folder / SIMILARITY, mmap_mode="r", allow_pickle=False)
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(np.diff(table.neighbour_offsets))
    if not len(rows):
        raise InputError(f"{folder}: no image has pairs")
    matches = []
    for row in np.sort(rng.permutation(rows)[:count]).tolist():
        pair = choose_pair(table, row, index.size, rng)
        assert pair is not None, "only rows with pairs are drawn"
        first, stop = table.neighbour_offsets[row : row + 2]
        chosen = np.searchsorted(table.pair_offsets, pair.number, "right") - 1
        start, end = table.pair_offsets[chosen : chosen + 2]
        place = (
            f"neighbor {chosen - first + 1} of {stop - first}, "
            f"pair {pair.number - start + 1} of {end - start}"
        )
        cosine = None if similarity is None else float(similarity[pair.number])
        matches.append(Match(row, pair, place, cosine))
    return matches


COMMAND = Command(
    "correspond show",
    "Write a PNG of matched regions: the image with its region, the neighbor with "
    "the region that matches, both as the encoder sees them, and the cosine of their features. "
    "Images, neighbors and pairs are drawn at random, as training draws them.",
    add_arguments,
    run,
)
