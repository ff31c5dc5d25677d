"""Shared memory for batches that is used again once the training process has let go of it.

A fresh page of shared memory costs more than what is written to it: a tenth of a worker's time.
Each worker therefore has a few blocks of its own, made once. The training process gives a block
back by dropping the last tensor that lies in it; nobody has to say so. A worker that finds all its
blocks in use takes fresh memory, so it never waits and nothing is ever overwritten.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from pretrain.data.plan import Batch

SPARE = 2
"""Blocks a worker needs beyond those kept ready: one being filled, one in the step."""

_numbers = itertools.count()
_known: weakref.WeakValueDictionary[int, Blocks] = weakref.WeakValueDictionary()


class Blocks:
    """``owners`` times ``each`` blocks of ``size`` bytes.

    Made by the training process; workers inherit or unpickle it.
    """

    def __init__(self, owners: int, each: int, size: int) -> None:
        self.each = each
        self.size = size
        self.number = next(_numbers)
        # Not touched here: memory is taken when it is first written to.
        self._memory = shared_memory(owners * each * size)
        self._taken = shared_memory(owners * each).zero_()
        _known[self.number] = self

    def take(self, size: int) -> tuple[int | None, Tensor]:
        """Memory to write to, uint8 (size,), and the number of its block; None of fresh memory."""
        info = get_worker_info()
        owner = 0 if info is None else info.id
        if size <= self.size:
            for block in range(owner * self.each, (owner + 1) * self.each):
                if not self._taken[block]:
                    self._taken[block] = 1
                    start = block * self.size
                    return block, self._memory[start : start + size]
        return None, shared_memory(size)

    def give_back(self, block: int) -> None:
        """Let the block be used again."""
        self._taken[block] = 0

    def lend(self, block: int, size: int) -> Tensor:
        """The block's content, uint8 (size,); given back when its last tensor is gone."""
        start = block * self.size
        array: NDArray[np.uint8] = self._memory.numpy()[start : start + size]
        # torch keeps this very array as long as there is a tensor in its memory.
        weakref.finalize(array, self.give_back, block).atexit = False
        return torch.from_numpy(array)


@dataclass
class Parcel:
    """A batch on its way: where its pixels lie instead of the pixels.

    Attributes:
        batch: without its views or, where it has them, the pixels of its sources.
        sides: of the views by name, px.
        size: of all pixels together, bytes.
        blocks: number of the ``Blocks`` in the training process.
        block: where the pixels lie.
    """

    batch: Batch
    sides: dict[str, int]
    size: int
    blocks: int
    block: int

    def open(self) -> Batch:
        """In the training process: the batch with its pixels."""
        fill(self.batch, self.sides, _known[self.blocks].lend(self.block, self.size))
        return self.batch

    def pin_memory(self) -> Batch:
        """Called by the DataLoader, in the training process."""
        return self.open().pin_memory()


def fill(batch: Batch, sides: Mapping[str, int], pixels: Tensor) -> None:
    """Give a batch its pixels.

    Args:
        batch: with sources, if these are their pixels.
        sides: of the views by name, px.
        pixels: uint8 (N,): as ``split`` takes them, or of sources.
    """
    if batch.sources is None:
        batch.images = split(pixels, len(batch.rows), sides)
    else:
        batch.sources.pixels = pixels


def view_bytes(count: int, sides: Mapping[str, int]) -> int:
    """How much memory the views of ``count`` rows take."""
    return sum(3 * count * side**2 for side in sides.values())


def split(pixels: Tensor, count: int, sides: Mapping[str, int]) -> dict[str, Tensor]:
    """Views that lie one after the other: per name, uint8 (count, 3, side, side).

    The three values of a pixel lie together in memory.
    """
    lengths = [3 * count * side**2 for side in sides.values()]
    return {
        name: part.view(count, side, side, 3).permute(0, 3, 1, 2)
        for (name, side), part in zip(sides.items(), torch.split(pixels, lengths), strict=True)
    }


def shared_memory(count: int) -> Tensor:
    """uint8 (count,) that other processes can map, as torch's collation takes it."""
    storage: Any = torch.UntypedStorage._new_shared(count)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (count,), (1,))
