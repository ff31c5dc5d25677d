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
        self._scratch = Scratch()
        self._staging = _Staging()

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
        target: _Views | _Pieces
        if self.device_crops:
            target = _Pieces(names, self._staging, memory)
        else:
            target = _Views(len(names), len(keys), self.plan.size, memory)
        batch = self._batch(keys, names, target)
        pixels = target.finish(batch)
        batch.seconds = time.perf_counter() - start
        if self.blocks is None or memory.block is None:
            fill(batch, names, pixels)
            return batch
        return Parcel(batch, names, tuple(pixels.shape), self.blocks.number, memory.block)

    def _batch(
        self, keys: Sequence[tuple[int, int]], names: Sequence[str], target: _Views | _Pieces
    ) -> Batch:
        """The batch but for its pixels, which go to ``target``."""
        count = len(keys)
        tables = np.empty((len(names), count, PARAMETERS), np.float32)
        batch = Batch(
            images={},
            augmentation=dict(zip(names, torch.from_numpy(tables), strict=True)),
            rows=torch.empty(count, dtype=torch.int64),
            fallback=torch.empty(count, dtype=torch.bool),
            bad=[],
        )
        for place, (epoch, wanted) in enumerate(keys):
            row, image = self._read(wanted, batch.bad)
            size = self.index.size(row)
            windows, generators, fallback = choose_windows(
                self.index.boxes(row),
                size,
                self.plan,
                self.views,
                seed=self.seed,
                epoch=epoch,
                row=row,
            )
            there = (image.shape[2], image.shape[1])
            target.put(place, image, [scaled(windows[name], size, there) for name in names])
            for number, name in enumerate(names):
                tables[number, place] = draw(generators[name], self.augment, self.plan.size)
            batch.rows[place] = row
            batch.fallback[place] = fallback
        return batch

    def _read(self, wanted: int, bad: list[tuple[int, str, str]]) -> tuple[int, Tensor]:
        """The first readable image from the wanted row on, and its row.

        The image may lie where the next one will be read to.
        """
        first = len(bad)
        for step in range(min(len(self.index), MAX_REPLACEMENTS)):
            row = (wanted + step) % len(self.index)
            try:
                if self.pack is not None:
                    return row, self.pack.image(row)
                return row, read_image(self.index.path(row), self.index.size(row), self._scratch)
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
        """There will be no batch."""
        if self._blocks is not None and self.block is not None:
            self._blocks.give_back(self.block)


class _Views:
    """Views cut into the memory of their batch."""

    def __init__(self, views: int, count: int, size: int, memory: _Memory) -> None:
        self._size = size
        self._pixels = memory.take(views * count * size * size * 3).view(
            views, count, size, size, 3
        )
        self._views = self._pixels.permute(0, 1, 4, 2, 3)

    def put(self, place: int, image: Tensor, windows: list[Window]) -> None:
        for number, window in enumerate(windows):
            resize(image, window, self._size, out=self._views[number, place])

    def finish(self, batch: Batch) -> Tensor:
        """All views, (views, B, S, S, 3)."""
        return self._pixels


class _Pieces:
    """What the windows show of every image, for the device to cut the views from."""

    def __init__(self, names: Sequence[str], staging: _Staging, memory: _Memory) -> None:
        self._names = names
        self._staging = staging
        self._memory = memory
        self._sizes: list[tuple[int, int]] = []
        self._windows: list[NDArray[np.int64]] = []
        staging.used = 0

    def put(self, place: int, image: Tensor, windows: list[Window]) -> None:
        corners = np.array(windows, np.int64)
        x, y = corners[:, :2].min(0).tolist()
        right, bottom = corners[:, 2:].max(0).tolist()
        # A copy: the image's memory is that of the next one.
        self._staging.append(image[:, y:bottom, x:right].permute(1, 2, 0).numpy())
        self._sizes.append((right - x, bottom - y))
        self._windows.append(corners - (x, y, x, y))

    def finish(self, batch: Batch) -> Tensor:
        """Give the batch its sources but for their pixels, and return these, (N,)."""
        pixels = self._memory.take(self._staging.used)
        pixels.numpy()[:] = self._staging.bytes[: self._staging.used]
        sizes = np.array(self._sizes, np.int64)
        lengths = 3 * sizes.prod(1)
        width, height = sizes.max(0).tolist()
        windows = torch.from_numpy(np.stack(self._windows, axis=1))
        batch.sources = Sources(
            torch.empty(0, dtype=torch.uint8),
            torch.from_numpy(np.cumsum(lengths) - lengths),
            torch.from_numpy(sizes),
            dict(zip(self._names, windows, strict=True)),
            (width, height),
        )
        return pixels


class _Staging:
    """Memory that grows to what a batch needs and is kept: fresh pages cost more than a copy."""

    def __init__(self) -> None:
        self.bytes = np.empty(0, np.uint8)
        self.used = 0

    def append(self, pixels: NDArray[np.uint8]) -> None:
        end = self.used + pixels.size
        if end > len(self.bytes):
            larger = np.empty(2 * end, np.uint8)
            larger[: self.used] = self.bytes[: self.used]
            self.bytes = larger
        self.bytes[self.used : end].reshape(pixels.shape)[:] = pixels
        self.used = end
