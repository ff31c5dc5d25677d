"""The second box of ORL's intra-RoI pair: the first one, moved and reshaped at random."""

from __future__ import annotations

import math

import numpy as np

AREA = (0.5, 2.0)
"""Area of the second box, relative to the first (uniform)."""
ASPECT = (0.5, 2.0)
"""Width to height of the second box, whatever the first one's (log-uniform)."""
SHIFT = 0.5
"""Greatest move of the center, in sides of the first box (uniform, either way)."""
MIN_IOU = 0.5
"""The overlap must be greater."""
ATTEMPTS = 200
"""Tries before the first box stands for the second."""


def jitter(
    box: tuple[int, int, int, int], size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box that shares more than half with the given one (Xie et al. 2021, section 3.3).

    Args:
        box: x1 y1 x2 y2 in whole pixels, the last two exclusive.
        size: width and height of the image, px; the result lies inside.
        rng: every attempt draws four numbers from it.
    """
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    narrow, broad = math.log(ASPECT[0]), math.log(ASPECT[1])
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(narrow, broad))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        left = round((x1 + x2 - w) / 2 + rng.uniform(-SHIFT, SHIFT) * width)
        top = round((y1 + y2 - h) / 2 + rng.uniform(-SHIFT, SHIFT) * height)
        if left < 0 or top < 0 or left + w > size[0] or top + h > size[1]:
            continue
        wide = min(x2, left + w) - max(x1, left)
        high = min(y2, top + h) - max(y1, top)
        common = max(wide, 0) * max(high, 0)
        if common > MIN_IOU * (width * height + w * h - common):
            return left, top, left + w, top + h
    return box
