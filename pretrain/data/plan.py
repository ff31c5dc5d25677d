"""What a method asks of the data side: named crops, and the batch it gets back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Region = Literal[
    "image", "object", "object_context", "object_jittered", "scene", "pair_query", "pair_key"
]
"""Where a crop is cut from.

image: the whole image. object: the exact box of the row's object. object_context: that box
extended at random into its surroundings. scene: the union of the object's box and others.
The object, its context and the scene are drawn once per (seed, epoch, row), so crops of one row
that name the same region share it. object_jittered: a window that shares more than half with the
object's box, moved and reshaped at random (ORL); every crop that names it gets one of its own.
pair_query, pair_key: a region of this image and one much like it in another image, from the table
of pairs (ORL); one pair is drawn a row and epoch. A row without pairs has its object's box twice.
"""

PAIR_REGIONS = frozenset({"pair_query", "pair_key"})
"""Regions that ask for a table of pairs."""


@dataclass(frozen=True)
class Crop:
    """One view.

    Attributes:
        name: the key under which the method gets the view.
        region: where it is cut from.
        random_resized: cut a random part of the region (scale and ratio of the settings), else
            resize the whole region, changing its aspect.
        size: side of the view, px; None: the plan's.
    """

    name: str
    region: Region
    random_resized: bool
    size: int | None = None


@dataclass(frozen=True)
class ViewPlan:
    """All views of one row, each (3, size, size) where its crop does not say otherwise."""

    size: int
    crops: tuple[Crop, ...]

    def __post_init__(self) -> None:
        names = [crop.name for crop in self.crops]
        assert len(set(names)) == len(names), f"crop names repeat: {names}"

    def side(self, crop: Crop) -> int:
        """Side of the crop's view, px."""
        return self.size if crop.size is None else crop.size

    @property
    def sides(self) -> dict[str, int]:
        """Side of every view, px, by name."""
        return {crop.name: self.side(crop) for crop in self.crops}

    @property
    def pairs(self) -> bool:
        """Whether a table of pairs is needed."""
        return any(crop.region in PAIR_REGIONS for crop in self.crops)

    @property
    def of_partner(self) -> tuple[str, ...]:
        """Views that show another image than their row's, where the row has a pair."""
        return tuple(crop.name for crop in self.crops if crop.region == "pair_key")

    def extended(self, *crops: Crop) -> ViewPlan:
        """The plan with further crops."""
        return ViewPlan(self.size, self.crops + crops)


@dataclass
class Sources:
    """Decoded images whose views are still to be cut, by ``device.cut``.

    Attributes:
        pixels: uint8 (N,): the images one after another, each (height, width, 3), RGB.
        offsets: int64 (I,): where in ``pixels`` each begins. I is B, or 2B where crops are cut from
            partners: the rows' own images, then their partners. A row without a partner has its own
            image in both places, which lies in ``pixels`` once.
        sizes: int64 (I, 2): width and height, px.
        windows: per crop name, int64 (B, 4): x1 y1 x2 y2 in pixels of these images.
        greatest: the greatest width and the greatest height.
        of_partner: names of the crops that are cut from partners.
    """

    pixels: Tensor
    offsets: Tensor
    sizes: Tensor
    windows: dict[str, Tensor]
    greatest: tuple[int, int]
    of_partner: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Sources:
        """Copied to a device."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Sources:
        """Page-locked, for copies to a CUDA device."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Sources:
        return replace(
            self,
            pixels=change(self.pixels),
            offsets=change(self.offsets),
            sizes=change(self.sizes),
            windows={name: change(windows) for name, windows in self.windows.items()},
        )


@dataclass
class Batch:
    """Views as the loader hands them over, before augmentation on the device.

    Attributes:
        images: per crop name, uint8 (B, 3, S, S) with the crop's own S, RGB; empty where
            ``sources`` is given.
        augmentation: per crop name, float32 (B, P): the parameters of ``augment.apply``.
        rows: int64 (B,): rows of the index.
        fallback: bool (B,): the row had too few boxes, or no pair, for its plan.
        bad: (row, path, reason) of images that could not be read and were replaced.
        sources: what the device is to cut the views from, if it does.
        seconds: how long a worker took to make the batch.
    """

    images: dict[str, Tensor]
    augmentation: dict[str, Tensor]
    rows: Tensor
    fallback: Tensor
    bad: list[tuple[int, str, str]]
    sources: Sources | None = None
    seconds: float = 0.0

    def pin_memory(self) -> Batch:
        """Called by the DataLoader where the device is CUDA."""
        return replace(
            self,
            images={name: value.pin_memory() for name, value in self.images.items()},
            augmentation={name: value.pin_memory() for name, value in self.augmentation.items()},
            sources=None if self.sources is None else self.sources.pin_memory(),
        )
