"""The ball operations with the numerics of the reference codes, for parity tests only.

Same names as in :mod:`pretrain.geometry.poincare`; what differs is stated at each function. The
rules are those of hyptorch as shipped with Hyp-ViT, HypMix and HCL: 1e-5 added to the Möbius
denominator, artanh's argument clamped to 1 - 1e-5 with the gradient passed straight through, norms
floored at 1e-5. The distance is 71 % low for near pairs at 0.999 of the radius, and never exceeds
12.2/√c. Only the rounding of c to float32 is not reproduced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pretrain.geometry import poincare
from pretrain.geometry.precision import (
    Curvature,
    as_float,
    curvature_like,
    norm,
    pairwise_euclidean,
    root,
)

EPSILON = 1e-5


class _Artanh(torch.autograd.Function):
    """Clamped forward; the backward divides by 1 - z² of the clamped z, masking nothing."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        z = z.clamp(-1 + EPSILON, 1 - EPSILON)
        ctx.save_for_backward(z)
        value: Tensor = ((1 + z).log() - (1 - z).log()) / 2
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        slope: Tensor = grad / (1 - z * z)
        return slope


def _artanh(z: Tensor) -> Tensor:
    result: Tensor = _Artanh.apply(z)  # type: ignore[no-untyped-call]
    return result


def mobius_add(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """X ⊕ y, (..., D), with 1e-5 added to the denominator."""
    x, y = as_float(x), as_float(y)
    c = curvature_like(c, x)
    x2, y2 = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    xy = (x * y).sum(-1, keepdim=True)
    numerator = (1 + 2 * c * xy + c * y2) * x + (1 - c * x2) * y
    return numerator / (1 + 2 * c * xy + c * c * x2 * y2 + EPSILON)


def distance(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """(2/√c) artanh(√c|(-x) ⊕ y|), (...)."""
    x, y = as_float(x), as_float(y)
    return _distance(norm(x - y), _open_gap(x, c), _open_gap(y, c), c)


def pairwise_distance(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """:func:`distance` of x (..., N, D) to y (..., M, D), (..., N, M), without N x M x D."""
    x, y = as_float(x), as_float(y)
    chord = pairwise_euclidean(x, y)
    return _distance(chord, _open_gap(x, c)[..., :, None], _open_gap(y, c)[..., None, :], c)


def _distance(chord: Tensor, gap_x: Tensor, gap_y: Tensor, c: Curvature) -> Tensor:
    # |(-x) ⊕ y| before the epsilon is chord/√denominator, so the numerator is chord √denominator.
    c = curvature_like(c, chord)
    denominator = gap_x * gap_y + c * chord.square()
    ratio = chord * denominator.sqrt() / (denominator + EPSILON)
    return 2 / root(c) * _artanh(root(c) * ratio)


def _open_gap(x: Tensor, c: Curvature) -> Tensor:
    return 1 - curvature_like(c, x) * x.square().sum(-1)


def distance_to_origin(x: Tensor, c: Curvature) -> Tensor:
    """(2/√c) artanh(√c|x|), (...)."""
    x = as_float(x)
    s = root(curvature_like(c, x))
    return 2 / s * _artanh(s * norm(x))


def expmap0(u: Tensor, c: Curvature) -> Tensor:
    """tanh(√c|u|) u / (√c|u|), (..., D), with |u| floored and tanh's argument at most 15."""
    u = as_float(u)
    z = root(curvature_like(c, u)) * norm(u).clamp_min(EPSILON)[..., None]
    return torch.tanh(z.clamp(-15, 15)) * u / z


def project(x: Tensor, c: Curvature) -> Tensor:
    """x, moved to norm (1 - MARGIN)/√c where it lies farther out, (..., D)."""
    x = as_float(x)
    length = norm(x).clamp_min(EPSILON)[..., None]
    limit = (1 - poincare.MARGIN) / root(curvature_like(c, x))
    return torch.where(length > limit, x / length * limit, x)


def clip_norm(u: Tensor, radius: float) -> Tensor:
    """U min(1, radius / (|u| + 1e-5)), (..., D)."""
    u = as_float(u)
    return u * (radius / (norm(u) + EPSILON)).clamp_max(1)[..., None]


def to_ball(
    u: Tensor, c: Curvature, *, clip: float | None = None, riemannian: bool = False
) -> Tensor:
    """Features to ball points, (..., D): ToPoincare of the references."""
    if clip is not None:
        u = clip_norm(u, clip)
    x = project(expmap0(u, c), c)
    return poincare.riemannian_gradient(x, c) if riemannian else x
