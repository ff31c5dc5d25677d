"""Batches of views, each made in one place from first to last."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from pretrain.data.augment import PARAMETERS, AugmentSettings, draw
from pretrain.data.blocks import Blocks, Parcel, fill, shared_memory
from pretrain.data.decode import ImageError, Scratch, read_image
from pretrain.data.index import Index
from pretrain.data.pack import Pack
from pretrain.data.plan import Batch, Sources, ViewPlan
from pretrain.data.views import ViewSettings, Window, choose_windows, resize, scaled
from pretrain.data.weak import choose_row
from pretrain.errors import InputError

MAX_REPLACEMENTS = 100
"""Unreadable images in a row after which the data set itself must be out of reach."""


class ViewDataset(Dataset[Batch]):
    """The views of lists of ``(epoch, row)``, a batch at a time.

    An image that cannot be read is replaced by that of the next row, the last followed by the
    first, and named in ``Batch.bad``.

    Args:
        index: of the data set.
        plan: the views wanted.
        views: how they are cut.
        augment: what is drawn for ``augment.apply``.
        seed: of the run.
        device_crops: hand over decoded images and windows instead of views.
        pack: to take images from instead of files; windows are chosen as for the files.
        blocks: memory for the batches, which are then handed over as parcels.
    """

    def __init__(
        self,
        index: Index,
        plan: ViewPlan,
        views: ViewSettings,
        augment: AugmentSettings,
        seed: int,
        *,
        device_crops: bool = False,
        pack: Pack | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        self.index = index
        self.plan = plan
        self.views = views
        self.augment = augment
        self.seed = seed
        self.device_crops = device_crops
        self.pack = pack
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch | Parcel | InputError:
        """The batch of these keys; an error to raise is handed over like a batch.

        Raised in a worker it would arrive as a page of traceback.
        """
        memory = _Memory(self.blocks)
        try:
            return self._hand_over(keys, memory)
        except InputError as error:
            memory.give_back()
            return error

    def _hand_over(self, keys: Sequence[tuple[int, int]], memory: _Memory) -> Batch | Parcel:
        start = time.perf_counter()
        names = tuple(crop.name for crop in self.plan.crops)
        # Who stands in for whom must be known before any memory is taken.
        images = [
            choose_row(self.index, self.views, seed=self.seed, epoch=epoch, row=row)
            for epoch, row in keys
        ]
        target: _Views | _Images
        if self.device_crops:
            target = _Images(len(names), [self._size(row) for row in images], memory)
        else:
            target = _Views(len(names), len(keys), self.plan.size, memory)
        batch = self._batch(keys, images, names, target)
        pixels = target.finish(batch, names)
        batch.seconds = time.perf_counter() - start
        if self.blocks is None or memory.block is None:
            fill(batch, names, pixels)
            return batch
        return Parcel(batch, names, tuple(pixels.shape), self.blocks.number, memory.block)

    def _size(self, row: int) -> tuple[int, int]:
        """Width and height of the image as it will be read, px."""
        return self.index.size(row) if self.pack is None else self.pack.size(row)

    def _batch(
        self,
        keys: Sequence[tuple[int, int]],
        images: Sequence[int],
        names: Sequence[str],
        target: _Views | _Images,
    ) -> Batch:
        """The batch but for its pixels, which go to ``target``; ``images`` are the rows to read."""
        count = len(keys)
        tables = np.empty((len(names), count, PARAMETERS), np.float32)
        batch = Batch(
            images={},
            augmentation=dict(zip(names, torch.from_numpy(tables), strict=True)),
            rows=torch.empty(count, dtype=torch.int64),
            fallback=torch.empty(count, dtype=torch.bool),
            bad=[],
        )
        # All choices first: code that runs again at once is still in the core's cache, and takes
        # half the time that it takes after the decoding of an image.
        choices = [
            self._choose(epoch, image, row, tables[:, place])
            for place, ((epoch, row), image) in enumerate(zip(keys, images, strict=True))
        ]
        for place, ((epoch, _), wanted) in enumerate(zip(keys, images, strict=True)):
            row, image = self._read(wanted, batch.bad, target.scratch(place))
            if row != wanted:
                choices[place] = self._choose(epoch, row, row, tables[:, place])
            windows, fallback = choices[place]
            size, there = self.index.size(row), (image.shape[2], image.shape[1])
            target.put(place, image, [scaled(window, size, there) for window in windows])
            batch.rows[place] = row
            batch.fallback[place] = fallback
        return batch

    def _choose(
        self, epoch: int, image: int, row: int, parameters: NDArray[np.float32]
    ) -> tuple[list[Window], bool]:
        """Every view's window, and whether it is a fallback; writes the views' parameters.

        The boxes are those of ``image``, the random streams those of ``row``.
        """
        windows, generators, fallback = choose_windows(
            self.index.boxes(image),
            self.index.size(image),
            self.plan,
            self.views,
            seed=self.seed,
            epoch=epoch,
            row=row,
        )
        for number, crop in enumerate(self.plan.crops):
            parameters[number] = draw(generators[crop.name], self.augment, self.plan.size)
        return [windows[crop.name] for crop in self.plan.crops], fallback

    def _read(
        self, wanted: int, bad: list[tuple[int, str, str]], scratch: Scratch
    ) -> tuple[int, Tensor]:
        """The first readable image from the wanted row on, and its row.

        The image may lie in ``scratch``.
        """
        first = len(bad)
        for step in range(min(len(self.index), MAX_REPLACEMENTS)):
            row = (wanted + step) % len(self.index)
            try:
                if self.pack is not None:
                    return row, self.pack.image(row)
                return row, read_image(self.index.path(row), self.index.size(row), scratch)
            except ImageError as error:
                bad.append((row, str(self.index.path(row)), str(error)))
        _, path_name, reason = bad[first]
        raise InputError(
            f"{path_name}: {reason}; neither could the {len(bad) - first - 1} images after it be "
            "read; check data.images"
        )


class _Memory:
    """Where one batch's pixels go."""

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


