"""Exact nearest neighbors: a fast shortlist, proved complete or searched again.

A shortlist by matrix products is re-ranked by differences in float64. Where the bound on what was
left out (``shortlists``) cannot tell the k-th neighbor from it, as in tight clusters at the rim of
the ball, the query goes on to the next, more precise stage:

    float32, short list  ->  float64, short list  ->  float64, long list  ->  every difference

The lists are as short as ordinary data allow: the proof decides, so a list can be too short to be
proved complete, never too short to be right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from downstream.retrieval.shortlists import Engine, Stage, stages
from downstream.retrieval.spaces import Floats, Ranking, Rows, distances_from

__all__ = ["Engine", "Neighbors", "nearest", "portions", "search"]

# Queries of a portion, and how many of them a stage takes at a time; neighbors of a portion.
_PORTION, _CHUNK, _ENTRIES = 4096, 1024, 2**19


class Neighbors(NamedTuple):
    """The nearest keys of every query, nearest first.

    Attributes:
        rows: int64 (Q, K).
        gaps: float64 (Q, K), the ranking values.
    """

    rows: Rows
    gaps: Floats


def nearest(ranking: Ranking, k: int, *, engine: Engine = "auto") -> Rows:
    """The ``k`` nearest other points of every point; see :func:`search`.

    Returns:
        int64 (N, min(k, N - 1)).
    """
    return np.concatenate([found.rows for _, found in portions(ranking, k, engine=engine)])


def search(
    ranking: Ranking,
    k: int,
    *,
    queries: Rows | None = None,
    keys: Rows | None = None,
    engine: Engine = "auto",
) -> Neighbors:
    """The ``k`` nearest keys of every query, nearest first.

    A point is left out of its own list by its index, so a duplicate of it stays. Equal distances
    are ordered by index, the lower one first. Memory is linear in the number of points.

    Args:
        ranking: N points.
        k: neighbors wanted; fewer are given where there are fewer.
        queries: rows that are searched for, Q; None: all.
        keys: rows that are searched, ascending, either all of the queries or none; None: all.
        engine: first stage of the search: ``torch``, ``faiss``, or ``auto``, which takes FAISS
            where it has a GPU. All give the same answer.
    """
    parts = portions(ranking, k, queries=queries, keys=keys, engine=engine)
    rows, gaps = zip(*(found for _, found in parts), strict=True)
    return Neighbors(np.concatenate(rows), np.concatenate(gaps))


def portions(
    ranking: Ranking,
    k: int,
    *,
    queries: Rows | None = None,
    keys: Rows | None = None,
    engine: Engine = "auto",
) -> Iterator[tuple[slice, Neighbors]]:
    """As :func:`search`, some thousand queries at a time: long lists of all need not be held.

    Yields:
        which of the queries, and their neighbors.
    """
    everything = np.arange(len(ranking), dtype=np.int64)
    queries = everything if queries is None else queries
    keys = everything if keys is None else keys
    among = np.isin(queries, keys)
    assert among.all() or not among.any(), "queries are keys, or none is"
    k = min(k, len(keys) - bool(among.any()))
    # One more than asked for: the point itself is usually on its own list.
    short, long = k + 7 + k // 16, k + 1 + max(50, min(4 * k, 256))
    made = stages(ranking, keys, engine)
    tries = [(stage, short) for stage in made] + [(made[-1], long)]
    ladder = [(stage, length) for stage, length in tries if length < len(keys)]
    portion = max(1, min(_PORTION, _ENTRIES // max(k, 1)))
    for start in range(0, max(1, len(queries)), portion):
        part = slice(start, min(start + portion, len(queries)))
        yield part, _search(ranking, k, queries[part], keys, ladder)


def _search(
    ranking: Ranking,
    k: int,
    queries: Rows,
    keys: Rows,
    ladder: Sequence[tuple[Stage, int]],
) -> Neighbors:
    """Try the shortlists of ``ladder`` in turn, each for the queries not done by those before."""
    found = Neighbors(
        np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float64)
    )
    places = np.arange(len(queries))
    for stage, length in ladder:
        if not len(places):
            break
        left = []
        for part in np.split(places, range(_CHUNK, len(places), _CHUNK)):
            candidates, floor = stage(queries[part], length)
            rows, gaps = _rerank(ranking, queries[part], candidates)
            complete = gaps[:, k - 1] < floor
            found.rows[part[complete]] = rows[complete, :k]
            found.gaps[part[complete]] = gaps[complete, :k]
            left.append(part[~complete])
        places = np.concatenate(left)
    for place in places:
        rows, gaps = _by_differences(ranking, int(queries[place]), k, keys)
        found.rows[place], found.gaps[place] = rows, gaps
    return found


def _rerank(ranking: Ranking, rows: Rows, candidates: Rows) -> tuple[Rows, Floats]:
    """Order ``candidates`` (Q, M) by gap, then index; a row's own index and repeats come last."""
    # Sorted by index first: the stable sort then keeps the lower index before its equals.
    candidates = np.sort(candidates, axis=1)
    gaps = ranking.ranking_distances(rows, candidates)
    gaps[candidates == rows[:, None]] = np.inf
    gaps[:, 1:][candidates[:, 1:] == candidates[:, :-1]] = np.inf
    order = np.argsort(gaps, axis=1, kind="stable")
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(gaps, order, 1)


def _by_differences(ranking: Ranking, row: int, k: int, keys: Rows) -> tuple[Rows, Floats]:
    """The nearest ``k`` of one point among all keys, no shortlist."""
    gaps = distances_from(ranking, row, keys)
    gaps[keys == row] = np.inf
    order = np.argsort(gaps, kind="stable")[:k]
    return keys[order], gaps[order]
