"""Exponential and logarithmic map at any point of the hyperboloid, geodesics and means.

Points (..., D + 1) as in :mod:`pretrain.geometry.lorentz`. Tangents U at X have <X, U> = 0 and the
length √<U, U>, so ``expmap(x, u)`` lies at that distance from X. (``lorentz.expmap0`` takes the
*ball's* tangents instead, half as long.) Tangents, too, are read from their spatial coordinates.
Everything is computed in float64, of whose sixteen digits points far out cost log₁₀(c x₀ y₀), and
rounded at the end. Source: Nickel and Kiela 2018 (arXiv 1806.03417), section 3; Law et al. 2019
for the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.geometry import poincare
from pretrain.geometry.lorentz import distance, from_spatial
from pretrain.geometry.precision import Curvature, as_float, curvature_like, norm, root


def distance_to_origin(x: Tensor, c: Curvature) -> Tensor:
    """Distance of x to the apex, (...): asinh(√c|spatial|)/√c."""
    spatial = as_float(x)[..., 1:]
    s = root(curvature_like(c, spatial))
    return torch.asinh(s * norm(spatial)) / s


def tangent_norm(x: Tensor, u: Tensor, c: Curvature) -> Tensor:
    """√<U, U> of a tangent at x, (...), without the cancellation of |spatial|² against U₀².

    The part of U along x is foreshortened by √c x₀, the rest counts in full.
    """
    x, u = as_float(x), as_float(u)
    along, across = _split(x[..., 1:].double(), u[..., 1:].double())
    point = x[..., 1:].double()
    s = root(curvature_like(c, point))
    time = torch.hypot(s * norm(point), torch.ones_like(along))
    value = norm(torch.cat([across, (along / time)[..., None]], dim=-1))
    return value.to(torch.promote_types(x.dtype, u.dtype))


def expmap(x: Tensor, u: Tensor, c: Curvature) -> Tensor:
    """End of the geodesic from x with tangent u, (..., D + 1).

    cosh(√c|U|) X + sinh(√c|U|)/(√c|U|) U; the time coordinate is put back onto the hyperboloid.
    """
    x, u = as_float(x), as_float(u)
    wide, tangent = x.double(), u[..., 1:].double()
    z = root(curvature_like(c, wide)) * tangent_norm(wide, u.double(), c)
    small = z < poincare.SMALL
    safe = torch.where(small, 1.0, z)
    stretch = torch.where(small, 1 + z.square() / 6, torch.sinh(safe) / safe)
    spatial = torch.cosh(z)[..., None] * wide[..., 1:] + stretch[..., None] * tangent
    return from_spatial(spatial, c).to(torch.promote_types(x.dtype, u.dtype))


def logmap(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """Tangent at x of the geodesic that ends in y, (..., D + 1): the inverse of :func:`expmap`.

    With W = Y - X and z = √c d: (W - 2 sinh²(z/2) X) z/sinh(z), so that near points come from
    their difference.
    """
    x, y = as_float(x), as_float(y)
    wide_x, wide_y = x.double(), y.double()
    z = root(curvature_like(c, wide_x)) * distance(wide_x, wide_y, c)
    small = z < poincare.SMALL
    safe = torch.where(small, 1.0, z)
    shrink = torch.where(small, 1 - z.square() / 6, safe / torch.sinh(safe))
    excess = 2 * torch.sinh(z / 2).square()
    step = wide_y[..., 1:] - wide_x[..., 1:] - excess[..., None] * wide_x[..., 1:]
    spatial = step * shrink[..., None]
    time = torch.hypot(norm(wide_x[..., 1:]), 1 / root(curvature_like(c, z)) * torch.ones_like(z))
    first = (spatial * wide_x[..., 1:]).sum(-1) / time
    tangent = torch.cat([first[..., None], spatial], dim=-1)
    return tangent.to(torch.promote_types(x.dtype, y.dtype))


def geodesic(x: Tensor, y: Tensor, t: float | Tensor, c: Curvature) -> Tensor:
    """The point that divides the geodesic from x (t = 0) to y (t = 1), (..., D + 1)."""
    return expmap(x, t * logmap(x, y, c), c)


def midpoint(x: Tensor, c: Curvature, weights: Tensor | None = None) -> Tensor:
    """Centroid of x (..., n, D + 1) with positive weights (..., n), (..., D + 1).

    Σ w X brought back onto the hyperboloid; the same point as ``poincare.midpoint``.
    """
    x = as_float(x)
    wide = x[..., 1:].double()
    c = curvature_like(c, wide)
    time = torch.hypot(norm(wide), 1 / root(c) * torch.ones_like(wide[..., 0]))
    if weights is not None:
        wide, time = wide * weights[..., None], time * weights
    total = wide.sum(-2)
    length = norm(total)
    minkowski = (time.sum(-1) - length) * (time.sum(-1) + length)
    return from_spatial(total / (c * minkowski).sqrt()[..., None], c).to(x.dtype)


def _split(point: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Length of the part along the point, (...), and the part across, (..., D)."""
    length = norm(point)
    direction = point / torch.where(length == 0, 1.0, length)[..., None]
    along = (tangent * direction).sum(-1)
    return along, tangent - along[..., None] * direction
