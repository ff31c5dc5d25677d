"""Exact nearest neighbours: a fast shortlist, proved complete or searched again.

A shortlist by inner products is re-ranked by differences in float64. The dropped points are known
only up to round-off; where the bound on it cannot tell the k-th neighbour from them, as in tight
clusters at the rim of the ball, the query goes on to the next, more precise stage:

    FAISS, float32 inner products  ->  torch, float64 inner products  ->  every difference
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from downstream.retrieval.spaces import Floats, Rows, Space
from pretrain.errors import InputError

Engine = Literal["auto", "faiss", "torch"]
ENGINES: tuple[Engine, ...] = ("auto", "faiss", "torch")

# Elements of the largest temporary: 64 MiB in float64.
_BUDGET = 2**23

# (queries (Q, L), length of the shortlist M) -> inner products (Q, M) descending, rows (Q, M)
_Search = Callable[[Floats, int], tuple[Floats, Rows]]


def nearest(space: Space, k: int, *, engine: Engine = "auto") -> Rows:
    """The ``k`` nearest other points of every point, nearest first.

    A point is left out of its own list by its index, so a duplicate of it stays. Equal distances
    are ordered by index, the lower one first. Memory is linear in the number of points.

    Args:
        space: N points.
        k: neighbours wanted; N - 1 are given where there are fewer.
        engine: first stage of the search: ``auto`` takes FAISS where it is installed. All give
            the same answer.

    Returns:
        int64 (N, min(k, N - 1)).
    """
    count, k = len(space), min(k, len(space) - 1)
    found = np.empty((count, k), dtype=np.int64)
    # One more than asked for: the point itself is usually on its own list.
    length = max(50, 5 * k) + 1
    open_rows = np.arange(count)
    stages = _stages(space, engine)
    if length < count:
        for search, roundoff in stages:
            open_rows = _pass(space, search, open_rows, found, length=length, roundoff=roundoff)
    for row in open_rows:
        found[row] = _by_differences(space, int(row), k)
    return found


def _stages(space: Space, engine: Engine) -> list[tuple[_Search, float]]:
    """The inner-product searches to try in turn, with the unit round-off of each."""
    if engine not in ENGINES:
        raise InputError(f"unknown search engine '{engine}': one of {', '.join(ENGINES)}")
    stages: list[tuple[_Search, float]] = [(_torch_search(space), 2.0**-53)]
    installed = importlib.util.find_spec("faiss") is not None
    if engine == "faiss" and not installed:
        raise InputError("search engine 'faiss' is not installed: pip install faiss-cpu")
    if engine == "faiss" or (engine == "auto" and installed):
        stages.insert(0, (_faiss_search(space), 2.0**-24))
    return stages


def _faiss_search(space: Space) -> _Search:
    import faiss

    index: Any = faiss.IndexFlatIP(space.lifted.shape[1])
    index.add(space.lifted.astype(np.float32))

    def search(queries: Floats, length: int) -> tuple[Floats, Rows]:
        values, rows = index.search(queries.astype(np.float32), length)
        return values.astype(np.float64), rows

    return search


def _torch_search(space: Space) -> _Search:
    keys = torch.from_numpy(space.lifted)

    def search(queries: Floats, length: int) -> tuple[Floats, Rows]:
        top = torch.topk(torch.from_numpy(queries) @ keys.T, length, dim=1)
        return top.values.numpy(), top.indices.numpy()

    return search


def _pass(
    space: Space, search: _Search, rows: Rows, found: Rows, *, length: int, roundoff: float
) -> Rows:
    """Fill in ``found`` for the ``rows`` whose shortlist is complete; return the others."""
    k = found.shape[1]
    width = space.lifted.shape[1]
    longest = float(np.linalg.norm(space.lifted, axis=1).max())
    chunk = max(1, _BUDGET // max(len(space), length * space.points.shape[1]))
    left = []
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        queries = space.lifted[part] * space.signature
        values, candidates = search(queries, length)
        # |fl(<a, b>) - <a, b>| <= (L + 2) u |a| |b| to first order, rounding of a and b included
        # (Higham, Accuracy and Stability, §3.1); the rest covers second order and the lift.
        bound = (width + 16) * roundoff * np.linalg.norm(queries, axis=1) * longest
        ranked, gaps = _rerank(space, part, candidates)
        complete = space.inner(gaps[:, k - 1]) > values[:, -1] + bound
        found[part[complete]] = ranked[complete, :k]
        left.append(part[~complete])
    return np.concatenate(left) if left else rows


def _rerank(space: Space, rows: Rows, candidates: Rows) -> tuple[Rows, Floats]:
    """Order ``candidates`` (Q, M) by gap, then index; each row's own index comes last."""
    # Sorted by index first: the stable sort then keeps the lower index before its equals.
    candidates = np.sort(candidates, axis=1)
    gaps = space.gaps(rows, candidates)
    gaps[candidates == rows[:, None]] = np.inf
    order = np.argsort(gaps, axis=1, kind="stable")
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(gaps, order, 1)


def _by_differences(space: Space, row: int, k: int) -> Rows:
    """The nearest ``k`` of one point among all others, no shortlist."""
    count = len(space)
    block = max(1, _BUDGET // space.points.shape[1])
    query = np.array([row])
    gaps = np.concatenate(
        [
            space.gaps(query, np.arange(start, min(start + block, count))[None])[0]
            for start in range(0, count, block)
        ]
    )
    gaps[row] = np.inf
    return np.argsort(gaps, kind="stable")[:k]
