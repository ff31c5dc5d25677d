"""Which images make which step: several of every class, a pure function of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from pretrain.core.errors import InputError
from pretrain.data import random_streams
from pretrain.data.sampler import permutation

SAMPLES = 2**32 - 4
"""Stream of the images drawn of a class; beside those of ``pretrain.data.random_streams``."""


class Draw(NamedTuple):
    """One image of a step.

    Attributes:
        epoch: of the step.
        row: of the data set.
        slot: number of the draw within its class; keeps two draws of one image apart.
    """

    epoch: int
    row: int
    slot: int


class UniqueClassSampler(Sampler[list[Draw]]):
    """The share of one process of every step.

    An epoch visits every class once, in an order of its own, ``classes`` of them a step; what is
    left over is not visited. Of each class come ``samples`` images, without repetition unless it
    has fewer. A step's images stand class after class; process ``r`` gets the ``r``-th contiguous
    part of them, so the step does not depend on the number of processes.

    Args:
        rows: of the training images, N.
        labels: their classes, N.
        classes: of a step.
        samples: of a class.
        seed: of the run.
        start_step: first step to yield.
        total_steps: step to stop before.
        rank: of this process.
        world: number of processes.

    Raises:
        InputError: fewer classes than a step needs, or the step cannot be shared evenly.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        *,
        classes: int,
        samples: int,
        seed: int,
        start_step: int = 0,
        total_steps: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        present, inverse = np.unique(labels, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        ends = np.cumsum(np.bincount(inverse, minlength=len(present)))
        self.members = np.split(rows[order], ends[:-1])
        if classes > len(self.members):
            raise InputError(
                f"sampler.classes: {classes} a step, but there are {len(self.members)} classes to "
                f"train on; set sampler.classes={len(self.members)} or less"
            )
        if classes * samples % world:
            raise InputError(
                f"sampler: {classes} x {samples} images a step do not divide over {world} processes"
            )
        self.classes, self.samples, self.seed = classes, samples, seed
        self.start_step, self.total_steps = start_step, total_steps
        self.rank, self.world = rank, world

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in one pass over the classes."""
        return len(self.members) // self.classes

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.classes * self.samples // self.world
        for step in range(self.start_step, self.total_steps):
            draws = self.step(step)
            yield draws[self.rank * share : (self.rank + 1) * share]

    def step(self, step: int) -> list[Draw]:
        """All images of a step, class after class."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = permutation(self.seed, epoch, len(self.members))
        chosen = order[place * self.classes : (place + 1) * self.classes]
        return [draw for label in chosen for draw in self._of_class(epoch, int(label))]

    def _of_class(self, epoch: int, label: int) -> list[Draw]:
        members = self.members[label]
        rng = random_streams.generator(self.seed, epoch, label, SAMPLES)
        rows = rng.choice(members, self.samples, replace=len(members) < self.samples)
        return [Draw(epoch, int(row), slot) for slot, row in enumerate(rows)]