class _Views:
    """Views cut into the memory of their batch."""

    def __init__(self, views: int, count: int, size: int, memory: _Memory) -> None:
        self._size = size
        self._pixels = memory.take(views * count * size * size * 3).view(
            views, count, size, size, 3
        )
        self._views = self._pixels.permute(0, 1, 4, 2, 3)
        self._scratch = Scratch()

    def scratch(self, place: int) -> Scratch:
        return self._scratch

    def put(self, place: int, image: Tensor, windows: list[Window]) -> None:
        for number, window in enumerate(windows):
            resize(image, window, self._size, out=self._views[number, place])

    def finish(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """All views, (views, B, S, S, 3)."""
        return self._pixels


class _Images:
    """Whole images, decoded into the memory of their batch where the decoder can."""

    def __init__(self, views: int, sizes: list[tuple[int, int]], memory: _Memory) -> None:
        self._sizes = np.array(sizes, np.int64)
        ends = np.cumsum(3 * self._sizes.prod(1))
        self._memory = memory
        self._pixels = memory.take(max(1, int(ends[-1])))
        self._slots = np.split(self._pixels.numpy(), ends[:-1])
        self._windows = np.empty((views, len(sizes), 4), np.int64)
        self._replaced = False

    def scratch(self, place: int) -> Scratch:
        return Scratch(self._slots[place])

    def put(self, place: int, image: Tensor, windows: list[Window]) -> None:
        size = (image.shape[2], image.shape[1])
        pixels = image.permute(1, 2, 0)
        if size != tuple(self._sizes[place]):  # the image of another row: it gets its own memory
            self._sizes[place] = size
            self._slots[place] = pixels.numpy().flatten()
            self._replaced = True
        elif pixels.data_ptr() != self._slots[place].ctypes.data:
            self._slots[place].reshape(pixels.shape)[:] = pixels.numpy()
        self._windows[:, place] = windows

    def finish(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """Give the batch its sources but for their pixels, and return these, (N,)."""
        lengths = 3 * self._sizes.prod(1)
        width, height = self._sizes.max(0).tolist()
        batch.sources = Sources(
            torch.empty(0, dtype=torch.uint8),
            torch.from_numpy(np.cumsum(lengths) - lengths),
            torch.from_numpy(self._sizes),
            dict(zip(names, torch.from_numpy(self._windows), strict=True)),
            (width, height),
        )
        if not self._replaced:
            return self._pixels
        together = torch.from_numpy(np.concatenate(self._slots))
        self._memory.give_back()
        return together
