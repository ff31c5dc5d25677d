"""The Poincaré ball of curvature -c: points x with c|x|² < 1.

Shapes are (..., D) and broadcast; results are float32, or float64 where inputs are (half
precision is taken as float32). ``c`` is a positive number or one-element tensor; gradients flow
to the tensor. Every function is finite, with finite gradients, at coincident points, at the
origin, and at or beyond the rim, where the gap 1 - c|x|² is held at machine epsilon.

The formulas are those of Ganea et al. 2018 (arXiv 1805.09112), section 2, rearranged so that
nothing cancels: differences of points are formed first, and the gap is summed in float64.
Errors are measured in docs/hyperbolic.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pretrain.geometry.precision import (
    Curvature,
    as_float,
    curvature_like,
    norm,
    pairwise_euclidean,
    root,
)

MARGIN = 1e-3
"""Relative distance to the rim that :func:`project` keeps."""

SMALL = 1e-4
"""Below it two terms of a series are exact in float64."""


def gap(x: Tensor, c: Curvature) -> Tensor:
    """1 - c|x|², (...): the gap to the rim, at least machine epsilon.

    Correct to the last bit of float32 for float32 points, because the sum is float64: in float32
    it would be wrong by 1e-7 / gap.
    """
    x = as_float(x)
    wide = x.double()
    value = 1 - curvature_like(c, wide) * wide.square().sum(-1)
    return value.clamp_min(torch.finfo(x.dtype).eps).to(x.dtype)


def conformal_factor(x: Tensor, c: Curvature) -> Tensor:
    """2 / (1 - c|x|²), (...): the length of a small Euclidean step at x."""
    return 2 / gap(x, c)


def arc(chord: Tensor, gap_x: Tensor, gap_y: Tensor | float, c: Curvature) -> Tensor:
    """Distance of two points from their Euclidean distance and their gaps.

    d = (2/√c) asinh(√c·chord / √(gap_x·gap_y)): no cancellation for near pairs, none at the rim.
    """
    s = root(curvature_like(c, chord))
    return 2 / s * torch.asinh(s * chord / (gap_x * gap_y).sqrt())


def distance(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """Distance of x and y, (...). Its gradient at x = y is zero."""
    x, y = as_float(x), as_float(y)
    return arc(norm(x - y), gap(x, c), gap(y, c), c)


def pairwise_distance(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """Distances of x (..., N, D) to y (..., M, D), (..., N, M).

    Summed from differences, so near pairs are right, but without an N x M x D tensor.
    """
    x, y = as_float(x), as_float(y)
    chord = pairwise_euclidean(x, y)
    return arc(chord, gap(x, c)[..., :, None], gap(y, c)[..., None, :], c)


def distance_to_origin(x: Tensor, c: Curvature) -> Tensor:
    """Distance of x and 0, (...): (2/√c) artanh(√c|x|) without its cancellation at the rim."""
    x = as_float(x)
    return arc(norm(x), gap(x, c), 1.0, c)


def mobius_add(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """The sum x ⊕ y, (..., D): where y goes under the translation that carries 0 to x.

    With z = x + y the textbook quotient is (gap_x z + c|z|² x) / (gap_x gap_y + c|z|²), which has
    positive terms only. The result may round onto the rim: :func:`project` it if that matters.
    """
    x, y = as_float(x), as_float(y)
    z = x + y
    c = curvature_like(c, z)
    gap_x = gap(x, c)[..., None]
    stretch = c * z.square().sum(-1, keepdim=True)
    return (gap_x * z + stretch * x) / (gap_x * gap(y, c)[..., None] + stretch)


def expmap0(u: Tensor, c: Curvature) -> Tensor:
    """Ball point at the end of the geodesic from 0 with tangent u, (..., D).

    tanh(√c|u|) u / (√c|u|); its distance to the origin is 2|u|, since the metric at 0 is 4 times
    the Euclidean one. From √c|u| about 9 (float32) or 19 (float64) the point rounds onto the rim.
    """
    u = as_float(u)
    return u * _tanhc(root(curvature_like(c, u)) * norm(u))[..., None]


def logmap0(x: Tensor, c: Curvature) -> Tensor:
    """Tangent at 0 of the geodesic that ends in x, (..., D): the inverse of :func:`expmap0`."""
    x = as_float(x)
    s = root(curvature_like(c, x))
    return x * _artanhc(s * norm(x), s / 2 * distance_to_origin(x, c))[..., None]


def expmap(x: Tensor, u: Tensor, c: Curvature) -> Tensor:
    """Ball point at the end of the geodesic from x with tangent u, (..., D)."""
    x, u = as_float(x), as_float(u)
    return mobius_add(x, expmap0(u / gap(x, c)[..., None], c), c)


def logmap(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """Tangent at x of the geodesic that ends in y, (..., D): the inverse of :func:`expmap`."""
    x, y = as_float(x), as_float(y)
    s = root(curvature_like(c, x))
    toward = mobius_add(-x, y, c)
    stretch = _artanhc(s * norm(toward), s / 2 * distance(x, y, c))
    return toward * (gap(x, c) * stretch)[..., None]


def geodesic(x: Tensor, y: Tensor, t: float | Tensor, c: Curvature) -> Tensor:
    """The point that divides the geodesic from x (t = 0) to y (t = 1), (..., D)."""
    return expmap(x, t * logmap(x, y, c), c)


def midpoint(x: Tensor, c: Curvature, weights: Tensor | None = None) -> Tensor:
    """Gyromidpoint of x (..., n, D) with positive weights (..., n), (..., D).

    The centroid on the hyperboloid; for two points with equal weights, the middle of the geodesic.
    Source: Ungar 2010, Barycentric Calculus, chapter 4.
    """
    x = as_float(x)
    c = curvature_like(c, x)
    mass = 1 / gap(x, c)
    if weights is not None:
        mass = mass * weights
    # 2 / gap - 1 = cosh: the weight of a point's Klein coordinate.
    energy = mass * (2 - gap(x, c))
    klein = 2 * (mass[..., None] * x).sum(-2) / energy.sum(-1)[..., None]
    return klein / (1 + gap(klein, c).sqrt())[..., None]


def project(x: Tensor, c: Curvature, margin: float = MARGIN) -> Tensor:
    """x, moved radially to norm (1 - margin)/√c where it lies farther out, (..., D)."""
    x = as_float(x)
    return clip_norm(x, (1 - margin) / root(curvature_like(c, x)))


def clip_norm(u: Tensor, radius: float | Tensor) -> Tensor:
    """u, shortened to norm ``radius`` where it is longer, (..., D).

    Feature clipping of Guo et al. 2022 (arXiv 2107.11472), without their epsilon.
    """
    u = as_float(u)
    length = norm(u)
    limit = torch.as_tensor(radius, dtype=u.dtype, device=u.device)
    return u * (limit / torch.maximum(length, limit))[..., None]


def to_ball(
    u: Tensor,
    c: Curvature,
    *,
    clip: float | None = None,
    riemannian: bool = False,
) -> Tensor:
    """Features to ball points, (..., D): clip, exponential map at 0, projection, gradient scaling.

    Args:
        u: features, read as tangent vectors at the origin.
        c: curvature.
        clip: norm to which features are clipped first; None leaves them.
        riemannian: scale the gradient by :func:`riemannian_gradient`.
    """
    if clip is not None:
        u = clip_norm(u, clip)
    x = project(expmap0(u, c), c)
    return riemannian_gradient(x, c) if riemannian else x


class _RiemannianGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return grad * scale, None


def riemannian_gradient(x: Tensor, c: Curvature) -> Tensor:
    """Identity, (..., D); its gradient becomes the Riemannian one: (1 - c|x|²)²/4 times.

    What the HCL reference calls RSGD: a scaling of the gradient, not an optimizer. No gradient
    reaches c through the scale.
    """
    x = as_float(x)
    scale = gap(x.detach(), c.detach() if isinstance(c, Tensor) else c).square() / 4
    scaled: Tensor = _RiemannianGradient.apply(x, scale[..., None])  # type: ignore[no-untyped-call]
    return scaled


def _tanhc(z: Tensor) -> Tensor:
    """tanh(z)/z for z >= 0; the series where the quotient's gradient would overflow."""
    small = z < SMALL
    safe = torch.where(small, 1.0, z)
    return torch.where(small, 1 - z.square() / 3, torch.tanh(safe) / safe)


def _artanhc(z: Tensor, artanh: Tensor) -> Tensor:
    """artanh(z)/z for z >= 0, given artanh(z)."""
    small = z < SMALL
    safe = torch.where(small, 1.0, z)
    return torch.where(small, 1 + z.square() / 3, artanh / safe)
