"""What any hyperbolic space must satisfy, for points drawn by hypothesis."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.geometry import klein, lorentz, poincare

DTYPES = (torch.float32, torch.float64)
curvatures = st.sampled_from((0.01, 0.05, 0.1, 1.0, 4.0))
dtypes = st.sampled_from(DTYPES)
coordinates = st.floats(-1, 1, width=32)
few = settings(max_examples=60, deadline=None)


@st.composite
def points(draw, count, farthest=0.95):
    """``count`` ball points of one dimension, c and dtype; norms up to ``farthest`` radii."""
    c, dtype = draw(curvatures), draw(dtypes)
    size = draw(st.integers(1, 6))
    found = []
    for _ in range(count):
        raw = torch.tensor(draw(st.lists(coordinates, min_size=size, max_size=size)), dtype=dtype)
        share = draw(st.floats(0, farthest))
        length = raw.norm()
        found.append(raw / length * share / math.sqrt(c) if length > 1e-3 else raw * 0)
    return c, found


def close(a, b, c, dtype, factor=1.0):
    """Distances in units of 1/√c agree to a multiple of machine epsilon."""
    tolerance = 400 * factor * torch.finfo(dtype).eps
    return torch.allclose(a * math.sqrt(c), b * math.sqrt(c), rtol=tolerance, atol=tolerance)


@few
@given(points(3))
def test_metric_axioms(drawn):
    c, (x, y, z) = drawn
    d = poincare.distance
    assert d(x, x, c) == 0
    assert d(x, y, c) == d(y, x, c) >= 0
    if (x - y).abs().max() > 1e-6:
        assert d(x, y, c) > 0
    detour = d(x, y, c) + d(y, z, c)
    assert d(x, z, c) <= detour * (1 + 100 * torch.finfo(x.dtype).eps)


@few
@given(points(3))
def test_translations_and_rotations_are_isometries(drawn):
    c, (x, y, z) = drawn
    before = poincare.distance(x, y, c)
    moved = [poincare.mobius_add(z, point, c) for point in (x, y)]
    # A translated point may come to lie close to the rim, where its rounding weighs 1/gap.
    weight = 1 / min(poincare.gap(point, c).item() for point in (x, y, *moved))
    assert close(poincare.distance(*moved, c), before, c, x.dtype, weight)
    rotation = torch.linalg.qr(
        torch.randn(len(x), len(x), dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    ).Q
    assert close(poincare.distance(rotation @ x, rotation @ y, c), before, c, x.dtype, weight)


@few
@given(points(2))
def test_mobius_add_cancels_and_has_a_neutral_element(drawn):
    c, (x, y) = drawn
    eps = torch.finfo(x.dtype).eps
    assert torch.allclose(poincare.mobius_add(torch.zeros_like(x), x, c), x, rtol=8 * eps)
    assert torch.equal(poincare.mobius_add(-x, x, c), torch.zeros_like(x))
    back = poincare.mobius_add(-x, poincare.mobius_add(x, y, c), c)
    weight = 1 / poincare.gap(poincare.mobius_add(x, y, c), c).item()
    radius = 1 / math.sqrt(c)
    assert (back - y).abs().max() <= 400 * weight * eps * radius


@few
@given(points(2, farthest=0.9))
def test_exponential_and_logarithm_invert_each_other(drawn):
    c, (x, y) = drawn
    dtype, s = x.dtype, math.sqrt(c)
    assert close(poincare.expmap0(poincare.logmap0(y, c), c), y, c, dtype)
    there = poincare.expmap(x, poincare.logmap(x, y, c), c)
    assert torch.allclose(there * s, y * s, atol=4000 * torch.finfo(dtype).eps)
    tangent = poincare.logmap(x, y, c)
    length = tangent.norm() * poincare.conformal_factor(x, c)
    assert close(length, poincare.distance(x, y, c), c, dtype, 10)


@few
@given(points(1, farthest=0.9))
def test_distance_to_origin_is_twice_the_tangent_norm(drawn):
    c, (u,) = drawn
    d = poincare.distance_to_origin(poincare.expmap0(u, c), c)
    assert close(d, 2 * u.norm(), c, u.dtype)


@few
@given(points(2, farthest=0.9), st.floats(0, 1))
def test_geodesic_divides_in_proportion(drawn, t):
    c, (x, y) = drawn
    middle = poincare.geodesic(x, y, t, c)
    total = poincare.distance(x, y, c)
    assert close(poincare.distance(x, middle, c), t * total, c, x.dtype, 20)
    assert close(poincare.distance(middle, y, c), (1 - t) * total, c, x.dtype, 20)


@few
@given(points(2, farthest=0.9))
def test_midpoint_of_two_is_the_middle_of_the_geodesic(drawn):
    c, (x, y) = drawn
    middle = poincare.midpoint(torch.stack([x, y]), c)
    expected = poincare.geodesic(x, y, 0.5, c)
    assert torch.allclose(
        middle * math.sqrt(c), expected * math.sqrt(c), atol=4000 * torch.finfo(x.dtype).eps
    )


def test_midpoint_weighs_points():
    x = torch.tensor([[0.3, 0.1], [-0.2, 0.5]], dtype=torch.float64)
    doubled = poincare.midpoint(x[[0, 0, 1]], 1.0)
    weighted = poincare.midpoint(x, 1.0, torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert torch.allclose(doubled, weighted, rtol=1e-14)
    assert torch.allclose(poincare.midpoint(x, 1.0, torch.tensor([1.0, 0.0])), x[0], rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_curvature_is_euclidean(dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 50, 4, generator=generator, dtype=dtype)
    c = 1e-10
    eps = 20 * torch.finfo(dtype).eps + 1e-8
    assert torch.allclose(poincare.distance(x, y, c), 2 * (x - y).norm(dim=1), rtol=eps)
    assert torch.allclose(poincare.mobius_add(x, y, c), x + y, rtol=eps, atol=eps)
    assert torch.allclose(poincare.expmap0(x, c), x, rtol=eps)
    assert torch.allclose(poincare.logmap(x, y, c), y - x, rtol=eps, atol=eps)


@few
@given(points(2))
def test_models_agree(drawn):
    c, (x, y) = drawn
    dtype, s = x.dtype, math.sqrt(c)
    lifted = [lorentz.from_poincare(point, c) for point in (x, y)]
    weight = 1 / min(poincare.gap(point, c).item() for point in (x, y))
    assert close(lorentz.distance(*lifted, c), poincare.distance(x, y, c), c, dtype, weight)
    assert close(lorentz.to_poincare(lifted[0], c), x, c, dtype)
    norm = lorentz.inner(lifted[0], lifted[0]) * c
    assert abs(norm.item() + 1) <= 50 * torch.finfo(dtype).eps * (lifted[0][0].item() * s) ** 2
    assert close(klein.to_poincare(klein.from_poincare(x, c), c), x, c, dtype, weight)


@few
@given(points(1, farthest=3.0))
def test_hyperboloid_from_tangent(drawn):
    """Far beyond the radius at which ball points round onto the rim."""
    c, (u,) = drawn
    x = lorentz.expmap0(u, c)
    assert torch.allclose(lorentz.logmap0(x, c), u, rtol=100 * torch.finfo(u.dtype).eps)
    apex = lorentz.expmap0(torch.zeros_like(u), c)
    d = lorentz.distance(apex, x, c)
    assert torch.allclose(d, 2 * u.norm(), rtol=100 * torch.finfo(u.dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_project_and_clip_keep_inner_points(dtype):
    x = torch.randn(200, 5, dtype=dtype, generator=torch.Generator().manual_seed(1))
    clipped = poincare.clip_norm(x, 2.0)
    inside = x.norm(dim=1) <= 2.0
    assert torch.equal(clipped[inside], x[inside])
    limit = 2.0 * (1 + 4 * torch.finfo(dtype).eps)
    assert clipped.norm(dim=1).max() <= limit
    projected = poincare.project(x, 1.0)
    assert projected.norm(dim=1).max() <= 0.999 * (1 + 4 * torch.finfo(dtype).eps)
