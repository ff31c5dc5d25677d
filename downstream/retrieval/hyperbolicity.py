"""δ-hyperbolicity: how far a metric is from that of a tree.

Two relative values are in circulation, one twice the other: Khrulkov et al. (2020, arXiv
1904.02239) and Hyp-ViT take ``2δ/diameter`` and choose ``c = (0.144/δ_rel)²``; the library of
Hyp-ViT also has ``δ/diameter``. Here ``relative`` is the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pretrain.core.errors import InputError

DISK = 0.144
"""2δ/diameter of the Poincaré disk at c = 1, as estimated by Khrulkov et al."""

Distances = Callable[[Tensor], Tensor]

# Rows and columns of one tile: what it compares fits the cache, which is 15 times faster.
_TILE = 8


class Delta(NamedTuple):
    """Hyperbolicity of one set of points.

    Attributes:
        delta: Gromov's δ at the base point, at most twice smaller than over all base points.
        diameter: largest distance.
        relative: 2δ/diameter, from 0, a tree, to 1.
        curvature: the c that belongs to it, (0.144/relative)²; infinite for a tree.
    """

    delta: float
    diameter: float
    relative: float
    curvature: float


def delta_hyperbolicity(distances: ArrayLike | Tensor, base: int = 0) -> Delta:
    """δ of a finite metric by the four-point condition with one base point.

    With Gromov products A = (x|y)_base, δ is the largest entry of (A ⊗ A) - A, where ⊗ is the
    product of matrices with max and min for sum and product. Computed in float64, in tiles.

    Args:
        distances: (N, N), symmetric.
        base: row of the base point.

    Raises:
        InputError: not such a matrix, or all points are one.
    """
    if not isinstance(distances, Tensor):
        distances = torch.from_numpy(np.array(distances, dtype=np.float64))
    d = distances.double()
    if d.ndim != 2 or d.shape[0] != d.shape[1] or not torch.isfinite(d).all():
        raise InputError(f"distances must be a finite (N, N) matrix, got {tuple(d.shape)}")
    diameter = float(d.max())
    if diameter <= 0:
        raise InputError("all points coincide: there is no hyperbolicity to measure")
    product = (d[base][:, None] + d[base][None] - d) / 2
    largest = 0.0
    for start in range(0, len(d), _TILE):
        rows = product[start : start + _TILE]
        # The product is symmetric, and so is its square: half of the tiles tell all.
        for left in range(0, start + _TILE, _TILE):
            columns = product[left : left + _TILE]
            square = torch.minimum(rows[:, None], columns[None]).amax(-1)
            largest = max(largest, float((square - rows[:, left : left + _TILE]).max()))
    relative = 2 * largest / diameter
    curvature = (DISK / relative) ** 2 if relative > 0 else float("inf")
    return Delta(largest, diameter, relative, curvature)


def subset_deltas(
    points: Tensor, distances: Distances, *, samples: int, times: int, seed: int
) -> list[Delta]:
    """δ of random subsets of points (N, D) in a metric, computed in float64.

    Args:
        points: of the space.
        distances: float64 (n, D) to (n, n).
        samples: points of a subset, without replacement; all where there are fewer.
        times: number of subsets; one where all are taken.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    taken = min(samples, len(points))
    found = []
    for _ in range(times if taken < len(points) else 1):
        rows = torch.from_numpy(rng.choice(len(points), taken, replace=False))
        found.append(delta_hyperbolicity(distances(points[rows].double())))
    return found


def sampled_delta(
    features: Tensor, *, samples: int = 2000, times: int = 100, seed: int = 0
) -> Delta:
    """Mean over random subsets of features (N, D), in Euclidean distance, as Hyp-ViT measures.

    Args:
        features: encoder features, not normalized.
        samples: of a subset, without replacement; all where there are fewer.
        times: number of subsets; one where all are taken.
        seed: of the choice.
    """
    found = subset_deltas(
        features, lambda p: torch.cdist(p, p), samples=samples, times=times, seed=seed
    )
    return mean_delta(found)


def mean_delta(found: Sequence[Delta]) -> Delta:
    """Means of δ, diameter and relative value; the curvature is that of the mean relative value."""
    delta, diameter, relative = (
        float(np.mean(column)) for column in [*zip(*found, strict=True)][:3]
    )
    return Delta(delta, diameter, relative, (DISK / relative) ** 2 if relative else float("inf"))
