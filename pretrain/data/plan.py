"""What a method asks of the data side: named crops, and the batch it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Region = Literal["image", "object", "object_context", "object_jittered", "scene"]
"""Where a crop is cut from.

image: the whole image. object: the exact box of the row's object. object_context: that box
extended at random into its surroundings. scene: the union of the object's box and others.
The object, its context and the scene are drawn once per (seed, epoch, row), so crops of one row
that name the same region share it. object_jittered: a window that shares more than half with the
object's box, moved and reshaped at random (ORL); every crop that names it gets one of its own.
"""


@dataclass(frozen=True)
class Crop:
    """One view.

    Attributes:
        name: the key under which the method gets the view.
        region: where it is cut from.
        random_resized: cut a random part of the region (scale and ratio of the settings), else
            resize the whole region, changing its aspect.
    """

    name: str
    region: Region
    random_resized: bool


@dataclass(frozen=True)
class ViewPlan:
    """All views of one row, each (3, size, size)."""

    size: int
    crops: tuple[Crop, ...]

    def __post_init__(self) -> None:
        names = [crop.name for crop in self.crops]
        assert len(set(names)) == len(names), f"crop names repeat: {names}"

    def extended(self, *crops: Crop) -> ViewPlan:
        """The plan with further crops of the same size."""
        return ViewPlan(self.size, self.crops + crops)


@dataclass
class Batch:
    """Views as the loader hands them over, before augmentation on the device.

    Attributes:
        images: per crop name, uint8 (B, 3, S, S), RGB.
        augmentation: per crop name, float32 (B, P): the parameters of ``augment.apply``.
        rows: int64 (B,): rows of the index.
        fallback: bool (B,): the row had too few boxes for its plan.
        bad: (row, path, reason) of images that could not be read and were replaced.
    """

    images: dict[str, Tensor]
    augmentation: dict[str, Tensor]
    rows: Tensor
    fallback: Tensor
    bad: list[tuple[int, str, str]]

    def pin_memory(self) -> Batch:
        """Called by the DataLoader where the device is CUDA."""
        return Batch(
            {name: value.pin_memory() for name, value in self.images.items()},
            {name: value.pin_memory() for name, value in self.augmentation.items()},
            self.rows,
            self.fallback,
            self.bad,
        )
