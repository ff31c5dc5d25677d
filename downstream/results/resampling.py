"""Statistics of resampled test images: how sure a number or a difference is.

The test images are drawn again with replacement, many times, the same draws for both sides of a
comparison (paired). An interval says what other images would have given with these very weights,
not what other seeds of training would have given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """AP of one run less that of another, in percent.

    Attributes:
        value: on all images.
        low, high: ends of the 95 % percentile interval.
        p: two-sided p-value of 'no difference'; at least 2 / (resamples + 1).
        resamples: number of draws.
    """

    value: float
    low: float
    high: float
    p: float
    resamples: int


def weights_of(images: int, resamples: int, seed: int) -> npt.NDArray[np.int32]:
    """(1 + resamples, images): every image once, then how often each draw has it."""
    rng = np.random.default_rng(seed)
    chosen = (rng.integers(0, images, images) for _ in range(resamples))
    rows = [np.bincount(row, minlength=images) for row in chosen]
    return np.stack([np.ones(images, int), *rows]).astype(np.int32)


def average(samples: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Of several seeds, draw by draw."""
    return {name: np.mean([sample[name] for sample in samples], axis=0) for name in samples[0]}


def interval(values: Array) -> tuple[float, float]:
    """95 % percentile interval of samples whose first is that of all images."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that with probability 0.95 none below 0.05 is false.

    Holm (1979), "A simple sequentially rejective multiple test procedure"; the tests may depend on
    one another.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for done, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[place]))
        corrected[place] = largest
    return corrected


def difference(first: Array, second: Array) -> Difference:
    """Of samples under the same weights, the first of which is every image once."""
    values = first - second
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = interval(values)
    # The observed set counts as one draw, so that no p-value is 0.
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1
    p = min(1.0, 2 * float(tail) / (len(drawn) + 1))
    return Difference(float(values[0]), low, high, p, len(drawn))
