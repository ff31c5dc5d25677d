"""How far the boxes of an index go for the views of a plan: known before a run starts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretrain.data.index import Index, offsets
from pretrain.data.pairs import PairTable
from pretrain.data.plan import PAIR_REGIONS, Batch, ViewPlan
from pretrain.data.views import ViewSettings, boxes_needed, large_enough


def valid_boxes(index: Index, settings: ViewSettings) -> NDArray[np.float32]:
    """The boxes of all images that are large enough to be objects: (n, 4), in px of the files."""
    boxes: NDArray[np.float32] = index.column("boxes")
    return boxes[large_enough(boxes, settings)]


def objects_per_image(index: Index, settings: ViewSettings) -> NDArray[np.int64]:
    """How many boxes of each image are large enough to be objects: (rows,)."""
    valid = large_enough(index.column("boxes"), settings)
    counts: NDArray[np.int64] = np.diff(offsets(valid)[index.column("box_offsets")])
    return counts


def fallback_share(
    index: Index, plan: ViewPlan, settings: ViewSettings, pairs: PairTable | None
) -> float:
    """Share of the images that have too few boxes, or no pair, for what the plan asks."""
    weak = objects_per_image(index, settings) < boxes_needed(plan, settings)
    if settings.resample_weak_images:
        weak[:] = False  # others take their place
    if plan.pairs and pairs is not None:
        weak |= np.diff(pairs.neighbour_offsets) == 0
    return float(weak.mean())


class Fallbacks:
    """Counts the rows of a run, of one process since its start, that had too little for their plan.

    Attributes:
        rows: handed over.
        weak: of these, fallbacks.
    """

    def __init__(self) -> None:
        self.rows = self.weak = 0

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.rows += len(batch.fallback)
        self.weak += int(batch.fallback.sum())

    def summary(self) -> str:
        """One line for people."""
        if not self.weak:
            return "regions: every row had the boxes that its views need"
        share = self.weak / self.rows
        return (
            f"regions: {share:.1%} of the rows were fallbacks: random regions or the whole image "
            "stood for objects and scenes"
        )


def lack_of_boxes(index: Index, plan: ViewPlan, settings: ViewSettings) -> str | None:
    """What to say where views are cut from boxes and no image has one, unless that is wanted."""
    if not boxes_needed(plan, settings) or settings.random_regions:
        return None
    if objects_per_image(index, settings).any():
        return None
    names = ", ".join(
        crop.name for crop in plan.crops if crop.region not in PAIR_REGIONS | {"image"}
    )
    reason, remedy = "no image of this data set has a box", ""
    if index.box_count:
        area = settings.min_box_area
        reason = f"none of the {index.box_count} boxes has views.min_box_area={area:g} px²"
        remedy = "lower it, "
    return (
        f"views: {names} are cut from boxes of objects, but {reason}; {remedy}make boxes with "
        "hcl data propose and use its output (data.reader=index data.index=FOLDER), or set "
        "views.random_regions=true to train on random rectangles"
    )
