"""Rank correlations, raw and with confounds held fixed, with intervals over images."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from downstream.retrieval.spaces import Floats

DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of two measurements of M images.

    Attributes:
        raw: between -1 and 1.
        raw_interval: 95 % bootstrap interval over images.
        partial: the same between what the confounds do not explain.
        partial_interval: likewise.
        confounds: names of what is held fixed.
        images: M.
    """

    raw: float
    raw_interval: tuple[float, float]
    partial: float
    partial_interval: tuple[float, float]
    confounds: tuple[str, ...]
    images: int

    def as_dict(self) -> dict[str, object]:
        """Plain values for ``analysis.json``."""
        return asdict(self)


def rank_correlation(first: NDArray[np.generic], second: NDArray[np.generic]) -> float | None:
    """Spearman's correlation, ties at their mean rank; None where one of both is constant."""
    a, b = ranks(first), ranks(second)
    if len(a) < 2 or not (a.std() and b.std()):
        return None
    return float(np.corrcoef(a, b)[0, 1])


def partial_rank_correlation(
    first: NDArray[np.generic], second: NDArray[np.generic], confounds: Floats
) -> float | None:
    """Spearman's correlation of what a linear fit on the ranks of the confounds leaves of both.

    Args:
        first: (M,).
        second: (M,).
        confounds: (M, Q) values that may explain both; constant ones explain nothing.

    Returns:
        None where one of both is constant, or explained by the confounds entirely.
    """
    a, b = ranks(first), ranks(second)
    columns = [np.ones(len(a)), *(ranks(column) for column in confounds.T)]
    design = np.stack(columns, axis=1)
    rest_a, rest_b = (
        values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in (a, b)
    )
    nothing = 1e-9 * len(a)  # far below a rank, far above round-off
    if len(a) < 2 or rest_a.std() <= nothing or rest_b.std() <= nothing:
        return None
    return float(np.corrcoef(rest_a, rest_b)[0, 1])


def correlate(
    first: NDArray[np.generic],
    second: NDArray[np.generic],
    confounds: dict[str, Floats],
    *,
    groups: NDArray[np.int64] | None = None,
) -> Correlation | None:
    """Both correlations with percentile intervals.

    Args:
        first: (M,).
        second: (M,).
        confounds: values (M,) by name.
        groups: (M,) the image of each row, which are drawn together; None: a row is an image.

    Returns:
        None where a correlation is not defined.
    """
    held = np.stack(list(confounds.values()), axis=1)
    raw, partial = rank_correlation(first, second), partial_rank_correlation(first, second, held)
    if raw is None or partial is None:
        return None
    members = _members(np.arange(len(first)) if groups is None else groups)
    rng = np.random.default_rng(0)
    drawn: list[tuple[float, float]] = []
    for _ in range(DRAWS):
        rows = np.concatenate([members[n] for n in rng.integers(len(members), size=len(members))])
        again = rank_correlation(first[rows], second[rows])
        held_again = partial_rank_correlation(first[rows], second[rows], held[rows])
        if again is not None and held_again is not None:
            drawn.append((again, held_again))
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(np.array(drawn), (tail, 100 - tail), axis=0)
    return Correlation(
        raw,
        (float(low[0]), float(high[0])),
        partial,
        (float(low[1]), float(high[1])),
        tuple(confounds),
        len(members),
    )


def ranks(values: NDArray[np.generic]) -> Floats:
    """Ranks from 1, equal values at the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)


def _members(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each group."""
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    return np.split(order, starts[1:])
