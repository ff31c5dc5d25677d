"""Recall@K: the share of queries with one of their own category among K neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from downstream.retrieval.neighbors import Engine, nearest
from downstream.retrieval.spaces import Rows, Space, ball, sphere
from pretrain.core.errors import InputError

Geometry = Literal["euclidean", "hyperbolic"]


def recall_at_k(
    embeddings: ArrayLike | torch.Tensor,
    labels: ArrayLike | torch.Tensor,
    ks: Sequence[int],
    *,
    geometry: Geometry = "euclidean",
    c: float | None = None,
    engine: Engine = "auto",
) -> dict[int, float]:
    """Share of points that have one of their own label among their K nearest others.

    Every point is a query and the gallery is all others: a point is excluded from its own
    neighbors by its index, not by its rank. Equal distances are ordered by index, the lower one
    first. A point without another of its label counts as a miss. The ranking is exact: see
    ``downstream.retrieval.neighbors``.

    Args:
        embeddings: (N, D). ``euclidean`` ranks by cosine similarity, whatever the lengths;
            ``hyperbolic`` takes points of the ball of curvature -c.
        labels: (N,), integers or strings.
        ks: the K, each at least 1; a K of N or more looks at all others.
        geometry: ``euclidean`` or ``hyperbolic``.
        c: curvature, for ``hyperbolic`` only.
        engine: first stage of the search, which does not change the answer.

    Raises:
        InputError: shapes or values that cannot be ranked.
    """
    space = make_space(embeddings, geometry, c)
    codes = label_codes(labels, len(space))
    check_ks(ks)
    return recall_of(nearest(space, max(ks), engine=engine), codes, ks)


def make_space(
    embeddings: ArrayLike | torch.Tensor, geometry: Geometry, c: float | None = None
) -> Space:
    """Prepare ``embeddings`` for ranking.

    Raises:
        InputError: unknown geometry, or ``c`` missing or given needlessly.
    """
    if geometry == "euclidean":
        if c is not None:
            raise InputError("curvature c is given but the geometry is euclidean; leave it out")
        return sphere(embeddings)
    if geometry == "hyperbolic":
        if c is None:
            raise InputError("hyperbolic geometry needs the curvature c")
        return ball(embeddings, c)
    raise InputError(f"unknown geometry '{geometry}': euclidean or hyperbolic")


def check_ks(ks: Sequence[int]) -> None:
    """Refuse an empty list of K and a K below 1."""
    if not ks or min(ks) < 1:
        raise InputError(f"the K of Recall@K must be whole numbers from 1, got {list(ks)}")


def label_codes(labels: ArrayLike | torch.Tensor, count: int) -> NDArray[np.int64]:
    """Number ``labels`` from 0."""
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu().numpy()
    flat = np.asarray(labels)
    if flat.shape != (count,):
        raise InputError(f"{count} embeddings need {count} labels, got shape {flat.shape}")
    return np.unique(flat, return_inverse=True)[1].astype(np.int64)


def hits(neighbors: Rows, codes: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Which points have their own label among their first ``k`` ``neighbors`` (N, K)."""
    return np.asarray((codes[neighbors[:, :k]] == codes[:, None]).any(axis=1))


def recall_of(neighbors: Rows, codes: NDArray[np.int64], ks: Sequence[int]) -> dict[int, float]:
    """Recall@K of rankings found before."""
    return {k: float(hits(neighbors, codes, k).mean()) for k in ks}


def chance_at_1(codes: NDArray[np.int64]) -> float:
    """Expected Recall@1 of a random ranking: mean over points of (n_label - 1) / (N - 1)."""
    sizes = np.bincount(codes)
    return float((sizes[codes] - 1).mean() / (len(codes) - 1))
