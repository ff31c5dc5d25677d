"""The exact numbers, in float64 and float32, values and gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.geometry import gram, lorentz, poincare

GOLDEN = np.load(Path(__file__).parents[2] / "golden/poincare_ops.npz")
CURVATURES = (0.05, 0.1, 1.0)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
both = pytest.mark.parametrize("dtype", TOLERANCE)
every_c = pytest.mark.parametrize("c", CURVATURES)


def given(c, name, dtype):
    return torch.from_numpy(GOLDEN[f"c{c}_{name}"]).to(dtype)


def error(got, c, name):
    """Largest error relative to the largest entry; undefined entries (NaN) are left out."""
    exact = torch.from_numpy(np.asarray(GOLDEN[f"c{c}_exact_{name}"]))
    known = ~exact.isnan()
    return ((got.detach().double() - exact)[known].abs().max() / exact[known].abs().max()).item()


@both
@every_c
def test_distance_and_its_gradient(c, dtype):
    x = given(c, "pair_x", dtype).requires_grad_()
    y = given(c, "pair_y", dtype).requires_grad_()
    d = poincare.distance(x, y, c)
    grad_x, grad_y = torch.autograd.grad(d.sum(), (x, y))
    for got, name in ((d, "dist"), (grad_x, "dist_grad_x"), (grad_y, "dist_grad_y")):
        assert got.dtype == dtype
        assert error(got, c, name) < TOLERANCE[dtype]
    same = torch.from_numpy(np.char.startswith(GOLDEN[f"c{c}_pair_tag"], "identical"))
    assert d[same].abs().max() == 0
    assert grad_x[same].abs().max() == 0


@both
@every_c
def test_every_single_distance_is_right(c, dtype):
    """Also the pairs 1e-6 rad apart at 0.9999 of the radius, each by its own size."""
    d = poincare.distance(given(c, "pair_x", dtype), given(c, "pair_y", dtype), c)
    exact = torch.from_numpy(GOLDEN[f"c{c}_exact_dist"])
    relative = ((d - exact).abs() / exact)[exact > 0]
    assert relative.max() < {torch.float64: 1e-12, torch.float32: 5e-7}[dtype]


@both
@every_c
def test_distance_to_origin(c, dtype):
    x = given(c, "pair_x", dtype).requires_grad_()
    d = poincare.distance_to_origin(x, c)
    (grad,) = torch.autograd.grad(d.sum(), x)
    assert error(d, c, "dist0") < TOLERANCE[dtype]
    assert error(grad, c, "dist0_grad_x") < TOLERANCE[dtype]


@both
@every_c
def test_mobius_add(c, dtype):
    x, y = given(c, "pair_x", dtype), given(c, "pair_y", dtype)
    assert error(poincare.mobius_add(x, y, c), c, "mobius_add") < TOLERANCE[dtype]
    assert error(poincare.mobius_add(-x, y, c), c, "mobius_add_negx") < TOLERANCE[dtype]


@both
@every_c
@pytest.mark.parametrize(
    ("name", "function", "argument", "cotangent"),
    [
        ("expmap0", poincare.expmap0, "u", "cot_u"),
        ("project", poincare.project, "p", "cot_p"),
        ("topoincare_clip2.3", lambda u, c: poincare.to_ball(u, c, clip=2.3), "u", "cot_u"),
    ],
)
def test_maps_and_their_vjp(c, dtype, name, function, argument, cotangent):
    x = given(c, argument, dtype).requires_grad_()
    result = function(x, c)
    (vjp,) = torch.autograd.grad(result, x, given(c, cotangent, dtype))
    assert error(result, c, name) < TOLERANCE[dtype]
    assert error(vjp, c, f"{name}_vjp") < TOLERANCE[dtype]


@both
@every_c
def test_to_ball_without_clipping(c, dtype):
    result = poincare.to_ball(given(c, "u", dtype), c)
    assert error(result, c, "topoincare_noclip") < TOLERANCE[dtype]


@every_c
def test_project_moves_only_points_beyond_the_margin(c):
    points = given(c, "p", torch.float64)
    moved = (poincare.project(points, c) != points).any(1)
    assert torch.equal(moved, torch.from_numpy(GOLDEN[f"c{c}_exact_project_hit"]))


@both
@every_c
@pytest.mark.parametrize("pairwise", [poincare.pairwise_distance, gram.pairwise_distance])
def test_distance_matrix(c, dtype, pairwise):
    d = pairwise(given(c, "mat_x", dtype), given(c, "mat_y", dtype), c)
    assert error(d, c, "dist_matrix") < TOLERANCE[dtype]


@every_c
def test_distance_on_the_hyperboloid(c):
    """Through a conversion, which costs 1/gap in accuracy: worst at 0.9999 of the radius."""
    x, y = given(c, "pair_x", torch.float64), given(c, "pair_y", torch.float64)
    d = lorentz.distance(lorentz.from_poincare(x, c), lorentz.from_poincare(y, c), c)
    assert error(d, c, "dist") < 1e-12
