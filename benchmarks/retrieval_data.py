"""Points for benchmarks/retrieval.py; c = 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike


def directions(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    points = rng.standard_normal((count, dim))
    return points / np.linalg.norm(points, axis=1)[:, None]


def spread(rng: np.random.Generator, count: int, dim: int, low: float, high: float) -> np.ndarray:
    """Random directions, uniform norms."""
    return directions(rng, count, dim) * rng.uniform(low, high, (count, 1))


def clusters(
    rng: np.random.Generator,
    count: int,
    dim: int,
    size: int,
    scatter: float,
    *,
    dtype: DTypeLike = np.float64,
) -> np.ndarray:
    """Unit vectors around random centers, ``scatter`` from them."""
    centers = directions(rng, -(-count // size), dim).astype(dtype)
    points = np.repeat(centers, size, axis=0)[:count]
    for start in range(0, count, 4096):  # a part at a time: the peak of memory is measured
        block = points[start : start + 4096]
        block += scatter / dim**0.5 * rng.standard_normal(block.shape)
        block /= np.linalg.norm(block, axis=1)[:, None]
    return points


def hard(rng: np.random.Generator, count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Everything that makes ranking hard: embeddings and points of the ball, shuffled.

    Mixed radii to 0.999, clusters that float32 and ones that hardly float64 tells apart,
    near-duplicates 1e-9 to 1e-4 away and exact duplicates. The embeddings are the same directions,
    a little off.
    """
    tenth = count // 10
    parts = [
        spread(rng, 4 * tenth, dim, 0.05, 0.999),
        clusters(rng, tenth, dim, 20, 0.3) * rng.uniform(0.3, 0.999, (tenth, 1)),
        clusters(rng, tenth, dim, 20, 0.03) * rng.uniform(0.3, 0.999, (tenth, 1)),
        clusters(rng, tenth, dim, 20, 0.01) * 0.999,
        clusters(rng, tenth, dim, 50, 1e-6) * 0.999,
    ]
    points = np.concatenate(parts)
    embeddings = points + 0.01 * rng.standard_normal(points.shape) / dim**0.5
    near, same = rng.integers(0, len(points), tenth), rng.integers(0, len(points), tenth)
    apart = 10 ** rng.uniform(-9, -4, (tenth, 1))
    moved = points[near] + apart * directions(rng, tenth, dim)
    moved /= np.maximum(np.linalg.norm(moved, axis=1)[:, None] / 0.999, 1)
    turned = embeddings[near] + apart * directions(rng, tenth, dim)
    order = rng.permutation(len(points) + 2 * tenth)
    return (
        np.concatenate([embeddings, turned, embeddings[same]])[order],
        np.concatenate([points, moved, points[same]])[order],
    )
