"""Which rows make up which step: a pure function of the seed and the step, so no state to save."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from pretrain.core.errors import InputError
from pretrain.data import random_streams


def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of all rows in an epoch, int64 (count,)."""
    order = random_streams.generator(seed, epoch, 0, random_streams.SHUFFLE).permutation(count)
    return order.astype(np.int64, copy=False)


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """The share of one rank of every step, as lists of ``(epoch, row)``.

    The rows of a step do not depend on ``world``: rank ``r`` gets the ``r``-th contiguous part of
    them. An epoch has ``count // batch_size`` steps; what is left over is not visited in that
    epoch.

    Args:
        count: rows of the index.
        batch_size: rows of a step, all ranks together.
        seed: of the run.
        start_step: first step to yield; a resumed run goes on as if never interrupted.
        total_steps: step to stop before.
        rank: of this process.
        world: number of processes.

    Raises:
        InputError: the batch is larger than the data set or cannot be shared evenly.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        start_step: int,
        total_steps: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        assert 0 <= rank < world, f"rank {rank} of {world}"
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: it must be at least 1")
        if batch_size > count:
            raise InputError(
                f"batch size {batch_size} exceeds the {count} images of the data set; "
                f"use a batch size of at most {count}"
            )
        if batch_size % world:
            raise InputError(
                f"batch size {batch_size} (all processes together) cannot be shared evenly by "
                f"{world} processes; use a multiple of {world}"
            )
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.total_steps = total_steps
        self.rank = rank
        self.world = world

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the data."""
        return self.count // self.batch_size

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        local = self.batch_size // self.world
        order, order_epoch = np.empty(0, np.int64), -1
        for step in range(self.start_step, self.total_steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = permutation(self.seed, epoch, self.count), epoch
            start = batch * self.batch_size + self.rank * local
            yield [(epoch, int(row)) for row in order[start : start + local]]
