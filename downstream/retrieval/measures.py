"""What a ranking is worth: Recall@K, R-precision and mAP@R, with a stated rule for ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from downstream.retrieval.neighbors import Engine, Neighbors, portions
from downstream.retrieval.recall import check_ks, label_codes
from downstream.retrieval.spaces import Floats, Ranking, Rows

Ties = Literal["index", "query", "against"]

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Measures:
    """Means over all queries; a query without a key of its class counts as 0 in each.

    Attributes:
        recall: by K, the share of queries that hit.
        r_precision: share of their own class among the R nearest, R its number of keys.
        map_at_r: mean over the R nearest of the precision at each one of the own class
            (Musgrave et al. 2020, arXiv 2003.08505, section 3.2).
        queries: their number.
        without_positive: queries whose class has no key.
    """

    recall: dict[int, float]
    r_precision: float
    map_at_r: float
    queries: int
    without_positive: int


def measure(
    ranking: Ranking,
    labels: ArrayLike | torch.Tensor,
    ks: Sequence[int],
    *,
    queries: Rows | None = None,
    gallery: Rows | None = None,
    ties: Ties = "index",
    engine: Engine = "auto",
) -> Measures:
    """Rank the gallery for every query and measure the rankings.

    Without ``queries`` and ``gallery`` every point is a query and all others are its gallery; a
    point is left out of its own list by its index.

    A query hits at K where fewer than K others come before the best key of its class. Ties decide
    what comes before: with ``index`` the equally near key of lower row; with ``query`` only what is
    strictly nearer, as In-Shop's protocol counts, so a tie is for the query; with ``against`` every
    equally near key of another class. R-precision and mAP@R go by ``index``.

    Args:
        ranking: N points.
        labels: (N,), integers or strings.
        ks: the K.
        queries: rows that are searched for.
        gallery: rows that are searched, ascending; disjoint from the queries.
        ties: see above.
        engine: first stage of the search, which does not change the answer.

    Raises:
        InputError: labels or K that do not fit.
    """
    check_ks(ks)
    codes = label_codes(labels, len(ranking))
    everything = np.arange(len(ranking), dtype=np.int64)
    asked = everything if queries is None else queries
    keys = everything if gallery is None else gallery
    sizes = np.bincount(codes[keys], minlength=int(codes.max()) + 1)
    positives = sizes[codes[asked]] - np.isin(asked, keys)
    most = int(positives.max())
    # Against the query, the positives that tie with the best may stand before negatives that do.
    length = max(max(ks) + (most if ties == "against" else 0), most)
    before = np.empty(len(asked), dtype=np.int64)
    precision, average = np.empty(len(asked)), np.empty(len(asked))
    for part, found in portions(ranking, length, queries=asked, keys=keys, engine=engine):
        right = codes[found.rows] == codes[asked[part]][:, None]
        best = np.take_along_axis(found.gaps, right.argmax(axis=1)[:, None], 1)
        for place in np.flatnonzero(~right.any(axis=1)):
            # Not on the list, and yet as near as its end where that lies among ties.
            best[place] = _nearest_own(ranking, int(asked[part][place]), keys, codes)
        before[part] = _before(found, right, best, ties)
        precision[part], average[part] = _at_r(right, positives[part])
    return Measures(
        {k: float((before < k).mean()) for k in ks},
        float(precision.mean()),
        float(average.mean()),
        len(asked),
        int((positives == 0).sum()),
    )


def _nearest_own(ranking: Ranking, query: int, keys: Rows, codes: NDArray[np.int64]) -> float:
    """Ranking value of the nearest key of the query's class; infinite where there is none."""
    own = keys[(codes[keys] == codes[query]) & (keys != query)]
    return (
        float(ranking.ranking_distances(np.array([query]), own[None]).min()) if len(own) else np.inf
    )


def _before(found: Neighbors, right: Bools, best: Floats, ties: Ties) -> NDArray[np.int64]:
    """How many keys come before the best of the own class.

    Exact up to the length of the list; beyond, and without such a key, some number above.

    Args:
        found: lists of Q queries.
        right: (Q, K), of the own class.
        best: (Q, 1), the ranking value of the nearest key of the own class.
        ties: what comes before among equals.
    """
    if ties == "index":
        before = right.argmax(axis=1)
        none = ~right.any(axis=1)
    elif ties == "query":
        before = (found.gaps < best).sum(axis=1)
        none = np.isinf(best[:, 0])
    else:
        # A list without the best is of max(K) others and as many as the class has: a miss.
        before = ((found.gaps <= best) & ~right).sum(axis=1)
        none = ~right.any(axis=1)
    return np.asarray(np.where(none, np.iinfo(np.int64).max, before), dtype=np.int64)


def _at_r(right: Bools, positives: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """R-precision and average precision at R of every query, (Q,) each."""
    counted = np.arange(right.shape[1])[None] < positives[:, None]
    right = right & counted
    precision_at = right.cumsum(axis=1) / np.arange(1, right.shape[1] + 1)
    share = np.maximum(positives, 1)
    return right.sum(axis=1) / share, (precision_at * right).sum(axis=1) / share
