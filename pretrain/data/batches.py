"""Batches of views, each made in one place from first to last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pretrain.core.errors import InputError
from pretrain.data import random_streams
from pretrain.data.augment import PARAMETERS, AugmentSettings, draw
from pretrain.data.batch_buffers import BatchBuffer, ImageBuffer, Memory, ViewBuffer
from pretrain.data.decode import ImageError, Scratch, read_image
from pretrain.data.index import Index
from pretrain.data.pack import Pack
from pretrain.data.pairs import PairTable, choose_pair, pair_stream
from pretrain.data.plan import Batch, ViewPlan
from pretrain.data.shared_memory import Blocks, Parcel, fill
from pretrain.data.views import ViewSettings, Window, choose_windows, count_objects, scaled

MAX_REPLACEMENTS = 100
"""Unreadable images in a row after which the data set itself must be out of reach."""

DRAWS = 1000
"""Random images looked at, in place of one with too few boxes, before all are in order."""


@dataclass(frozen=True)
class _Choice:
    """What the views of a row show.

    Attributes:
        windows: of the crops, in pixels of the image files.
        fallback: the row had too little for its plan.
        partner: row of the image that the crops of ``plan.of_partner`` are cut from; None: the
            row's own.
    """

    windows: list[Window]
    fallback: bool
    partner: int | None


class ViewDataset(Dataset[Batch]):
    """The views of lists of ``(epoch, row)``, a batch at a time.

    An image that cannot be read is replaced by that of the next row, the last followed by the
    first, and named in ``Batch.bad``. A partner that cannot be read is named there too; the
    region of the row's own image then stands for both of the pair.

    Args:
        index: of the data set.
        plan: the views wanted.
        views: how they are cut.
        augment: what is drawn for ``augment.apply``.
        seed: of the run.
        device_crops: hand over decoded images and windows instead of views.
        pack: to take images from instead of files; windows are chosen as for the files.
        pairs: of regions of this index; needed where the plan asks for pairs.
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
        pairs: PairTable | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        assert pairs is not None or not plan.pairs, "a plan of pairs without a table of them"
        self.index = index
        self.plan = plan
        self.views = views
        self.colors = augment.by_view([crop.name for crop in plan.crops])
        self.seed = seed
        self.device_crops = device_crops
        self.pack = pack
        self.pairs = pairs if plan.pairs else None
        self.blocks = blocks
        self._of_partner = [crop.name in plan.of_partner for crop in plan.crops]

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch | Parcel | InputError:
        """The batch of these keys; an error to raise is handed over like a batch.

        Raised in a worker it would arrive as a page of traceback.
        """
        memory = Memory(self.blocks)
        try:
            return self._hand_over(keys, memory)
        except InputError as error:
            memory.give_back()
            return error

    def _hand_over(self, keys: Sequence[tuple[int, int]], memory: Memory) -> Batch | Parcel:
        start = time.perf_counter()
        # Who stands in for whom must be known before any memory is taken.
        images = [
            choose_row(self.index, self.views, seed=self.seed, epoch=epoch, row=row)
            for epoch, row in keys
        ]
        tables = np.empty((len(self.plan.crops), len(keys), PARAMETERS), np.float32)
        # All choices first: code that runs again at once is still in the core's cache, and takes
        # half the time that it takes after the decoding of an image.
        choices = [
            self._choose(epoch, image, row, tables[:, place])
            for place, ((epoch, row), image) in enumerate(zip(keys, images, strict=True))
        ]
        target: BatchBuffer
        if self.device_crops:
            partners = [None if c.partner is None else self._size(c.partner) for c in choices]
            sizes = [self._size(row) for row in images]
            target = ImageBuffer(self.plan, sizes, partners, memory)
        else:
            target = ViewBuffer(self.plan, len(images), memory)
        batch = self._batch(keys, images, choices, tables, target)
        pixels = target.finish(batch)
        batch.seconds = time.perf_counter() - start
        if self.blocks is None or memory.block is None:
            fill(batch, self.plan.sides, pixels)
            return batch
        return Parcel(batch, self.plan.sides, len(pixels), self.blocks.number, memory.block)

    def _size(self, row: int) -> tuple[int, int]:
        """Width and height of the image as it will be read, px."""
        return self.index.size(row) if self.pack is None else self.pack.size(row)

    def _batch(
        self,
        keys: Sequence[tuple[int, int]],
        images: Sequence[int],
        choices: Sequence[_Choice],
        tables: NDArray[np.float32],
        target: BatchBuffer,
    ) -> Batch:
        """The batch but for its pixels, which go to ``target``; ``images`` are the rows to read."""
        count = len(keys)
        batch = Batch(
            images={},
            augmentation=dict(zip(self.plan.sides, torch.from_numpy(tables), strict=True)),
            rows=torch.empty(count, dtype=torch.int64),
            fallback=torch.empty(count, dtype=torch.bool),
            bad=[],
        )
        for place, ((epoch, key), wanted) in enumerate(zip(keys, images, strict=True)):
            choice, parameters = choices[place], tables[:, place]
            found, image = self._read(wanted, batch.bad, target.scratch(place))
            row = key if found == wanted else found
            if found != wanted:
                choice = self._choose(epoch, found, row, parameters)
            partner = None
            if choice.partner is not None:
                try:
                    partner = self._image(choice.partner, target.scratch(place, partner=True))
                except ImageError as error:
                    path = str(self.index.path(choice.partner))
                    batch.bad.append((choice.partner, path, str(error)))
                    choice = self._choose(epoch, found, row, parameters, alone=True)
            target.put(place, image, partner, self._windows(choice, found, image, partner))
            batch.rows[place] = found
            batch.fallback[place] = choice.fallback
        return batch

    def _choose(
        self,
        epoch: int,
        image: int,
        row: int,
        parameters: NDArray[np.float32],
        *,
        alone: bool = False,
    ) -> _Choice:
        """What the views show; writes the parameters of their augmentation.

        The boxes and pairs are those of ``image``, the random streams those of ``row``. ``alone``:
        the partner cannot be read.
        """
        pair, partner = None, None
        if self.pairs is not None:
            stream = pair_stream(self.seed, epoch, row)
            chosen = choose_pair(self.pairs, image, self.index.size, stream)
            if chosen is not None:
                pair = (chosen.query, chosen.query if alone else chosen.key)
                partner = None if alone or not any(self._of_partner) else chosen.row
        windows, generators, fallback = choose_windows(
            self.index.boxes(image),
            self.index.size(image),
            self.plan,
            self.views,
            seed=self.seed,
            epoch=epoch,
            row=row,
            pair=pair,
        )
        for number, crop in enumerate(self.plan.crops):
            parameters[number] = draw(
                generators[crop.name], self.colors[crop.name], self.plan.side(crop)
            )
        return _Choice([windows[crop.name] for crop in self.plan.crops], fallback, partner)

    def _windows(
        self, choice: _Choice, row: int, image: Tensor, partner: Tensor | None
    ) -> list[Window]:
        """The choice's windows in pixels of the images as they have been read."""
        own = (self.index.size(row), (image.shape[2], image.shape[1]))
        other = own
        if choice.partner is not None and partner is not None:
            other = (self.index.size(choice.partner), (partner.shape[2], partner.shape[1]))
        return [
            scaled(window, *(other if of_partner else own))
            for window, of_partner in zip(choice.windows, self._of_partner, strict=True)
        ]

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
                return row, self._image(row, scratch)
            except ImageError as error:
                bad.append((row, str(self.index.path(row)), str(error)))
        _, path_name, reason = bad[first]
        raise InputError(
            f"{path_name}: {reason}; neither could the {len(bad) - first - 1} images after it be "
            "read; check data.images"
        )

    def _image(self, row: int, scratch: Scratch) -> Tensor:
        if self.pack is not None:
            return self.pack.image(row)
        return read_image(self.index.path(row), self.index.size(row), scratch)


