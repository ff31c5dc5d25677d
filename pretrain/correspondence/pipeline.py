"""The steps of stage 2, shared out among processes and resumable shard by shard.

    image features -> neighbors -> features of all regions -> pairs

Each step computes shards of consecutive rows and nothing that depends on who computes them, so
any number of processes, stopped and started at will, gives the same files.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain import distributed
from pretrain.core.errors import InputError
from pretrain.core.progress import Progress
from pretrain.correspondence import shard_files
from pretrain.correspondence.encode import FeatureEncoder, center_view, read_views, region_views
from pretrain.correspondence.matching import MATCH, match, pairs_per_neighbor, to_table
from pretrain.correspondence.neighbors import Search
from pretrain.correspondence.regions import Regions
from pretrain.correspondence.settings import CorrespondSettings
from pretrain.correspondence.shard_files import Shards
from pretrain.data.index import Index
from pretrain.data.pairs import PairTable
from pretrain.distributed import World
from pretrain.processes import on_main, together

log = logging.getLogger(__name__)

PAIRS = "pairs"
REGIONS = "regions"
SIMILARITY = "similarity.npy"

"""Between two lines that say how far a step is."""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        index: of the images.
        regions: of each image.
        encoder: that says what is alike.
        settings: of the steps.
        folder: where everything is kept.
        world: this process among all.
        workers: threads that decode.
        given: int64 (N, K) neighbors found elsewhere, or None.
    """

    index: Index
    regions: Regions
    encoder: FeatureEncoder
    settings: CorrespondSettings
    folder: Path
    world: World
    workers: int
    given: NDArray[np.int64] | None = None

    @property
    def rows(self) -> list[range]:
        """Those of each shard."""
        size = self.settings.shard
        starts = range(0, len(self.index), size)
        return [range(start, min(start + size, len(self.index))) for start in starts]

    def shards(self, name: str, dtype: Any, width: int, lengths: list[int] | None) -> Shards:
        """The shards of a step; ``lengths`` is their rows, where these are not images."""
        images = [len(rows) for rows in self.rows]
        tail = (width,) if width else ()
        return Shards(self.folder / name, dtype, tail, images if lengths is None else lengths)


@dataclass
class Report:
    """What came of it.

    Attributes:
        steps: per step done now, its seconds, shards that were there, and shards in all.
        table: of pairs.
        unreadable: images without features.
        regions: encoded once each.
        official: regions that the published code would encode.
        engine: of the search for neighbors, where it was made now.
    """

    steps: dict[str, tuple[float, int, int]] = field(default_factory=dict)
    table: PairTable | None = None
    unreadable: int = 0
    regions: int = 0
    official: int = 0
    engine: str = ""


def correspond(job: Job) -> Report:
    """Do all steps that are not done; called by every process.

    Raises:
        InputError: an image cannot be read any more, or a file cannot be written.
    """
    report = Report()
    neighbours = _neighbors(job, report)
    there = neighbours >= 0
    report.unreadable = int((~there.any(1)).sum()) if len(job.index) > 1 else 0
    if not (job.folder / PAIRS).exists():
        _pairs(job, neighbours, report)
    on_main(job.world, lambda: _remove_parts(job.folder))
    report.table = PairTable.open(job.folder / PAIRS)
    counts = job.regions.counts
    report.regions = int(counts.sum())
    report.official = report.regions + int(counts[neighbours[there]].sum())
    return report


def _neighbors(job: Job, report: Report) -> NDArray[np.int64]:
    target = job.folder / "neighbours.npy"
    missing = not target.is_file()
    distributed.barrier()  # nobody writes it before all have looked
    if missing:
        if job.given is not None:
            given = job.given
            on_main(job.world, lambda: _save(target, given))
        else:
            _search(job, target, report)
    found: NDArray[np.int64] = np.load(target, mmap_mode="r", allow_pickle=False)
    return found


