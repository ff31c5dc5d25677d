"""Batches of views from an index: one loader for a whole run, the same for any worker count."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretrain.data.augment import PARAMETERS, AugmentSettings, draw
from pretrain.data.decode import ImageError, read_image
from pretrain.data.index import Index
from pretrain.data.plan import Batch, ViewPlan
from pretrain.data.sampler import BatchSampler
from pretrain.data.source import DataSettings, open_index
from pretrain.data.views import ViewSettings, cut
from pretrain.errors import InputError

__all__ = [
    "BadImages",
    "DataSettings",
    "Loader",
    "ViewDataset",
    "build_loader",
    "choose_workers",
    "open_index",
]

MAX_WORKERS = 8
MAX_REPLACEMENTS = 100
"""Unreadable images in a row after which the data set itself must be out of reach."""


def choose_workers(workers: int | None, local_world: int = 1) -> int:
    """The number of worker processes of one training process.

    Args:
        workers: of the settings; None: as many as this process' share of the cores, up to 8.
        local_world: training processes on this machine.
    """
    if workers is not None:
        return workers
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0)) // local_world))


class ViewDataset(Dataset[Batch]):
    """The views of lists of ``(epoch, row)``, a batch at a time.

    An image that cannot be read is replaced by that of the next row, the last followed by the
    first, and named in ``Batch.bad``.
    """

    def __init__(
        self,
        index: Index,
        plan: ViewPlan,
        views: ViewSettings,
        augment: AugmentSettings,
        seed: int,
    ) -> None:
        self.index = index
        self.plan = plan
        self.views = views
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch | InputError:
        """The batch of these keys; an error to raise is handed over like a batch.

        Raised in a worker it would arrive as a page of traceback.
        """
        try:
            return self._batch(keys)
        except InputError as error:
            return error

    def _batch(self, keys: Sequence[tuple[int, int]]) -> Batch:
        count, names = len(keys), [crop.name for crop in self.plan.crops]
        shape = (count, 3, self.plan.size, self.plan.size)
        batch = Batch(
            images={name: torch.empty(shape, dtype=torch.uint8) for name in names},
            augmentation={name: torch.empty(count, PARAMETERS) for name in names},
            rows=torch.empty(count, dtype=torch.int64),
            fallback=torch.empty(count, dtype=torch.bool),
            bad=[],
        )
        for place, (epoch, wanted) in enumerate(keys):
            row, image = self._read(wanted, batch.bad)
            image_views = cut(
                image,
                self.index.boxes(row),
                self.plan,
                self.views,
                seed=self.seed,
                epoch=epoch,
                row=row,
            )
            for name in names:
                batch.images[name][place] = image_views.images[name]
                parameters = draw(image_views.generators[name], self.augment, self.plan.size)
                batch.augmentation[name][place] = torch.from_numpy(parameters)
            batch.rows[place] = row
            batch.fallback[place] = image_views.fallback
        return batch

    def _read(self, wanted: int, bad: list[tuple[int, str, str]]) -> tuple[int, Tensor]:
        """The first readable image from the wanted row on, and its row."""
        first = len(bad)
        for step in range(min(len(self.index), MAX_REPLACEMENTS)):
            row = (wanted + step) % len(self.index)
            path = self.index.path(row)
            try:
                return row, read_image(path, self.index.size(row))
            except ImageError as error:
                bad.append((row, str(path), str(error)))
        _, path_name, reason = bad[first]
        raise InputError(
            f"{path_name}: {reason}; neither could the {len(bad) - first - 1} images after it be "
            "read; check data.images"
        )


class Loader:
    """Iterates over the batches of a run; its length is the number of steps."""

    def __init__(self, batches: DataLoader[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            if isinstance(batch, InputError):
                raise batch
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
    pin_memory: bool = False,
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
        pin_memory: for copies to a CUDA device.

    Raises:
        InputError: the batch is larger than the data set or cannot be shared evenly.
    """
    batches: DataLoader[Batch] = DataLoader(
        ViewDataset(index, plan, views, augment, seed),
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
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        # A generator of its own: starting the workers must not move the run's random state.
        generator=torch.Generator(),
        worker_init_fn=_start_worker,
    )
    return Loader(batches)


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
