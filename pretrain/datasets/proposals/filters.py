"""Which proposals are kept: the rule of ORL (Xie et al. 2021, stage 2)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pretrain.core.arguments import Option
from pretrain.core.settings import Settings

SMALL = "too small"
ELONGATED = "too elongated"
OVERLAPPING = "overlapping a better one"
BEYOND = "after the last place"
REASONS = (SMALL, ELONGATED, OVERLAPPING, BEYOND)
"""Why a proposal is left out; each counts for the first of these that holds."""


class FilterSettings(Settings):
    """What a proposal must be to be kept; the defaults are ORL's.

    Attributes:
        min_side: shorter sides are dropped, px.
        max_aspect: greatest ratio of the longer to the shorter side.
        max_iou: greatest overlap (IoU) with a proposal kept before.
        top: proposals kept of an image, at most.
        keep_first: where nothing survives, keep the first proposal as it is.
    """

    min_side: Annotated[float, Field(ge=0), Option("PX")] = 96.0
    max_aspect: Annotated[float, Field(ge=1), Option("R")] = 3.0
    max_iou: Annotated[float, Field(ge=0, le=1), Option("SHARE")] = 0.5
    top: Annotated[int, Field(ge=1), Option("N")] = 100
    keep_first: Annotated[bool, Option(hidden=True)] = True


def select(
    boxes: NDArray[np.float32], rule: FilterSettings
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Go through the boxes in order and keep what the rule allows.

    Args:
        boxes: float32 (n, 4), x1 y1 x2 y2, best first.
        rule: of the filter.

    Returns:
        Positions kept, ascending, and how many were left out for each of ``REASONS``. A box
        kept by ``keep_first`` is counted among those left out as well.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    small = np.minimum(width, height) < rule.min_side
    # w > a h instead of w / h > a: no division by the side of an empty box.
    elongated = np.maximum(width, height) > rule.max_aspect * np.minimum(width, height)
    elongated &= ~small
    left = np.flatnonzero(~(small | elongated))
    counts = {SMALL: int(small.sum()), ELONGATED: int(elongated.sum()), OVERLAPPING: 0, BEYOND: 0}
    kept: list[int] = []
    while len(left) and len(kept) < rule.top:
        # The first that is left overlaps none of those kept; what overlaps it goes at once.
        first, rest = int(left[0]), left[1:]
        kept.append(first)
        clear = overlaps(boxes[first], boxes[rest]) <= rule.max_iou
        counts[OVERLAPPING] += int((~clear).sum())
        left = rest[clear]
    counts[BEYOND] = len(left)
    if not kept and rule.keep_first and len(boxes):
        kept = [0]
    return np.array(kept, np.int64), counts


def overlaps(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of one box (4,) with others (n, 4): float64 (n,)."""
    one, many = box.astype(np.float64), others.astype(np.float64)
    low, high = np.maximum(many[:, :2], one[:2]), np.minimum(many[:, 2:], one[2:])
    common = np.clip(high - low, 0, None).prod(1)
    together = (many[:, 2:] - many[:, :2]).prod(1) + (one[2:] - one[:2]).prod() - common
    ratio: NDArray[np.float64] = common / np.maximum(together, np.finfo(np.float64).tiny)
    return ratio
