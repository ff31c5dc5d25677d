"""Gradients, transforms, half precision, and points where naive formulas break."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad, vmap

from pretrain.geometry import gram, klein, lorentz, poincare

C = 0.7
RADIUS = 1 / math.sqrt(C)

UNARY = {
    "gap": poincare.gap,
    "conformal_factor": poincare.conformal_factor,
    "distance_to_origin": poincare.distance_to_origin,
    "expmap0": poincare.expmap0,
    "logmap0": poincare.logmap0,
    "project": poincare.project,
    "to_ball": lambda x, c: poincare.to_ball(x, c, clip=2.3, riemannian=True),
    "from_poincare": lorentz.from_poincare,
    "lorentz_expmap0": lorentz.expmap0,
    "lorentz_logmap0": lambda x, c: lorentz.logmap0(lorentz.from_spatial(x, c), c),
    "klein": klein.from_poincare,
    "from_klein": klein.to_poincare,
}
BINARY = {
    "distance": poincare.distance,
    "mobius_add": poincare.mobius_add,
    "expmap": poincare.expmap,
    "logmap": poincare.logmap,
    "geodesic": lambda x, y, c: poincare.geodesic(x, y, 0.3, c),
    "lorentz": lambda x, y, c: lorentz.distance(
        lorentz.from_poincare(x, c), lorentz.from_poincare(y, c), c
    ),
}
PAIRWISE = {"pairwise": poincare.pairwise_distance, "gram": gram.pairwise_distance}


def inner_points(count, seed=0):
    raw = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return poincare.clip_norm(raw * 0.5, 0.9 * RADIUS)


def curvature():
    return torch.tensor(C, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", [name for name in UNARY if name != "to_ball"])
def test_gradcheck_unary(name):
    """to_ball is left out: its gradient is scaled on purpose."""
    x = inner_points(5).requires_grad_()
    assert torch.autograd.gradcheck(UNARY[name], (x, curvature()))


@pytest.mark.parametrize("name", BINARY)
def test_gradcheck_binary(name):
    x, y = inner_points(5, 1).requires_grad_(), inner_points(5, 2).requires_grad_()
    assert torch.autograd.gradcheck(BINARY[name], (x, y, curvature()))


@pytest.mark.parametrize("name", PAIRWISE)
def test_gradcheck_pairwise(name):
    x, y = inner_points(3, 1).requires_grad_(), inner_points(4, 2).requires_grad_()
    assert torch.autograd.gradcheck(PAIRWISE[name], (x, y, curvature()))


def test_gradcheck_of_a_near_pair():
    """The Gram form must switch to differences in value and in gradient."""
    x = inner_points(3)
    y = (x + 1e-4 * inner_points(3, 3)).requires_grad_()
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: gram.pairwise_distance(*a, C), (x, y), eps=1e-9)
    assert torch.autograd.gradcheck(lambda *a: poincare.distance(*a, C), (x, y), eps=1e-9)


def test_gradcheck_midpoint():
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    x = inner_points(3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w, c: poincare.midpoint(x, c, w), (x, weights, curvature())
    )


def test_riemannian_gradient_scales_by_the_inverse_metric():
    x = inner_points(6).requires_grad_()
    (plain,) = torch.autograd.grad((x**2).sum(), x)
    (scaled,) = torch.autograd.grad((poincare.riemannian_gradient(x, C) ** 2).sum(), x)
    factor = (1 - C * x.square().sum(1, keepdim=True)) ** 2 / 4
    assert torch.equal(poincare.riemannian_gradient(x, C), x)
    assert torch.allclose(scaled, plain * factor, rtol=1e-14)


@pytest.mark.parametrize("name", {**UNARY, **BINARY})
def test_vmap_and_grad_agree_with_the_batched_call(name):
    arguments = [inner_points(5, 1)] + ([inner_points(5, 2)] if name in BINARY else [])
    function = {**UNARY, **BINARY}[name]
    batched = function(*arguments, C)
    assert torch.allclose(vmap(lambda *a: function(*a, C))(*arguments), batched, rtol=1e-14)
    leaf = arguments[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf, *arguments[1:], C).sum(), leaf)
    mapped = vmap(grad(lambda *a: function(*a, C).sum()))(*arguments)
    assert torch.allclose(mapped, expected, rtol=1e-12, atol=1e-14)


def test_vmap_of_pairwise_distance():
    x, y = inner_points(6, 1).reshape(2, 3, 4), inner_points(8, 2).reshape(2, 4, 4)
    mapped = vmap(lambda a, b: poincare.pairwise_distance(a, b, C))(x, y)
    assert torch.allclose(mapped, poincare.pairwise_distance(x, y, C), rtol=1e-14)


def test_compiles_whole():
    def everything(x, y):
        ball = poincare.to_ball(x, C, clip=2.3, riemannian=True)
        return (
            poincare.distance(ball, y, C)
            + poincare.pairwise_distance(ball, y, C).sum(1)
            + poincare.logmap(ball, poincare.mobius_add(ball, y, C), C).sum(1)
            + lorentz.distance(lorentz.from_poincare(ball, C), lorentz.expmap0(y, C), C)
        )

    compiled = torch.compile(everything, backend="aot_eager", fullgraph=True)
    x, y = inner_points(5, 1).requires_grad_(), inner_points(5, 2)
    torch.testing.assert_close(compiled(x, y), everything(x, y))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x, y).sum(), x), torch.autograd.grad(everything(x, y).sum(), x)
    )


def adversarial(dtype, count=100_000, size=3):
    """Pairs: zeros, subnormals, identical, antipodal, at, near and beyond the rim."""
    generator = torch.Generator().manual_seed(11)
    direction = torch.randn(count, size, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=1, keepdim=True)
    shares = torch.tensor(
        [0, 1e-300, 1e-40, 1e-20, 1e-7, 0.1, 0.5, 0.9, 0.999, 1 - 1e-7, 1, 1 + 1e-7, 1.5, 100],
        dtype=torch.float64,
    )
    pick = torch.randint(len(shares), (2, count), generator=generator)
    x = direction * shares[pick[0], None] * RADIUS
    kind = torch.randint(5, (count,), generator=generator)
    other = torch.randn(count, size, generator=generator, dtype=torch.float64)
    other *= shares[pick[1], None] * RADIUS / other.norm(dim=1, keepdim=True)
    y = torch.where((kind == 0)[:, None], x, other)
    y = torch.where((kind == 1)[:, None], -x, y)
    nudge = 10.0 ** torch.randint(-12, -3, (count, 1), generator=generator)
    y = torch.where((kind == 2)[:, None], x + nudge * direction.flip(1), y)
    return x.to(dtype), y.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BINARY)
def test_no_nan_from_adversarial_pairs(name, dtype):
    x, y = (points.requires_grad_() for points in adversarial(dtype))
    if name in ("expmap", "geodesic", "lorentz"):  # tangents and lifts need points of the ball
        x, y = poincare.project(x, C), poincare.project(y, C)
    result = BINARY[name](x, y, C)
    assert result.isfinite().all()
    for part in torch.autograd.grad(result.sum(), (x, y)):
        assert part.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", UNARY)
def test_no_nan_from_adversarial_points(name, dtype):
    # The hyperboloid of tangents is unbounded: 100 radii would overflow float32.
    x = poincare.clip_norm(adversarial(dtype)[0], 20 * RADIUS).requires_grad_()
    result = UNARY[name](x, C)
    assert result.isfinite().all()
    (part,) = torch.autograd.grad(result.sum(), x)
    assert part.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_any_size_reach_the_ball(dtype):
    huge = torch.finfo(dtype).max
    sizes = [0.0, 5e-324, 1e-40, 1e-20, 1.0, 40.0, 1e4, 1e20, huge / 4]
    u = torch.tensor(sizes, dtype=dtype)[:, None] * torch.tensor([[0.6, -0.8]], dtype=dtype)
    if dtype == torch.float64:
        u = u[:-1]  # the square of its largest number is beyond float64
    u.requires_grad_()
    for clip in (None, 2.3):
        x = poincare.to_ball(u, C, clip=clip, riemannian=True)
        assert x.isfinite().all()
        assert (poincare.distance_to_origin(x, C).diff() >= -1e-3).all()
        (part,) = torch.autograd.grad(x.sum(), u)
        assert part.isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_geometry_in_float32(half):
    x, y = adversarial(torch.float32, count=2000)
    features = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    layer = torch.nn.Linear(8, 3)
    outside = [f(x, y, C) for f in BINARY.values()] + [gram.pairwise_distance(x[:50], y[:50], C)]
    with torch.autocast("cpu", dtype=half):
        inside = [f(x, y, C) for f in BINARY.values()] + [gram.pairwise_distance(x[:50], y[:50], C)]
        z = layer(features)
        assert z.dtype == half
        ball = poincare.to_ball(z, C, riemannian=True)
        loss = poincare.distance(ball, y[:64], C).mean()
    assert ball.dtype == loss.dtype == torch.float32
    for a, b in zip(outside, inside, strict=True):
        assert torch.equal(a, b)
    loss.backward()
    assert layer.weight.grad.isfinite().all()


def test_gradient_at_coincident_points_and_at_the_origin_is_zero():
    x = inner_points(4).requires_grad_()
    for function in (poincare.distance, BINARY["lorentz"]):
        (part,) = torch.autograd.grad(function(x, x.detach().clone(), C).sum(), x)
        assert part.abs().max() == 0
    zero = torch.zeros(2, 3, requires_grad=True)
    (part,) = torch.autograd.grad(poincare.distance_to_origin(zero, C).sum(), zero)
    assert part.abs().max() == 0
    (part,) = torch.autograd.grad(poincare.expmap0(zero, C).sum(), zero)
    assert torch.equal(part, torch.ones_like(zero))


def test_c_is_not_rounded_to_float32():
    x, y = inner_points(20, 1), inner_points(20, 2)
    exact = poincare.distance(x, y, 0.1)
    as_tensor = poincare.distance(x, y, torch.tensor(0.1, dtype=torch.float64))
    rounded = poincare.distance(x, y, torch.tensor(0.1))
    assert torch.equal(exact, as_tensor)
    assert (exact - rounded).abs().max() > 1e-11


@pytest.mark.parametrize("c", [0.0, -1.0, math.inf, math.nan])
def test_impossible_curvature_is_refused(c):
    with pytest.raises(ValueError, match="c must be positive"):
        poincare.distance(torch.zeros(2), torch.zeros(2), c)
    with pytest.raises(ValueError, match="one number"):
        poincare.distance(torch.zeros(2), torch.zeros(2), torch.ones(2))
