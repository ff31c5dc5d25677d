"""What the published HCL loader does with images of too few boxes, as an option."""

from __future__ import annotations

from pretrain.core.errors import InputError
from pretrain.data import random_streams
from pretrain.data.index import Index
from pretrain.data.views import ViewSettings, count_objects

DRAWS = 1000
"""Random images looked at before they are gone through in order."""


def choose_row(index: Index, settings: ViewSettings, *, seed: int, epoch: int, row: int) -> int:
    """The row whose image the views of ``row`` are cut from: a pure function of all arguments.

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
