"""From embeddings to the numbers of a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from downstream.retrieval.embed import Embeddings, to_ball
from downstream.retrieval.neighbors import Engine, nearest
from downstream.retrieval.objects import Objects
from downstream.retrieval.recall import chance_at_1, hits, recall_of
from downstream.retrieval.spaces import Rows, Space, ball, sphere
from pretrain.core.errors import InputError
from pretrain.geometry import poincare

SPACES = ("backbone/euclidean", "head/euclidean", "head/hyperbolic")
QUANTILES = (10, 50, 90)


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: by the names of ``downstream.results.result``.
        per_category: per category its number of objects, and Recall@1 by space.
        neighbors: per space the nearest neighbors, int64 (N, K).
        singletons: objects that are alone in their category, and so always a miss.
    """

    metrics: dict[str, float]
    per_category: dict[str, dict[str, Any]]
    neighbors: dict[str, Rows]
    singletons: int


def evaluate(
    embeddings: Embeddings,
    objects: Objects,
    ks: Sequence[int],
    *,
    c: float,
    clip_radius: float | None,
    source: str,
    engine: Engine = "auto",
    least: int = 1,
) -> Evaluation:
    """Recall@K by category in every space, and distances from the center of the ball.

    Args:
        embeddings: of ``objects``.
        objects: N objects.
        ks: the K.
        c: curvature of the ball.
        clip_radius: limit on the norm of projections before they enter the ball.
        source: the checkpoint, for messages.
        engine: first stage of the search.
        least: neighbors to find even if all K are smaller.

    Raises:
        InputError: embeddings that cannot be ranked.
    """
    points = to_ball(embeddings.head, c, clip_radius)
    makers: dict[str, Callable[[], Space]] = {
        "backbone/euclidean": lambda: sphere(embeddings.backbone),
        "head/euclidean": lambda: sphere(embeddings.head),
        "head/hyperbolic": lambda: ball(points, c),
    }
    codes = objects.labels.astype(np.int64)
    metrics: dict[str, float] = {}
    neighbors: dict[str, Rows] = {}
    for name in SPACES:
        try:
            space = makers[name]()
        except InputError as error:
            raise InputError(f"{source}: {name}: {error}; these weights are of no use") from None
        neighbors[name] = nearest(space, max(*ks, least), engine=engine)
        for k, value in recall_of(neighbors[name], codes, ks).items():
            metrics[f"recall/{name}@{k}"] = value
    metrics["recall/chance@1"] = chance_at_1(codes)
    metrics |= _norms(points, to_ball(embeddings.scenes, c, clip_radius), c)
    sizes = np.bincount(codes, minlength=len(objects.categories))
    correct = {name: hits(rows, codes, 1) for name, rows in neighbors.items()}
    per_category = {
        objects.categories[label]: {
            "objects": int(sizes[label]),
            **{name: float(right[codes == label].mean()) for name, right in correct.items()},
        }
        for label in np.flatnonzero(sizes)
    }
    return Evaluation(metrics, per_category, neighbors, int((sizes == 1).sum()))


def _norms(objects: Tensor, scenes: Tensor, c: float) -> dict[str, float]:
    """Distances from the center: mean and quantiles of objects, mean of scenes if there are any.

    ``norm/object/rim`` is the share of objects that the projection holds at the rim: among
    themselves these rank as by cosine.
    """
    distances = poincare.distance_to_origin(objects, c).numpy()
    limit = (1 - poincare.MARGIN) / c**0.5
    at_rim = (objects.norm(dim=1) >= limit * (1 - 1e-12)).double()
    norms = {"norm/object": float(distances.mean()), "norm/object/rim": float(at_rim.mean())}
    for percent in QUANTILES:
        norms[f"norm/object/q{percent}"] = float(np.percentile(distances, percent))
    if len(scenes):
        norms["norm/scene"] = float(poincare.distance_to_origin(scenes, c).mean())
    return norms
