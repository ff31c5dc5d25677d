"""Fast searches: shortlists, and a bound on everything left out of them.

Every stage gives for each query candidates and a *floor*: no key outside the list has a smaller
ranking value. It comes from scores that are upper bounds (``scores``). A query whose k-th
candidate, by exact differences, lies below the floor is therefore done.

Matrix products on the CPU score all keys, of one space or of both together. FAISS has no fused
scores; there the threshold algorithm (Fagin, Lotem, Naor 2001) joins the lists of both spaces: a
point on neither has at least the last gap of each list, and the cost grows with both gaps, so the
cost of the two last gaps is a floor. It separates where the two geometries agree about who is near.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from downstream.retrieval.scores import (
    UNIT,
    FusedScores,
    InnerProducts,
    full_precision,
)
from downstream.retrieval.spaces import Floats, FusedRanking, Ranking, Rows, Space
from pretrain.core.errors import InputError

Engine = Literal["auto", "faiss", "torch"]
ENGINES: tuple[Engine, ...] = ("auto", "faiss", "torch")

# Columns of a group of `largest`. Of 8 to 64, 16 and 32 are the fastest at 10,000 columns.
_GROUP = 16

# FAISS keeps no longer lists on a GPU.
_GPU_LONGEST = 2048


Stage = Callable[[Rows, int], tuple[Rows, Floats]]
"""One search: queries (Q,), length M -> candidates (Q, M or 2 M), which may repeat, floors (Q,)."""


def stages(ranking: Ranking, keys: Rows, engine: Engine) -> list[Stage]:
    """The stages to try in turn, the fastest first, the most precise last.

    Raises:
        InputError: FAISS is asked for and not installed, or there is no such engine.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown search engine '{engine}': one of {', '.join(ENGINES)}")
    installed = importlib.util.find_spec("faiss") is not None
    if engine == "faiss" and not installed:
        raise InputError("search engine 'faiss' is not installed: pip install faiss-cpu")
    precise = _stage(ranking, keys, torch.float64)
    # On a CPU, FAISS takes longer than the product and `largest`, and fused scores more stages.
    if engine == "faiss" or (engine == "auto" and installed and _gpus()):
        if isinstance(ranking, FusedRanking):
            parts = [_faiss_search(space, keys) for space in (ranking.sphere, ranking.ball)]
            return [_threshold(ranking, *parts), precise]
        return [_faiss_search(ranking, keys), precise]
    return [_stage(ranking, keys, torch.float32), precise]


def _stage(ranking: Ranking, keys: Rows, dtype: torch.dtype) -> Stage:
    made: list[InnerProducts | FusedScores] = []

    def shortlist(rows: Rows, length: int) -> tuple[Rows, Floats]:
        if not made:  # the precise stage is seldom needed, and its keys are as many again
            if isinstance(ranking, FusedRanking):
                made.append(FusedScores(ranking, keys, dtype))
            else:
                made.append(InnerProducts(ranking, keys, dtype))
        (scores,) = made
        columns = np.empty((len(rows), length), dtype=np.int64)
        last = np.empty(len(rows))
        with full_precision():
            for start in range(0, len(rows), scores.block):
                part = slice(start, start + scores.block)
                values, found = largest(scores.of(rows[part]), length)
                columns[part], last[part] = found.numpy(), values[:, -1].numpy()
        return keys[columns], scores.floor(last)

    return shortlist


def _gpus() -> int:
    """GPUs that FAISS can use; it is not loaded where there is none."""
    if not torch.cuda.is_available():
        return 0
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def _faiss_search(space: Space, keys: Rows) -> Stage:
    import faiss

    scores = InnerProducts(space, keys, torch.float32)
    index: Any = faiss.IndexFlatIP(scores.keys.shape[1])
    index.add(scores.keys.numpy())
    on_gpus: Any = None
    if _gpus():
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        on_gpus = faiss.index_cpu_to_all_gpus(index, options)

    def shortlist(rows: Rows, length: int) -> tuple[Rows, Floats]:
        fits = on_gpus is not None and length <= _GPU_LONGEST
        values, columns = (on_gpus if fits else index).search(scores.queries(rows).numpy(), length)
        return keys[columns], scores.floor(values[:, -1].astype(np.float64))

    return shortlist


def _threshold(ranking: FusedRanking, sphere: Stage, ball: Stage) -> Stage:
    # Room for the relative error of the costs that a floor is compared with.
    below_one = 1 - 2 * (ranking.width + 64) * UNIT[torch.float64]

    def shortlist(rows: Rows, length: int) -> tuple[Rows, Floats]:
        by_sphere, sphere_floor = sphere(rows, length)
        by_ball, ball_floor = ball(rows, length)
        floor = ranking.cost(sphere_floor, ball_floor) * below_one
        return np.concatenate([by_sphere, by_ball], axis=1), floor

    return shortlist


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest entries of every row, in descending order, with their columns.

    Faster than `torch.topk` where rows are wide.

    Maxima of groups of columns are a vectorized pass; what is selected from them has a sixteenth
    of the width. It is enough to look into the ``count`` groups of the largest maxima: an entry of
    any other group is no larger than each of these ``count`` maxima. Among equal entries, which
    ones are given is open, as with `torch.topk`.

    Args:
        values: (Q, N), without NaN.
        count: at most N.

    Returns:
        values (Q, count) and columns (Q, count), int64.
    """
    groups = values.shape[1] // _GROUP
    if groups < 2 * count:
        top = values.topk(count, dim=1)
        return top.values, top.indices
    # Group g holds the columns g, g + groups, g + 2 groups, ...: the maxima are then taken of
    # neighboring columns at once.
    whole = groups * _GROUP
    maxima = values[:, :whole].view(len(values), _GROUP, groups).amax(dim=1)
    best = maxima.topk(count, dim=1, sorted=False).indices
    columns = (best[:, :, None] + torch.arange(0, whole, groups)).flatten(1)
    if whole < values.shape[1]:
        rest = torch.arange(whole, values.shape[1]).expand(len(values), -1)
        columns = torch.cat([columns, rest], dim=1)
    top = values.gather(1, columns).topk(count, dim=1)
    return top.values, columns.gather(1, top.indices)
