"""Whether the difference of two runs' AP is more than luck in the choice of the images.

The test images are drawn again with replacement, many times, the same draw for both runs
(paired), and AP is computed of each draw. Detections are matched once: a draw only changes how
often each image counts, so that AP of a draw is a weighted cumulative sum over the one ranking.
It is exactly the AP that COCO's evaluation gives for the drawn images, copies of an image
standing beside each other in the ranking.

The interval says what other images would have given with these very weights. It does not speak
about other seeds of pretraining or fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from downstream.compare.matches import CategoryMatches, Matches
from downstream.results.resampling import Array

RECALLS = np.linspace(0.0, 1.0, 101)
# Name: position among the sizes, IoU thresholds. As COCO names them.
_EVERY = slice(0, 10)
MEASURES = {
    "AP": (0, _EVERY),
    "AP50": (0, slice(0, 1)),
    "AP75": (0, slice(5, 6)),
    "APs": (1, _EVERY),
    "APm": (2, _EVERY),
    "APl": (3, _EVERY),
}
# Draws at a time: the working set of a large category stays some hundred MiB.
_CHUNK = 100


def sampled(
    matches: Matches,
    weights: npt.NDArray[np.int32],
    measures: Sequence[str] = ("AP", "AP50", "AP75"),
    threads: int = 1,
) -> dict[str, Array]:
    """The measures under each row of weights.

    Args:
        matches: of one run.
        weights: (B, images), how often each image counts.
        measures: names of ``MEASURES``.
        threads: categories at a time.

    Returns:
        (B,) in percent by measure; as in COCO's evaluation the mean over the categories that have
        objects in the draw, NaN where none has.
    """
    areas = {MEASURES[name][0] for name in measures}
    single = matches.categories
    with ThreadPoolExecutor(threads) as pool:
        tables = {
            area: np.stack(list(pool.map(partial(category_ap, weights=weights, area=area), single)))
            for area in areas
        }
    found = {}
    for name in measures:
        area, thresholds = MEASURES[name]
        table = tables[area][:, thresholds]
        with np.errstate(invalid="ignore"):
            valid = ~np.isnan(table)
            found[name] = 100 * np.where(valid, table, 0).sum(axis=(0, 1)) / valid.sum(axis=(0, 1))
    return found


def category_ap(category: CategoryMatches, weights: npt.NDArray[np.int32], area: int) -> Array:
    """(10, B): one category's AP in [0, 1] by IoU threshold and draw; NaN without objects."""
    hit, counts = category.hit[area], category.counts[area]
    total = weights @ category.objects[area].astype(np.int32)
    result = np.empty((len(hit), len(weights)))
    for start in range(0, len(weights), _CHUNK):
        rows = slice(start, start + _CHUNK)
        drawn = weights[rows, category.image]
        seen, seen_of = drawn, -1
        for threshold in range(len(hit)):
            places = np.flatnonzero(hit[threshold])
            # Detections count at all thresholds alike, unless they lie at a crowd.
            if seen_of < 0 or (counts[threshold] != counts[seen_of]).any():
                counted = drawn if counts[threshold].all() else drawn * counts[threshold]
                seen, seen_of = np.cumsum(counted, axis=1, dtype=np.int32), threshold
            true = np.cumsum(drawn[:, places], axis=1, dtype=np.int32)
            result[threshold, rows] = _area(true, seen[:, places], total[rows])
    result[:, total == 0] = np.nan
    return result


def _area(
    true: npt.NDArray[np.int32], seen: npt.NDArray[np.int32], total: npt.NDArray[np.int32]
) -> Array:
    """Mean over the 101 recalls of the best precision at that recall or a higher one.

    Only the places of true detections are looked at: recall rises nowhere else, and the best
    precision at or after any place is found at one of them.

    Args:
        true: (B, m) true detections up to the m-th one.
        seen: (B, m) all detections up to there that count.
        total: (B,) objects.
    """
    precision = true / np.maximum(seen, 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true / np.maximum(total, 1)[:, None]
    # Each place answers for the recalls above the place before it, up to its own.
    reached = np.floor(recall * 100).astype(np.int32)
    reached += RECALLS[np.minimum(reached + 1, 100)] <= recall
    reached -= RECALLS[np.minimum(reached, 100)] > recall
    reached = np.minimum(reached, 100) + 1
    area: Array = (np.diff(reached, axis=1, prepend=0) * best).sum(axis=1) / len(RECALLS)
    return area