def _search(job: Job, target: Path, report: Report) -> None:
    features = job.folder / "features.npy"
    size, encoder = job.encoder.size, job.encoder

    def encode(number: int) -> NDArray[Any]:
        rows, bad = job.rows[number], dict[int, str]()
        views = read_views(
            job.index, rows, lambda image, _: center_view(image, size), job.workers, bad
        )
        found = encoder.features(views, "head")
        for row, reason in bad.items():
            found[row - rows.start] = 0
            log.warning("%s: %s; it gets no neighbors", job.index.path(row), reason)
        return found

    if not features.is_file():
        shards = job.shards("features", np.float32, encoder.dim, None)
        _step(job, "features", shards, encode, report)
        on_main(job.world, lambda: shards.join(features))
    bank = np.load(features, mmap_mode="r", allow_pickle=False)
    if not np.any(bank):
        raise InputError(f"{job.index.images}: no image can be read; check --images")
    search = Search(bank, job.world.device)
    report.engine = search.engine
    shards = job.shards("neighbours", np.int64, job.settings.neighbours, None)
    parts, count = job.rows, job.settings.neighbours
    _step(job, "neighbours", shards, lambda number: search.nearest(parts[number], count), report)
    on_main(job.world, lambda: shards.join(target))


def _pairs(job: Job, neighbours: NDArray[np.int64], report: Report) -> None:
    regions, settings, encoder = job.regions, job.settings, job.encoder
    on_main(job.world, lambda: regions.write(job.folder / REGIONS))
    used = np.zeros(len(job.index), bool)
    used[neighbours[neighbours >= 0]] = True
    used |= (neighbours >= 0).any(1)

    def encode(number: int) -> NDArray[Any]:
        rows, bad = job.rows[number], dict[int, str]()
        views = read_views(
            job.index,
            rows,
            lambda image, row: region_views(image, regions.of(row), encoder.size),
            job.workers,
            bad,
        )
        found = encoder.features(views, "backbone")
        start = regions.offsets[rows.start]
        for row, reason in sorted(bad.items()):
            if used[row]:
                raise InputError(
                    f"{job.index.path(row)}: {reason}, but it is a neighbor of others; repair it "
                    f"and run again, or delete {job.folder}"
                )
            found[regions.offsets[row] - start : regions.offsets[row + 1] - start] = 0
        return found.astype(np.float16)

    parts = job.rows
    lengths = [int(regions.offsets[rows.stop] - regions.offsets[rows.start]) for rows in parts]
    cache = job.shards(f"{REGIONS}/features", np.float16, encoder.width, lengths)
    _step(job, "regions", cache, encode, report)

    def features_of(row: int) -> NDArray[np.float16]:
        number = row // settings.shard
        start = regions.offsets[parts[number].start]
        part: NDArray[np.float16] = cache.map(number)[
            regions.offsets[row] - start : regions.offsets[row + 1] - start
        ]
        return part

    per_row = pairs_per_neighbor(regions, settings.share) * (neighbours >= 0).sum(1)
    matches = job.shards(
        "matches", MATCH, 0, [int(per_row[rows.start : rows.stop].sum()) for rows in parts]
    )

    def compare(number: int) -> NDArray[Any]:
        share, device = settings.share, job.world.device
        return match(parts[number], neighbours, regions, features_of, share=share, device=device)

    _step(job, "pairs", matches, compare, report)

    def finish() -> None:
        found = np.concatenate([matches.map(number) for number in range(len(matches))])
        _save(job.folder / SIMILARITY, found["similarity"])
        table = to_table(job.index.fingerprint, found, neighbours, regions, settings.share)
        table.write(job.folder / PAIRS)

    on_main(job.world, finish)


def _step(
    job: Job, name: str, shards: Shards, compute: Callable[[int], NDArray[Any]], report: Report
) -> None:
    """Compute the shards that are missing, each process its part of them."""
    start = time.monotonic()
    missing = shards.missing()
    on_main(job.world, shards.tidy)  # so nobody writes before all have looked

    def work() -> None:
        mine = missing[job.world.rank :: job.world.size]
        progress = Progress(f"{name}, shards", len(mine)) if job.world.is_main else None
        for done, number in enumerate(mine, 1):
            shards.write(number, compute(number))
            if progress is not None:
                progress(done)

    together(job.world, work)
    seconds = time.monotonic() - start
    report.steps[name] = (seconds, len(shards) - len(missing), len(shards))
    if job.world.is_main:
        shard_files.note(job.folder, f"seconds_{name}", round(seconds, 3))


def _remove_parts(folder: Path) -> None:
    """Remove the shards that a finished whole has taken the place of."""
    for part in ("features", "neighbours", "matches"):
        shutil.rmtree(folder / part, ignore_errors=True)


def _save(target: Path, array: NDArray[Any]) -> None:
    with shard_files.replacing(target) as stream:
        np.save(stream, array, allow_pickle=False)
