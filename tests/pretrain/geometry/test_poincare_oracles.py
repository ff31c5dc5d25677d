"""Agreement with mpmath (50 digits) at hard points, and with geoopt in float64."""

from __future__ import annotations

import math

import geoopt
import mpmath
import pytest
import torch

from pretrain.geometry import gram, lorentz, poincare

mpmath.mp.dps = 50
C = 0.3


def hard_pairs(dtype, count=60, size=5):
    """Pairs up to 1 - 1e-7 of the radius and as close as 1e-7 of it, exactly representable."""
    generator = torch.Generator().manual_seed(7)
    radius = 1 / math.sqrt(C)
    direction = torch.randn(count, size, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=1, keepdim=True)
    gaps = 10 ** (-7 * torch.rand(count, 1, generator=generator, dtype=torch.float64))
    x = direction * (1 - gaps) * radius
    step = torch.randn(count, size, generator=generator, dtype=torch.float64)
    step -= (step * direction).sum(1, keepdim=True) * direction
    closeness = 10 ** (-7 * torch.rand(count, 1, generator=generator, dtype=torch.float64))
    y = x + step / step.norm(dim=1, keepdim=True) * closeness * radius
    y = poincare.clip_norm(y, radius * (1 - 1e-7))
    x, y = x.to(dtype), y.to(dtype)
    # Rounding to float32 may carry a point over the rim, where there is no distance.
    inside = [min(exact_gap(a), exact_gap(b)) > 2e-7 for a, b in zip(x, y, strict=True)]
    return x[inside], y[inside]


def number(value):
    return mpmath.mpf(float(value))


def exact_gap(x):
    return 1 - number(C) * mpmath.fsum(number(v) ** 2 for v in x)


def exact_distance(x, y):
    q = mpmath.fsum((number(a) - number(b)) ** 2 for a, b in zip(x, y, strict=True))
    ratio = 2 * number(C) * q / (exact_gap(x) * exact_gap(y))
    # acosh(1 + r) with 50 digits is safe down to r = 1e-14 and below.
    return mpmath.acosh(1 + ratio) / mpmath.sqrt(number(C))


def relative_errors(values, x, y):
    exact = [exact_distance(a, b) for a, b in zip(x, y, strict=True)]
    return [
        float(abs(number(d) - e) / e) for d, e in zip(values.tolist(), exact, strict=True) if e > 0
    ]


def test_float32_distances_are_right_to_the_rim():
    x, y = hard_pairs(torch.float32)
    assert len(x) > 40
    assert max(relative_errors(poincare.distance(x, y, C), x, y)) < 1e-6


def test_float64_distances_lose_only_what_the_gap_loses():
    x, y = hard_pairs(torch.float64)
    errors = relative_errors(poincare.distance(x, y, C), x, y)
    gaps = torch.minimum(poincare.gap(x, C), poincare.gap(y, C))
    assert (torch.tensor(errors) < 1e-15 + 4 * 2.3e-16 / gaps).all()
    assert max(errors) < 1e-9


def test_pairwise_forms_agree_with_mpmath():
    x, y = hard_pairs(torch.float32, count=24)
    order = [(a, b) for a in x for b in y]
    left, right = (torch.stack(side) for side in zip(*order, strict=True))
    direct = poincare.pairwise_distance(x, y, C).flatten()
    assert max(relative_errors(direct, left, right)) < 1e-6
    product = gram.pairwise_distance(x, y, C).flatten()
    assert max(relative_errors(product, left, right)) < 1e-4


def test_hyperboloid_distance_of_tangent_lifts():
    """Both lifted from tangents: right where the ball has long run out of digits."""
    generator = torch.Generator().manual_seed(2)
    u, v = torch.randn(2, 20, 3, generator=generator, dtype=torch.float64)
    u, v = (t * 8 / t.norm(dim=1, keepdim=True) / math.sqrt(C) for t in (u, v))
    d = lorentz.distance(lorentz.expmap0(u, C), lorentz.expmap0(v, C), C)
    for a, b, value in zip(u, v, d.tolist(), strict=True):
        s = mpmath.sqrt(number(C))
        rho_a = mpmath.sqrt(mpmath.fsum(number(t) ** 2 for t in a))
        rho_b = mpmath.sqrt(mpmath.fsum(number(t) ** 2 for t in b))
        dot = mpmath.fsum(number(p) * number(q) for p, q in zip(a, b, strict=True))
        cosine = dot / (rho_a * rho_b)
        w = mpmath.cosh(2 * s * rho_a) * mpmath.cosh(2 * s * rho_b)
        w -= mpmath.sinh(2 * s * rho_a) * mpmath.sinh(2 * s * rho_b) * cosine
        exact = mpmath.acosh(w) / s
        assert abs(number(value) - exact) / exact < 1e-13


@pytest.mark.parametrize("c", [0.05, 1.0])
def test_geoopt_agrees(c):
    generator = torch.Generator().manual_seed(5)
    raw = torch.randn(3, 30, 6, generator=generator, dtype=torch.float64)
    x, y = poincare.clip_norm(raw[:2], 0.9 / math.sqrt(c))
    u = raw[2] * 0.3
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))

    def same(ours, theirs):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)

    same(poincare.distance(x, y, c), ball.dist(x, y))
    same(poincare.distance_to_origin(x, c), ball.dist0(x))
    same(poincare.mobius_add(x, y, c), ball.mobius_add(x, y, project=False))
    same(poincare.expmap0(u, c), ball.expmap0(u, project=False))
    same(poincare.logmap0(x, c), ball.logmap0(x))
    same(poincare.expmap(x, u * 0.1, c), ball.expmap(x, u * 0.1, project=False))
    same(poincare.logmap(x, y, c), ball.logmap(x, y))
    same(
        poincare.geodesic(x, y, 0.3, c), ball.geodesic(torch.tensor(0.3, dtype=torch.float64), x, y)
    )
    same(poincare.conformal_factor(x, c), ball.lambda_x(x))
    points = torch.stack([x, y], dim=1)
    same(poincare.midpoint(points, c), ball.weighted_midpoint(points, reducedim=[1]))
