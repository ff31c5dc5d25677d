"""Batches of views from an index: one loader for a whole run, the same for any worker count."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from pretrain.core.errors import InputError
from pretrain.core.machine import cores
from pretrain.data.augment import AugmentSettings
from pretrain.data.batches import ViewDataset
from pretrain.data.index import Index
from pretrain.data.loader_stats import LoaderStats
from pretrain.data.pack import Pack
from pretrain.data.pairs import PairTable, check_pairs
from pretrain.data.plan import Batch, ViewPlan
from pretrain.data.sampler import BatchSampler
from pretrain.data.shared_memory import SPARE, Blocks, Parcel, view_bytes
from pretrain.data.views import ViewSettings

MAX_WORKERS = 8
MAX_PREFETCH = 4


def choose_workers(workers: int | None, local_world: int = 1) -> int:
    """The number of worker processes of one training process.

    Args:
        workers: of the settings; None: as many as this process' share of the cores, up to 8.
        local_world: training processes on this machine.
    """
    if workers is not None:
        return workers
    return max(1, min(MAX_WORKERS, cores() // local_world))


def choose_prefetch(batch_bytes: int, workers: int, free: int) -> int:
    """Batches that each worker keeps ready: up to 4, as shared memory allows; 0: not even one.

    Args:
        batch_bytes: of one batch of this process.
        workers: of this process.
        free: bytes of shared memory.
    """
    # Half of it: other processes of this machine have loaders too.
    return max(0, min(MAX_PREFETCH, free // 2 // max(1, batch_bytes * workers) - SPARE))


def _free_shared_memory() -> int:
    """Bytes; 0 where it cannot be told."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 0


def _batch_bytes(index: Index, plan: ViewPlan, batch: int, device_crops: bool) -> int:
    """Pixels of a batch, bytes; of images an estimate that few batches exceed."""
    if not device_crops:
        return view_bytes(batch, plan.sides)
    some = range(0, len(index), max(1, len(index) // 256))
    mean = sum(math.prod(index.size(row)) for row in some) / len(some)
    images = 2 * batch if plan.of_partner else batch
    return round(1.2 * 3 * mean * images)


class Loader:
    """Iterates over the batches of a run; its length is the number of steps.

    Attributes:
        feed: who has waited for whom so far.
    """

    def __init__(self, batches: DataLoader[Batch], blocks: Blocks | None) -> None:
        self._batches = batches
        self._blocks = blocks  # parcels are opened as long as these are there
        self.feed = LoaderStats(batches.num_workers)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._batches)
        while True:
            with self.feed.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            if isinstance(batch, InputError):
                raise batch
            if isinstance(batch, Parcel):
                batch = batch.open()
            self.feed.add(len(batch.rows), batch.seconds)
            yield batch


class BadImages:
    """Counts unreadable images and stops the run when there are too many.

    Tolerated are ``max_share`` of the images seen, and before the first pass over the data is
    complete, ``max_share`` of the data set.
    """

    def __init__(self, max_share: float, count: int) -> None:
        self.max_share = max_share
        self.count = count
        self.seen = 0
        self.bad = 0

    def add(self, batch: Batch) -> None:
        """Count one batch.

        Raises:
            InputError: too many images were unreadable.
        """
        self.seen += len(batch.rows) + len(batch.bad)
        self.bad += len(batch.bad)
        if self.bad > self.max_share * max(self.seen, self.count):
            row, path, reason = batch.bad[-1] if batch.bad else (-1, "", "")
            raise InputError(
                f"{path} (row {row}): {reason}; {self.bad} of {self.seen} images could not be "
                f"read, more than data.max_bad_images={self.max_share:g} allows; mend or remove "
                "them"
            )


def build_loader(
    index: Index,
    plan: ViewPlan,
    views: ViewSettings,
    augment: AugmentSettings,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    total_steps: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    prefetch: int | None = None,
    pin_memory: bool = False,
    device_crops: bool = False,
    pack: Pack | None = None,
    pairs: PairTable | None = None,
) -> Loader:
    """The batches of this rank from ``start_step`` to ``total_steps``, across all epochs.

    What a step holds depends on the seed and the step, neither on ``workers`` nor on where a run
    was resumed; all ranks' parts together do not depend on ``world``.

    Args:
        index: of the data set.
        plan: views wanted.
        views: how they are cut.
        augment: what is drawn for ``augment.apply``.
        batch_size: rows of a step, all ranks together.
        seed: of the run.
        start_step: first step.
        total_steps: step to stop before.
        rank: of this process.
        world: number of processes.
        workers: processes that decode; 0: decode in this process.
        prefetch: batches each worker keeps ready; None: as shared memory allows.
        pin_memory: for copies to a CUDA device.
        device_crops: hand over decoded images, for ``device.cut`` to cut the views from.
        pack: of this index, to take the images from instead of their files.
        pairs: of regions of this index, for a plan that asks for them.

    Raises:
        InputError: the batch is larger than the data set or cannot be shared evenly, the pack or
            the pairs are of another index, the plan asks for pairs and there are none, or
            ``augment.views`` names a view that the plan lacks.
    """
    check_pairs(pairs, plan, index)
    if pack is not None:
        pack.check(index)
    size = _batch_bytes(index, plan, batch_size // world, device_crops)
    room = choose_prefetch(size, max(1, workers), _free_shared_memory())
    ready = max(1, room) if prefetch is None else prefetch
    # Without room for blocks torch's way remains: memory that comes and goes with each batch.
    blocks = Blocks(max(1, workers), ready + SPARE, size) if room >= ready else None
    dataset = ViewDataset(
        index,
        plan,
        views,
        augment,
        seed,
        device_crops=device_crops,
        pack=pack,
        pairs=pairs,
        blocks=blocks,
    )
    batches: DataLoader[Batch] = DataLoader(
        dataset,
        batch_sampler=BatchSampler(
            len(index),
            batch_size,
            seed,
            start_step=start_step,
            total_steps=total_steps,
            rank=rank,
            world=world,
        ),
        num_workers=workers,
        prefetch_factor=ready if workers else None,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        # A generator of its own: starting the workers must not move the run's random state.
        generator=torch.Generator(),
        worker_init_fn=_start_worker,
    )
    return Loader(batches, blocks)


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    # A job's signals go to all its processes. It is the training process that answers them, and
    # until then it needs its workers; SIGTERM therefore counts only where it comes from there.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_when_told, daemon=True).start()


def _exit_when_told() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a worker process"
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
