"""The work on one shard, and the processes that share out the shards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from pretrain.core.errors import InputError
from pretrain.data.index import Index
from pretrain.datasets.proposals import shards
from pretrain.datasets.proposals.filters import FilterSettings, select
from pretrain.datasets.proposals.proposer import Proposer


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


def do_shard(job: Job, number: int, stop: Event | None = None) -> int:
    """Propose for the rows of a shard and write it; the number of rows done.

    Nothing is written, and 0 returned, where ``stop`` is set meanwhile.
    """
    start = time.process_time()
    tally = shards.Tally()
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
    shards.write(
        shards.file_of(job.folder, number),
        shards.Shard(
            np.array(counts, np.int64),
            np.concatenate(boxes),
            np.concatenate(scores) if scores else None,
            tally,
        ),
    )
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
    # An interrupt reaches every process of the terminal; only the parent is to answer it.
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
