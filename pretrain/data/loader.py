"""Batches of views from an index: one loader for a whole run, the same for any worker count."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch.utils.data import DataLoader

from pretrain.data.augment import AugmentSettings
from pretrain.data.batches import ViewDataset
from pretrain.data.blocks import SPARE, Blocks, Parcel
from pretrain.data.feed import Feed
from pretrain.data.index import Index
from pretrain.data.pack import Pack
from pretrain.data.plan import Batch, ViewPlan
from pretrain.data.readers import coco
from pretrain.data.sampler import BatchSampler
from pretrain.data.views import ViewSettings
from pretrain.errors import InputError
from pretrain.settings import Settings

MAX_WORKERS = 8
MAX_PREFETCH = 4

READER_VERSION = 1
"""Part of the cache's key; to be raised when a reader gives other records for the same file."""


class DataSettings(Settings):
    """Where the images are and how they are read.

    Attributes:
        reader: the format.
        annotations: the annotation file.
        images: the folder of the images.
        workers: processes that decode, per training process; None: up to 8, as cores allow.
        index: folder of the index; None: below ``$XDG_CACHE_HOME/hcl`` or ``~/.cache/hcl``.
        on_bad_box: "error", or "drop" to leave out and count boxes without area or outside their
            image. Official COCO train2017 has two boxes without area.
        max_bad_images: share of images that may be unreadable before the run stops.
    """

    reader: Literal["coco"] = "coco"
    annotations: str
    images: str
    workers: Annotated[int, Field(ge=0)] | None = None
    index: str | None = None
    on_bad_box: coco.OnBadBox = "error"
    max_bad_images: Annotated[float, Field(ge=0, le=1)] = 0.001


def open_index(settings: DataSettings) -> Index:
    """Open the index of these settings; build it where there is none yet.

    Any number of processes may call this at once.

    Raises:
        InputError: the source is at fault, or ``settings.index`` is an index of another source.
    """
    annotations, images = _full(settings.annotations), _full(settings.images)
    try:
        stat = annotations.stat()
    except OSError as error:
        raise InputError(
            f"{annotations}: cannot read the annotation file ({error.strerror}); "
            "check data.annotations"
        ) from None
    options = {
        "reader": settings.reader,
        "reader_version": READER_VERSION,
        "on_bad_box": settings.on_bad_box,
        "annotations": str(annotations),
        "images": str(images),
    }
    source = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    key = hashlib.sha256(json.dumps([options, source], sort_keys=True).encode()).hexdigest()
    folder = _full(settings.index) if settings.index else _cache() / f"index-{key[:16]}"
    with _lock(folder):
        if not Index.exists(folder):
            report = coco.read(annotations, images, settings.on_bad_box)
            Index.build(report, folder, options)
    index = Index.open(folder)
    written = index.meta["source"]
    same = all(written[key] == source[key] for key in source)
    # A copy has another time of change, but the same content.
    if index.meta["options"] != options or not (same or _sha256(annotations) == written["sha256"]):
        raise InputError(
            f"{folder}: this index was built from {written['path']} with other options or before "
            "that file changed; delete the folder, or set data.index to another one"
        )
    return index


def choose_workers(workers: int | None, local_world: int = 1) -> int:
    """The number of worker processes of one training process.

    Args:
        workers: of the settings; None: as many as this process' share of the cores, up to 8.
        local_world: training processes on this machine.
    """
    if workers is not None:
        return workers
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0)) // local_world))


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
        return batch * len(plan.crops) * 3 * plan.size**2
    some = range(0, len(index), max(1, len(index) // 256))
    mean = sum(math.prod(index.size(row)) for row in some) / len(some)
    return round(1.2 * 3 * mean * batch)


class Loader:
    """Iterates over the batches of a run; its length is the number of steps.

    Attributes:
        feed: who has waited for whom so far.
    """

    def __init__(self, batches: DataLoader[Batch], blocks: Blocks | None) -> None:
        self._batches = batches
        self._blocks = blocks  # parcels are opened as long as these are there
        self.feed = Feed(batches.num_workers)

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

    Raises:
        InputError: the batch is larger than the data set or cannot be shared evenly, or the pack
            is of another index.
    """
    if pack is not None:
        pack.check(index)
    size = _batch_bytes(index, plan, batch_size // world, device_crops)
    room = choose_prefetch(size, max(1, workers), _free_shared_memory())
    ready = max(1, room) if prefetch is None else prefetch
    # Without room for blocks torch's way remains: memory that comes and goes with each batch.
    blocks = Blocks(max(1, workers), ready + SPARE, size) if room >= ready else None
    dataset = ViewDataset(
        index, plan, views, augment, seed, device_crops=device_crops, pack=pack, blocks=blocks
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


def _full(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _full(base) / "hcl"


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process at a time build the index, so that the others need not read the source.

    Where the file system has no locks they all build, and the first to finish wins.
    """
    if Index.exists(folder):
        yield
        return
    lock = folder.parent / f".{folder.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write the index ({error.strerror}); set data.index to a folder "
            "that can be written"
        ) from None
    with file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
