"""All-pairs distances from one matrix product, right for near pairs too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pretrain.geometry import lorentz, poincare
from pretrain.geometry.precision import Curvature, as_float, exact_matmul, pairwise_euclidean

NEAR = 2.0**-7
"""Pairs with |x-y|² up to this share of |x|² are recomputed from differences.

The Gram matrix leaves an error of about machine epsilon times |x|² + |y|² in |x-y|²; at this bound
the distance has a relative error of 3e-5 (float32). Points of equal norm meet it within 5 degrees
of each other; points with |x-y| > |x| never do, however long y is.
"""

LORENTZ_NEAR = 2.0**-12
"""Pairs are near when cosh(√c d) - 1 is below this share of c·x₀y₀, from which it cancels."""


def pairwise_distance(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """Distances of ball points x (N, D) to y (M, D), (N, M): one matrix product and an epilogue.

    Rows and columns that meet in a near pair are recomputed by differences, so the relative error
    stays at 3e-5 in float32 (1e-13 in float64) however close the points are. How many
    these are depends on the data: on a GPU this waits for the device, and it cannot be compiled
    whole.
    """
    x, y = as_float(x), as_float(y)
    chord = pairwise_chord(x, y)
    return poincare.arc(chord, poincare.gap(x, c)[:, None], poincare.gap(y, c), c)


def pairwise_lorentz_distance(x: Tensor, y: Tensor, c: float) -> Tensor:
    """Distances of hyperboloid points x (N, D + 1) to y (M, D + 1), (N, M), likewise.

    cosh(√c d) - 1 = c(x₀y₀ - <x, y>) - 1 where that keeps 12 bits, else by differences.
    """
    x, y = as_float(x), as_float(y)
    spatial_x, spatial_y = x[:, 1:], y[:, 1:]
    terms = c * (1 / c + _square(spatial_x)).sqrt()[:, None] * (1 / c + _square(spatial_y)).sqrt()
    u = (terms - c * exact_matmul(spatial_x, spatial_y)) - 1
    near = u.detach() < LORENTZ_NEAR * terms.detach()
    u = u.clamp_min(torch.finfo(x.dtype).tiny)
    d = 2 * math.sqrt(1 / c) * torch.asinh((u / 2).sqrt())
    rows, columns = near.any(1).nonzero(), near.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return d
    return d.index_put((rows, columns), lorentz.pairwise_distance(x[rows[:, 0]], y[columns], c))


def pairwise_chord(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances |x_i - y_j| of x (N, D) to y (M, D), (N, M), likewise."""
    x, y = as_float(x), as_float(y)
    square = _square(x)[:, None]
    squared = square + _square(y) - 2 * exact_matmul(x, y)
    near = squared.detach() <= NEAR * square.detach()
    # Clamped before the root, whose infinite slope at 0 would turn masked gradients into NaN.
    chord: Tensor = squared.clamp_min(torch.finfo(x.dtype).tiny).sqrt()
    rows, columns = near.any(1).nonzero(), near.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return chord
    exact = pairwise_euclidean(x[rows[:, 0]], y[columns])
    return chord.index_put((rows, columns), exact)


def _square(x: Tensor) -> Tensor:
    square: Tensor = x.double().square().sum(-1)
    return square.to(x.dtype)
