"""The shards of rows that processes work on: one file each, complete or not there."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.core.files import replacing
from pretrain.data.index import Index
from pretrain.datasets.proposals.filters import REASONS, FilterSettings, select
from pretrain.datasets.proposals.proposer import Proposer


@dataclass
class Tally:
    """What happened to the proposals of some images.

    Attributes:
        proposed: proposals before the filter.
        left_out: by reason of ``filters.REASONS``.
        kept_first: images where nothing survived and the first proposal stands.
        bad: (row, reason) of images that could not be read; they have no boxes.
        seconds: of one core, decoding included.
    """

    proposed: int = 0
    left_out: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    kept_first: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Count the images of another tally as well."""
        self.proposed += other.proposed
        self.left_out.update(other.left_out)
        self.kept_first += other.kept_first
        self.bad += other.bad
        self.seconds += other.seconds


@dataclass(frozen=True)
class Shard:
    """The boxes kept of consecutive rows.

    Attributes:
        counts: int64 (rows,), boxes of each row.
        boxes: float32 (sum of counts, 4), x1 y1 x2 y2 in px.
        scores: float32 (sum of counts,), where the method has any.
        tally: of these rows.
    """

    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32] | None
    tally: Tally


def write(file: Path, shard: Shard) -> None:
    """Write a shard; a process that is killed leaves no part of one under its name."""
    columns: dict[str, NDArray[Any]] = {"counts": shard.counts, "boxes": shard.boxes}
    if shard.scores is not None:
        columns["scores"] = shard.scores
    tally = json.dumps(vars(shard.tally)).encode()
    with replacing(file, durable=True) as stream:
        np.savez(stream, allow_pickle=False, tally=np.frombuffer(tally, np.uint8), **columns)


@dataclass(frozen=True)
class Job:
    """What the processes share.

    Attributes:
        index: of the images.
        proposer: the method.
        rule: which proposals are kept.
        folder: where shards are written.
        shard: rows of a shard.
    """

    index: Index
    proposer: Proposer
    rule: FilterSettings
    folder: Path
    shard: int

    def rows(self, number: int) -> range:
        """The rows of a shard."""
        return range(number * self.shard, min((number + 1) * self.shard, len(self.index)))

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-len(self.index) // self.shard)

    def file(self, number: int) -> Path:
        """Where a shard is kept."""
        return self.folder / f"shard-{number:06d}.npz"

    def read(self, number: int) -> Shard | None:
        """A shard; None where there is none that is whole."""
        try:
            with np.load(self.file(number), allow_pickle=False) as columns:
                facts = json.loads(columns["tally"].tobytes())
                facts["left_out"] = Counter(facts["left_out"])
                facts["bad"] = [(row, reason) for row, reason in facts["bad"]]
                scores = columns.get("scores")
                shard = Shard(columns["counts"], columns["boxes"], scores, Tally(**facts))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None
        boxes = int(shard.counts.sum())
        whole = len(shard.counts) == len(self.rows(number)) and shard.boxes.shape == (boxes, 4)
        return shard if whole and (shard.scores is None or len(shard.scores) == boxes) else None


def do_shard(job: Job, number: int, stop: Event | None = None) -> int:
    """Propose for the rows of a shard and write it; the number of rows done.

    Nothing is written, and 0 returned, where ``stop`` is set meanwhile.
    """
    start = time.process_time()
    tally = Tally()
    counts, boxes, scores = [], [np.empty((0, 4), np.float32)], []
    for row in job.rows(number):
        if stop is not None and stop.is_set():
            return 0
        image = None
        if job.proposer.needs_image:
            from pretrain.data.decode import ImageError, read_image

            try:
                pixels = read_image(job.index.path(row), job.index.size(row))
            except ImageError as error:
                tally.bad.append((row, str(error)))
                counts.append(0)
                continue
            image = pixels.permute(1, 2, 0).numpy()
        found = job.proposer.propose(row, job.index.size(row), image)
        kept, left_out = select(found.boxes, job.rule)
        tally.proposed += len(found.boxes)
        tally.kept_first += len(kept) > 0 and sum(left_out.values()) == len(found.boxes)
        tally.left_out.update(left_out)
        counts.append(len(kept))
        boxes.append(found.boxes[kept])
        if found.scores is not None:
            scores.append(found.scores[kept])
    tally.seconds = time.process_time() - start
    joined = np.concatenate(scores) if scores else None
    shard = Shard(np.array(counts, np.int64), np.concatenate(boxes), joined, tally)
    write(job.file(number), shard)
    return len(counts)


def do_all(job: Job, numbers: list[int], workers: int) -> Iterator[int]:
    """Do these shards; yields the number of rows of each as it is done.

    Raises:
        InputError: a worker process was killed.
    """
    if workers == 1:
        yield from (do_shard(job, number) for number in numbers)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(job, stop)
    )
    try:
        waiting = [pool.submit(_do_shard, number) for number in numbers]
        for done in as_completed(waiting):
            yield done.result()
    except BrokenProcessPool:
        raise InputError(
            f"{job.folder}: a worker process was killed (by hand, or for want of memory); what is "
            "done is kept: run the same command again, with fewer --workers if need be"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_worker: tuple[Job, Event] | None = None
"""What a worker process works on."""


def _start_worker(job: Job, stop: Event) -> None:
    # An interrupt reaches every process of the terminal; only the parent is to act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        # Killed, the parent says nothing, and its workers would wait for it for ever.
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    global _worker  # noqa: PLW0603
    _worker = job, stop


def _do_shard(number: int) -> int:
    assert _worker is not None
    job, stop = _worker
    return do_shard(job, number, stop)
