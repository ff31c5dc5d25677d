"""The Lorentz model (hyperboloid) of curvature -c: points X with <X, X> = -1/c and X₀ > 0.

Points are (..., D + 1), the time coordinate first. Of a point, only the D spatial coordinates
carry information: distances use those alone, so the rounding of a large time coordinate does no
harm. dtype and ``c`` as in :mod:`pretrain.geometry.poincare`. Source: Nickel and Kiela 2018
(arXiv 1806.03417), section 3; Law et al. 2019 for the mean.

Tangents U at X have <X, U> = 0 and the length √<U, U>, so ``expmap(x, u)`` lies at that distance
from X; they, too, are read from their spatial coordinates. (``expmap0`` takes the *ball's* tangents
instead, half as long.) Maps at any point, geodesics and means are computed in float64, of whose
sixteen digits points far out cost log₁₀(c x₀ y₀), and rounded at the end.
"""

from __future__ import annotations

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


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Minkowski product -x₀y₀ + <x, y>, (...)."""
    x, y = as_float(x), as_float(y)
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


def from_spatial(spatial: Tensor, c: Curvature) -> Tensor:
    """The point with these spatial coordinates (..., D), (..., D + 1)."""
    spatial = as_float(spatial)
    return torch.cat([_time(spatial, c)[..., None], spatial], dim=-1)


def from_poincare(x: Tensor, c: Curvature) -> Tensor:
    """Ball point (..., D) to hyperboloid point (..., D + 1)."""
    x = as_float(x)
    c = curvature_like(c, x)
    width = poincare.gap(x, c)[..., None]
    return torch.cat([(2 - width) / (width * root(c)), 2 * x / width], dim=-1)


def to_poincare(x: Tensor, c: Curvature) -> Tensor:
    """Hyperboloid point (..., D + 1) to ball point (..., D)."""
    x = as_float(x)
    return x[..., 1:] / (1 + root(curvature_like(c, x)) * x[..., :1])


def expmap0(u: Tensor, c: Curvature) -> Tensor:
    """End of the geodesic from the apex whose tangent is the ball's tangent u (..., D).

    Equals ``from_poincare(poincare.expmap0(u, c), c)`` but never forms 1 - c|x|², so that it is
    right far beyond the radius at which a ball point rounds onto the rim. The distance to the
    apex is 2|u|. Overflows in float32 from √c|u| about 44.
    """
    u = as_float(u)
    z = 2 * root(curvature_like(c, u)) * norm(u)
    small = z < poincare.SMALL
    safe = torch.where(small, 1.0, z)
    stretch = torch.where(small, 1 + z.square() / 6, torch.sinh(safe) / safe)
    spatial = 2 * u * stretch[..., None]
    return torch.cat([(torch.cosh(z) / root(curvature_like(c, u)))[..., None], spatial], dim=-1)


def logmap0(x: Tensor, c: Curvature) -> Tensor:
    """Inverse of :func:`expmap0`: (..., D + 1) to (..., D)."""
    spatial = as_float(x)[..., 1:]
    s = root(curvature_like(c, spatial))
    z = s * norm(spatial)
    small = z < poincare.SMALL
    safe = torch.where(small, 1.0, z)
    shrink = torch.where(small, 1 - z.square() / 6, torch.asinh(safe) / safe)
    return spatial / 2 * shrink[..., None]


def distance(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """Distance of x and y, (...), from their spatial coordinates. Zero gradient at x = y.

    The ball points spatial/(1 + √c x₀) are subtracted through the difference of the spatial
    coordinates; then as in the ball. Relative error about
    machine epsilon times √c x₀; float32 points are taken to float64 on the way, which leaves 1e-7.
    """
    x, y = as_float(x), as_float(y)
    wide_x, wide_y = x[..., 1:].double(), y[..., 1:].double()
    c = curvature_like(c, wide_x)
    s = root(c)
    time_x, time_y = _time(wide_x, c), _time(wide_y, c)
    step, total = wide_x - wide_y, wide_x + wide_y
    time_step = (step * total).sum(-1) / (time_x + time_y)
    shift_x, shift_y = time_x + 1 / s, time_y + 1 / s
    chord = norm(step * (shift_x + shift_y)[..., None] - total * time_step[..., None]) / 2
    half = s * chord / 2 / (shift_x * shift_y).sqrt()
    return (2 / s * torch.asinh(half)).to(torch.promote_types(x.dtype, y.dtype))


def pairwise_distance(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """Distances of x (..., N, D + 1) to y (..., M, D + 1), (..., N, M), from spatial coordinates.

    In float64, as ball points by differences: their gap 2/(1 + √c x₀) has no cancellation.
    """
    x, y = as_float(x), as_float(y)
    wide_x, wide_y = x[..., 1:].double(), y[..., 1:].double()
    c = curvature_like(c, wide_x)
    s = root(c)
    shift_x, shift_y = (1 + s * _time(wide, c) for wide in (wide_x, wide_y))
    chord = pairwise_euclidean(wide_x / shift_x[..., None], wide_y / shift_y[..., None])
    d = poincare.arc(chord, 2 / shift_x[..., :, None], 2 / shift_y[..., None, :], c)
    return d.to(torch.promote_types(x.dtype, y.dtype))


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
    first = (spatial * wide_x[..., 1:]).sum(-1) / _time(wide_x[..., 1:], c)
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
    time = _time(wide, c)
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


def _time(spatial: Tensor, c: Curvature) -> Tensor:
    """√(1/c + |spatial|²), (...)."""
    s = root(curvature_like(c, spatial))
    return torch.hypot(norm(spatial), 1 / s * torch.ones_like(spatial[..., 0]))
