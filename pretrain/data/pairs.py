"""ORL's inter-RoI pairs: a region of one image and one much like it in another image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.core.files import new_folder, read_versioned, write_json
from pretrain.data import random_streams
from pretrain.data.index import Index, map_column, offsets
from pretrain.data.plan import PAIR_REGIONS, ViewPlan
from pretrain.data.views import Window, whole_window

VERSION = 1
META = "pairs.json"
COLUMNS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "neighbour_offsets": (np.int64, ()),
    "neighbours": (np.int64, ()),
    "pair_offsets": (np.int64, ()),
    "query": (np.float32, (4,)),
    "key": (np.float32, (4,)),
}


@dataclass(frozen=True)
class Pair:
    """One matched pair of regions.

    Attributes:
        query: window of the row's own image.
        row: of the other image.
        key: window of the other image.
        number: its place in the columns of the table.
    """

    query: Window
    row: int
    key: Window
    number: int


@dataclass(frozen=True)
class Neighbor:
    """The pairs of one image with one of its neighbors.

    Attributes:
        row: of the neighbor.
        query: float32 (p, 4), boxes in the image, x1 y1 x2 y2 in px.
        key: float32 (p, 4), the boxes they match in the neighbor.
    """

    row: int
    query: NDArray[np.float32]
    key: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PairTable:
    """All pairs of a data set, in columns that may be mapped.

    Attributes:
        fingerprint: of the index that the rows are of.
        neighbor_offsets: int64 (N + 1,), where each row's neighbors start.
        neighbours: int64 (M,), rows; each has at least one pair.
        pair_offsets: int64 (M + 1,), where each neighbor's pairs start.
        query: float32 (P, 4), boxes in the row's image, x1 y1 x2 y2 in px.
        key: float32 (P, 4), boxes in the neighbor's image.
        folder: where it is mapped from; None: it is in memory alone.
    """

    fingerprint: str
    neighbour_offsets: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    pair_offsets: NDArray[np.int64]
    query: NDArray[np.float32]
    key: NDArray[np.float32]
    folder: Path | None = None

    @classmethod
    def build(cls, fingerprint: str, rows: Iterable[list[Neighbor]]) -> PairTable:
        """Put together what each row of the index has; neighbors without pairs are left out."""
        parts = [[part for part in row if len(part.query)] for row in rows]
        every = [part for row in parts for part in row]
        assert all(len(part.query) == len(part.key) for part in every)
        empty = np.empty((0, 4), np.float32)
        return cls(
            fingerprint,
            offsets([len(row) for row in parts]),
            np.array([part.row for part in every], np.int64),
            offsets([len(part.query) for part in every]),
            np.concatenate([empty, *(part.query for part in every)]),
            np.concatenate([empty, *(part.key for part in every)]),
        )

    @classmethod
    def open(cls, folder: Path) -> PairTable:
        """Map a table.

        Raises:
            InputError: there is none, it is damaged, or another version wrote it.
        """
        missing, again = "make it with hcl correspond", "make it again"
        meta = read_versioned(folder / META, VERSION, "table of pairs", missing, again)
        try:
            columns = {
                name: map_column(folder / f"{name}.npy", dtype, (meta["lengths"][name], *tail))
                for name, (dtype, tail) in COLUMNS.items()
            }
            return cls(meta["fingerprint"], **columns, folder=folder)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder}: damaged table of pairs ({error}); {again}") from None

    def write(self, folder: Path) -> None:
        """Write the table; the folder appears complete or not at all.

        Raises:
            InputError: the folder is there already, or cannot be written.
        """
        with new_folder(folder) as temporary:
            for name in COLUMNS:
                np.save(temporary / f"{name}.npy", getattr(self, name), allow_pickle=False)
            lengths = {name: len(getattr(self, name)) for name in COLUMNS}
            meta = {"version": VERSION, "fingerprint": self.fingerprint, "lengths": lengths}
            write_json(temporary / META, meta, indent=1)

    def digest(self) -> str:
        """SHA-256 of all columns: reads the whole table."""
        content = hashlib.sha256()
        for name in COLUMNS:
            content.update(np.ascontiguousarray(getattr(self, name)).data)
        return content.hexdigest()

    def __len__(self) -> int:
        return len(self.neighbour_offsets) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            return PairTable, (self.fingerprint, *(getattr(self, name) for name in COLUMNS))
        # A worker gets the name and maps the same pages, whatever the start method.
        return PairTable.open, (self.folder,)


def check_pairs(table: PairTable | None, plan: ViewPlan, index: Index) -> None:
    """Whether the views of this plan can be cut from this index with this table.

    Raises:
        InputError: the plan needs a table and there is none, or it is of another index.
    """
    if table is None:
        wanted = [crop.name for crop in plan.crops if crop.region in PAIR_REGIONS]
        if wanted:
            raise InputError(
                f"data.pairs: not set, but the views {', '.join(wanted)} of this method are cut "
                "from pairs of regions; make the table with hcl correspond, and set data.pairs to "
                "its folder"
            )
    elif table.fingerprint != index.fingerprint:
        raise InputError(
            f"data.pairs: {table.folder or 'the table'} was made of the index with fingerprint "
            f"{table.fingerprint[:12]}, but {index.folder} has {index.fingerprint[:12]}; make it "
            "again with hcl correspond, or set data to what it was made of"
        )


def top_pairs(
    similarity: NDArray[np.floating[Any]], share: float = 0.1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which regions of two images make pairs (ORL, stage 2).

    The most similar of all B x B' combinations, as many as ``share`` of B, at least one. A region
    may be in several.

    Args:
        similarity: (B, B') of the regions of an image and of a neighbor.
        share: of the image's own regions.

    Returns:
        Rows and columns of the similarity, most similar first; equal ones in row-major order.
    """
    if not similarity.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    count = max(1, int(share * len(similarity)))
    best = np.argsort(-similarity.ravel(), kind="stable")[:count]
    rows, columns = np.unravel_index(best, similarity.shape)
    return rows.astype(np.int64), columns.astype(np.int64)


def choose_pair(
    table: PairTable,
    row: int,
    size_of: Callable[[int], tuple[int, int]],
    rng: np.random.Generator,
) -> Pair | None:
    """A random neighbor of the row, and a random one of its pairs; None if there is none.

    Args:
        table: of pairs.
        row: of the index.
        size_of: width and height of a row's image, px.
        rng: as of ``pair_stream``.
    """
    first, stop = (int(place) for place in table.neighbour_offsets[row : row + 2])
    if first == stop:
        return None
    chosen = first + int(rng.integers(stop - first))
    start, end = (int(place) for place in table.pair_offsets[chosen : chosen + 2])
    pair = start + int(rng.integers(end - start))
    other = int(table.neighbours[chosen])
    query, key = table.query[pair], table.key[pair]
    size, other_size = size_of(row), size_of(other)
    return Pair(whole_window(query, size), other, whole_window(key, other_size), pair)


def pair_stream(seed: int, epoch: int, row: int) -> np.random.Generator:
    """The stream that a row's pair is drawn from: both of its views must see the same one."""
    return random_streams.generator(seed, epoch, row, random_streams.PAIR)
