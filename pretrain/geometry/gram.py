"""All-pairs distances from one matrix product, right for near pairs too."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.geometry import poincare
from pretrain.geometry.precision import Curvature, as_float, exact_matmul

NEAR = 2.0**-8
"""Pairs with |x-y|² below this share of |x|² + |y|² are recomputed from differences.

The Gram matrix leaves an error of about machine epsilon times |x|² + |y|² in |x-y|²; at this bound
the distance has a relative error of 3e-5 (float32). Points of equal norm meet it within 5 degrees
of each other.
"""


def pairwise_distance(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """Distances of ball points x (N, D) to y (M, D), (N, M): one matrix product and an epilogue.

    Rows and columns that meet in a near pair are recomputed by differences, so the relative error
    stays at 3e-5 in float32 (1e-13 in float64) however close the points are. How many
    these are depends on the data: on a GPU this waits for the device, and it cannot be compiled
    whole.
    """
    x, y = as_float(x), as_float(y)
    chord = _chord(x, y)
    return poincare.arc(chord, poincare.gap(x, c)[:, None], poincare.gap(y, c), c)


def _chord(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|, (N, M)."""
    scale = _square(x)[:, None] + _square(y)
    squared = scale - 2 * exact_matmul(x, y)
    near = squared.detach() < NEAR * scale.detach()
    # Clamped before the root, whose infinite slope at 0 would turn masked gradients into NaN.
    chord: Tensor = squared.clamp_min(torch.finfo(x.dtype).tiny).sqrt()
    rows, columns = near.any(1).nonzero(), near.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return chord
    exact = torch.cdist(x[rows[:, 0]], y[columns], compute_mode="donot_use_mm_for_euclid_dist")
    return chord.index_put((rows, columns), exact)


def _square(x: Tensor) -> Tensor:
    square: Tensor = x.double().square().sum(-1)
    return square.to(x.dtype)
