"""The Klein model of curvature -c: the ball in which geodesics are straight chords.

Points k with c|k|² < 1, shapes (..., D); dtype and ``c`` as in :mod:`pretrain.geometry.poincare`.
"""

from __future__ import annotations

from torch import Tensor

from pretrain.geometry import poincare
from pretrain.geometry.precision import Curvature, as_float


def from_poincare(x: Tensor, c: Curvature) -> Tensor:
    """2x / (1 + c|x|²), (..., D). Near the rim the gap shrinks to its square: accuracy is lost."""
    x = as_float(x)
    return 2 * x / (2 - poincare.gap(x, c))[..., None]


def to_poincare(k: Tensor, c: Curvature) -> Tensor:
    """The inverse of :func:`from_poincare`: k / (1 + √(1 - c|k|²)), (..., D)."""
    k = as_float(k)
    return k / (1 + poincare.gap(k, c).sqrt())[..., None]
