"""Fast searches by inner products: shortlists, and a bound on everything left out of them.

Every stage gives for each query candidates and a *floor*: no key outside the list has a smaller
gap. What a search has computed is known up to round-off (Higham, Accuracy and Stability of
Numerical Algorithms, §3.1), which the floor takes off. A query whose k-th candidate, by exact
differences, lies below the floor is therefore done.

For fused scores there are two stages. The threshold algorithm (Fagin, Lotem, Naor 2001) joins the
lists of both spaces: a point on neither has at least the last gap of each list, and the score grows
with both gaps, so the score of the two last gaps is a floor. Where that does not separate,
intervals of both gaps in float64 give a lower bound of the score of every key.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import torch

from downstream.retrieval.spaces import Floats, Fused, Ranking, Rows, Space
from pretrain.errors import InputError

Engine = Literal["auto", "faiss", "torch"]
ENGINES: tuple[Engine, ...] = ("auto", "faiss", "torch")

SINGLE, DOUBLE = 2.0**-24, 2.0**-53

# FAISS keeps no longer lists on a GPU.
_GPU_LONGEST = 2048


class Stage(Protocol):
    """One search: candidates and floors for some queries."""

    def __call__(self, rows: Rows, length: int) -> tuple[Rows, Floats]:
        """Queries (Q,), length M -> candidates (Q, M or 2 M), which may repeat, floors (Q,)."""
        ...


# (queries (Q, L), length M) -> inner products (Q, M) descending, positions among the keys (Q, M)
_Search = Callable[[Floats, int], tuple[Floats, Rows]]


def stages(ranking: Ranking, keys: Rows, engine: Engine) -> list[Stage]:
    """The stages to try in turn, the fastest first.

    Raises:
        InputError: FAISS is asked for and not installed, or there is no such engine.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown search engine '{engine}': one of {', '.join(ENGINES)}")
    installed = importlib.util.find_spec("faiss") is not None
    if engine == "faiss" and not installed:
        raise InputError("search engine 'faiss' is not installed: pip install faiss-cpu")
    with_faiss = installed and engine != "torch"
    if isinstance(ranking, Fused):
        first = [
            _stage(space, keys, with_faiss=with_faiss) for space in (ranking.sphere, ranking.ball)
        ]
        return [_threshold(ranking, *first), _intervals(ranking, keys)]
    assert isinstance(ranking, Space), "the two kinds there are"
    kinds = [True, False] if with_faiss else [False]
    return [_stage(ranking, keys, with_faiss=kind) for kind in kinds]


def _stage(space: Space, keys: Rows, *, with_faiss: bool) -> Stage:
    search = _faiss_search(space, keys) if with_faiss else _torch_search(space, keys)
    longest = float(np.linalg.norm(space.lifted[keys], axis=1).max())
    roundoff = SINGLE if with_faiss else DOUBLE

    def shortlist(rows: Rows, length: int) -> tuple[Rows, Floats]:
        queries = space.lifted[rows] * space.signature
        values, places = search(queries, length)
        bound = _roundoff(space, queries, longest, roundoff)
        return keys[places], space.gap_of(values[:, -1] + bound)

    return shortlist


def _roundoff(space: Space, queries: Floats, longest: float, unit: float) -> Floats:
    """Bound on the error of inner products with keys of norm up to ``longest``, (Q,).

    (L + 2) u |a| |b| to first order, rounding of a and b included; three times as much for second
    order, the lift, and the differences that the floor is compared with.
    """
    width = space.lifted.shape[1]
    return np.asarray(3 * (width + 16) * unit * np.linalg.norm(queries, axis=1) * longest)


def _faiss_search(space: Space, keys: Rows) -> _Search:
    import faiss

    index: Any = faiss.IndexFlatIP(space.lifted.shape[1])
    index.add(space.lifted[keys].astype(np.float32))
    on_gpus: Any = None
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0:
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        on_gpus = faiss.index_cpu_to_all_gpus(index, options)

    def search(queries: Floats, length: int) -> tuple[Floats, Rows]:
        fits = on_gpus is not None and length <= _GPU_LONGEST
        values, rows = (on_gpus if fits else index).search(queries.astype(np.float32), length)
        return values.astype(np.float64), rows

    return search


def _torch_search(space: Space, keys: Rows) -> _Search:
    lifted = torch.from_numpy(space.lifted[keys])

    def search(queries: Floats, length: int) -> tuple[Floats, Rows]:
        top = torch.topk(torch.from_numpy(queries) @ lifted.T, length, dim=1)
        return top.values.numpy(), top.indices.numpy()

    return search


def _threshold(ranking: Fused, sphere: Stage, ball: Stage) -> Stage:
    def shortlist(rows: Rows, length: int) -> tuple[Rows, Floats]:
        by_sphere, sphere_floor = sphere(rows, length)
        by_ball, ball_floor = ball(rows, length)
        floor = ranking.cost(sphere_floor, ball_floor) * _below_one(ranking)
        return np.concatenate([by_sphere, by_ball], axis=1), floor

    return shortlist


def _intervals(ranking: Fused, keys: Rows) -> Stage:
    spaces = (ranking.sphere, ranking.ball)
    lifted = [space.lifted[keys] for space in spaces]
    longest = [float(np.linalg.norm(part, axis=1).max()) for part in lifted]

    def shortlist(rows: Rows, length: int) -> tuple[Rows, Floats]:
        least = []
        for space, part, norm in zip(spaces, lifted, longest, strict=True):
            queries = space.lifted[rows] * space.signature
            bound = _roundoff(space, queries, norm, DOUBLE)
            least.append(space.gap_of(queries @ part.T + bound[:, None]))
        costs = torch.from_numpy(ranking.cost(*least))
        top = torch.topk(costs, length, dim=1, largest=False)
        return keys[top.indices.numpy()], top.values.numpy()[:, -1] * _below_one(ranking)

    return shortlist


def _below_one(ranking: Ranking) -> float:
    """Room for the relative error of the scores that a floor is compared with."""
    return 1 - 2 * (ranking.width + 64) * DOUBLE
