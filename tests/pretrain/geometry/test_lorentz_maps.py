"""Maps at any point of the hyperboloid: inverse to each other, and the ball's own in disguise."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch.func import vmap

from pretrain.geometry import lorentz, poincare

CURVATURES = (0.05, 1.0, 4.0)


def points(count, c, reach=1.5, seed=0, dtype=torch.float64):
    """Hyperboloid points at about 2·reach/√c from the apex."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(count, 5, generator=generator, dtype=torch.float64) * reach / math.sqrt(5 * c)
    return lorentz.expmap0(u, c).to(dtype)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_maps_invert_each_other(c, dtype):
    """The way back loses the digits that rounding the tangent's coordinates costs: eps c x₀ y₀."""
    x, y = points(200, c, seed=1, dtype=dtype), points(200, c, seed=2, dtype=dtype)
    epsilon = torch.finfo(dtype).eps
    u = lorentz.logmap(x, y, c)
    assert u.dtype == dtype
    d = lorentz.distance(x, y, c)
    torch.testing.assert_close(lorentz.tangent_norm(x, u, c), d, rtol=20 * epsilon, atol=0)
    left = lorentz.distance(lorentz.expmap(x, u, c), y, c) * math.sqrt(c)
    assert (left <= 1000 * epsilon * c * x[:, 0] * y[:, 0]).all()


@pytest.mark.parametrize("c", CURVATURES)
def test_same_points_as_in_the_ball(c):
    x, y = points(50, c, seed=1), points(50, c, seed=2)
    a, b = lorentz.to_poincare(x, c), lorentz.to_poincare(y, c)
    torch.testing.assert_close(
        lorentz.to_poincare(lorentz.geodesic(x, y, 0.3, c), c),
        poincare.geodesic(a, b, 0.3, c), rtol=1e-9, atol=1e-10,
    )  # fmt: skip
    weights = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        lorentz.to_poincare(lorentz.midpoint(x, c, weights), c),
        poincare.midpoint(a, c, weights), rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    torch.testing.assert_close(
        lorentz.distance_to_origin(x, c), poincare.distance_to_origin(a, c), rtol=1e-9, atol=0
    )


def test_tangents_are_tangent_and_the_apex_agrees_with_expmap0():
    x, y = points(50, 0.3, seed=1), points(50, 0.3, seed=2)
    u = lorentz.logmap(x, y, 0.3)
    assert (lorentz.inner(x, u).abs() <= 1e-12 * x[:, 0] * u.norm(dim=1)).all()
    apex = lorentz.expmap0(torch.zeros(50, 5, dtype=torch.float64), 0.3)
    tangent = lorentz.logmap(apex, y, 0.3)
    torch.testing.assert_close(tangent[:, 1:] / 2, lorentz.logmap0(y, 0.3))
    assert torch.equal(tangent[:, 0], torch.zeros(50, dtype=torch.float64))


@pytest.mark.parametrize("step", [1e-3, 1e-7])
def test_near_points_far_out_agree_with_mpmath(step):
    """At √c x₀ = 2e3, where y - <x, y>x in plain arithmetic would have few digits left."""
    mpmath.mp.dps = 60
    x = lorentz.expmap0(torch.tensor([[3.1, 2.7, -0.4]], dtype=torch.float64), 1.0)
    move = torch.tensor([[0.0, 0.3, -0.1, 0.8]], dtype=torch.float64) * step
    y = lorentz.expmap(x, move, 1.0)
    got = lorentz.logmap(x, y, 1.0)[0, 1:]

    def lift(point):
        spatial = [mpmath.mpf(float(v)) for v in point[0, 1:]]
        return [mpmath.sqrt(1 + mpmath.fsum(v * v for v in spatial)), *spatial]

    exact_x, exact_y = lift(x), lift(y)
    product = mpmath.fsum(a * b for a, b in zip(exact_x[1:], exact_y[1:], strict=True))
    cosh = exact_x[0] * exact_y[0] - product
    d = mpmath.acosh(cosh)
    exact = [
        (b - cosh * a) * d / mpmath.sinh(d) for a, b in zip(exact_x[1:], exact_y[1:], strict=True)
    ]
    exact = torch.tensor([float(v) for v in exact], dtype=torch.float64)
    assert (got - exact).norm() <= 1e-8 / step * 1e-4 * exact.norm()


def test_gradients():
    x, y = points(4, 0.7, seed=1), points(4, 0.7, seed=2)
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    spatial = [point[:, 1:].clone().requires_grad_() for point in (x, y)]

    def through(function):
        def run(a, b, c):
            return function(lorentz.from_spatial(a, c), lorentz.from_spatial(b, c), c)

        return torch.autograd.gradcheck(run, (*spatial, c))

    assert through(lorentz.logmap)
    assert through(lambda a, b, c: lorentz.geodesic(a, b, 0.3, c))
    assert through(lambda a, b, c: lorentz.midpoint(torch.stack([a, b], 1), c))


def test_finite_where_naive_formulas_break():
    apex = torch.tensor([[1.0, 0.0, 0.0]])
    far = lorentz.expmap0(torch.tensor([[4.0, 0.0]]), 1.0)
    for x, y in ((apex, apex), (far, far), (apex, far), (far, apex), (far, far * -1 + 2 * apex)):
        leaf = x.clone().requires_grad_()
        result = lorentz.geodesic(leaf, lorentz.from_spatial(y[:, 1:], 1.0), 0.5, 1.0)
        (grad,) = torch.autograd.grad(result.sum(), leaf)
        assert result.isfinite().all()
        assert grad.isfinite().all()


def test_vmap_and_half_precision():
    x, y = points(6, 0.7, seed=1), points(6, 0.7, seed=2)
    mapped = vmap(lambda a, b: lorentz.logmap(a, b, 0.7))(x, y)
    torch.testing.assert_close(mapped, lorentz.logmap(x, y, 0.7), rtol=1e-13, atol=1e-13)
    assert lorentz.expmap(x.half(), y.half() * 0, 0.7).dtype == torch.float32
