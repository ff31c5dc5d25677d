"""Where a batch's pixels go: views cut by the worker, or whole images for the device to cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from pretrain.data.decode import Scratch
from pretrain.data.plan import Batch, Sources, ViewPlan
from pretrain.data.shared_memory import Blocks, shared_memory, split, view_bytes
from pretrain.data.views import Window, resize


class Memory:
    """Memory for one batch.

    Attributes:
        block: the one of ``blocks`` that was taken, if any.
    """

    def __init__(self, blocks: Blocks | None) -> None:
        self.block: int | None = None
        self._blocks = blocks

    def take(self, size: int) -> Tensor:
        """uint8 (size,); in a worker process where the training process can read it."""
        if self._blocks is not None:
            self.block, memory = self._blocks.take(size)
            return memory
        if get_worker_info() is not None:
            return shared_memory(size)
        return torch.empty(size, dtype=torch.uint8)

    def give_back(self) -> None:
        """The batch will not lie here."""
        if self._blocks is not None and self.block is not None:
            self._blocks.give_back(self.block)
        self.block = None


class BatchBuffer(Protocol):
    """Takes the images of a batch, one place after the other."""

    def scratch(self, place: int, *, partner: bool = False) -> Scratch:
        """Memory for the row's image, or for that of its partner."""

    def put(
        self, place: int, image: Tensor, partner: Tensor | None, windows: Sequence[Window]
    ) -> None:
        """Take the images, uint8 (3, H, W), and the windows of all crops of the plan.

        Without a partner all windows are of the row's own image.
        """

    def finish(self, batch: Batch) -> Tensor:
        """All pixels, uint8 (N,), for ``blocks.fill``; gives the batch its sources, if any."""


class ViewBuffer:
    """Views cut into the memory of their batch."""

    def __init__(self, plan: ViewPlan, count: int, memory: Memory) -> None:
        self._plan = plan
        self._of_partner = plan.of_partner
        self._pixels = memory.take(view_bytes(count, plan.sides))
        self._views = split(self._pixels, count, plan.sides)
        self._scratch, self._partner_scratch = Scratch(), Scratch()

    def scratch(self, place: int, *, partner: bool = False) -> Scratch:
        """The same memory for each place."""
        return self._partner_scratch if partner else self._scratch

    def put(
        self, place: int, image: Tensor, partner: Tensor | None, windows: Sequence[Window]
    ) -> None:
        """Cut the views."""
        for crop, window in zip(self._plan.crops, windows, strict=True):
            shown = image if partner is None or crop.name not in self._of_partner else partner
            resize(shown, window, self._plan.side(crop), out=self._views[crop.name][place])

    def finish(self, batch: Batch) -> Tensor:
        """All views."""
        return self._pixels


class ImageBuffer:
    """Whole images, decoded into the memory of their batch where the decoder can.

    Args:
        plan: of the views.
        sizes: width and height of the rows' images, px.
        partners: of their partners; None: there is none. Needed if ``plan.of_partner``.
        memory: of the batch.
    """

    def __init__(
        self,
        plan: ViewPlan,
        sizes: Sequence[tuple[int, int]],
        partners: Sequence[tuple[int, int] | None],
        memory: Memory,
    ) -> None:
        self._plan = plan
        self._count = len(sizes)
        others = [size or (0, 0) for size in partners] if plan.of_partner else []
        self._sizes = np.array([*sizes, *others], np.int64)
        self._alone = np.zeros(self._count, np.bool_)
        ends = np.cumsum(3 * self._sizes.prod(1))
        self._memory = memory
        self._pixels = memory.take(max(1, int(ends[-1])))
        self._slots = np.split(self._pixels.numpy(), ends[:-1])
        self._windows = np.empty((len(plan.crops), self._count, 4), np.int64)
        self._replaced = False

    def scratch(self, place: int, *, partner: bool = False) -> Scratch:
        """The image's place in the memory of the batch."""
        return Scratch(self._slots[place + self._count * partner])

    def put(
        self, place: int, image: Tensor, partner: Tensor | None, windows: Sequence[Window]
    ) -> None:
        """Keep the images."""
        self._store(place, image)
        if partner is not None:
            self._store(self._count + place, partner)
        self._alone[place] = partner is None
        self._windows[:, place] = windows

    def _store(self, slot: int, image: Tensor) -> None:
        size = (image.shape[2], image.shape[1])
        pixels = image.permute(1, 2, 0)
        if size != tuple(self._sizes[slot]):  # not the image expected: it gets its own memory
            self._sizes[slot] = size
            self._slots[slot] = pixels.numpy().flatten()
            self._replaced = True
        elif pixels.data_ptr() != self._slots[slot].ctypes.data:
            self._slots[slot].reshape(pixels.shape)[:] = pixels.numpy()

    def finish(self, batch: Batch) -> Tensor:
        """All images; where they lie goes into the batch's sources."""
        # Of the slots, not the images: that of a partner that could not be read stays unused.
        lengths = np.array([len(slot) for slot in self._slots], np.int64)
        offsets = np.cumsum(lengths) - lengths
        if self._plan.of_partner:
            alone = np.flatnonzero(self._alone)
            offsets[self._count + alone] = offsets[alone]
            self._sizes[self._count + alone] = self._sizes[alone]
        width, height = self._sizes.max(0).tolist()
        batch.sources = Sources(
            torch.empty(0, dtype=torch.uint8),
            torch.from_numpy(offsets),
            torch.from_numpy(self._sizes),
            dict(zip(self._plan.sides, torch.from_numpy(self._windows), strict=True)),
            (width, height),
            self._plan.of_partner,
        )
        if not self._replaced:
            return self._pixels
        together = torch.from_numpy(np.concatenate(self._slots))
        self._memory.give_back()
        return together