def choose_row(index: Index, settings: ViewSettings, *, seed: int, epoch: int, row: int) -> int:
    """The row whose image the views of ``row`` are cut from: a pure function of all arguments.

    What the published HCL loader does with images of too few boxes, as an option.
    Without ``resample_weak_images``, and where the image has boxes enough, it is the row itself.
    Else it is uniform over the images with at least ``min_boxes`` valid boxes. The views' random
    streams remain those of ``row``, so an image that stands in for several is cut anew each time.

    Raises:
        InputError: no image has boxes enough.
    """
    if not settings.resample_weak_images or _suffices(index, settings, row):
        return row
    rng = random_streams.generator(seed, epoch, row, random_streams.RESAMPLING)
    other = row
    for _ in range(DRAWS):
        other = int(rng.integers(len(index)))
        if _suffices(index, settings, other):
            return other
    for step in range(len(index)):
        if _suffices(index, settings, found := (other + step) % len(index)):
            return found
    raise InputError(
        f"{index.folder}: no image has {settings.min_boxes} boxes of at least "
        f"{settings.min_box_area:g} px² to take the place of those with fewer; set "
        "views.resample_weak_images=false, or mend the boxes"
    )


def _suffices(index: Index, settings: ViewSettings, row: int) -> bool:
    return count_objects(index.boxes(row), settings) >= settings.min_boxes
